//! The one form of a path that rules look at and the application gets.
//!
//! In:  a path without its query; what the manager asks for.
//! Out: another path, where it was not in that form already.
//!
//! Source: Envoy `ConnectionManagerUtility::maybeNormalizePath` and `PathUtil`: escaped slashes first, then segments, then repeated slashes.

use std::borrow::Cow;

use crate::config::listener::{EscapedSlashes, PathForm};

/// A path that has no normal form, or that is not wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPath;

/// The path in the form that is asked for. `Ok(None)`: it is already.
///
/// # Errors
/// When it holds NUL, or an escaped slash where those are refused.
pub fn normal(path: &str, form: PathForm) -> Result<Option<String>, NoPath> {
    let mut bytes = Cow::Borrowed(path.as_bytes());
    if form.escaped_slashes != EscapedSlashes::Keep
        && let Some(unescaped) = unescape_slashes(&bytes)
    {
        if form.escaped_slashes == EscapedSlashes::Refuse {
            return Err(NoPath);
        }
        bytes = Cow::Owned(unescaped);
    }
    if form.normalize
        && let Some(resolved) = resolve(&bytes)?
    {
        bytes = Cow::Owned(resolved);
    }
    if form.merge_slashes
        && let Some(merged) = merge_slashes(&bytes)
    {
        bytes = Cow::Owned(merged);
    }
    match bytes {
        Cow::Borrowed(_) => Ok(None),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| NoPath),
    }
}

/// `%2F` and `%5C` as what they stand for. `None`: there is none.
fn unescape_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let escaped = |text: &[u8]| match text {
        [b'%', b'2', b'f' | b'F', ..] => Some(b'/'),
        [b'%', b'5', b'c' | b'C', ..] => Some(b'\\'),
        _ => None,
    };
    path.windows(3).find_map(escaped)?;
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        let slash = escaped(rest);
        out.push(slash.unwrap_or(*byte));
        rest = if slash.is_some() { &rest[3..] } else { after };
    }
    Some(out)
}

/// No segment is empty but the last. Source: Envoy `PathTransformer::mergeSlashes`, which makes `//` of a path of slashes alone.
fn merge_slashes(path: &[u8]) -> Option<Vec<u8>> {
    path.windows(2).find(|pair| pair == b"//")?;
    let mut out = Vec::with_capacity(path.len());
    for segment in path.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty()) {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    if path.ends_with(b"/") {
        out.push(b'/');
    }
    Some(out)
}

/// `.` and `..` resolved, `\` as `/`, unreserved characters decoded. What climbs above the root ends there, and a `%` that begins no escape
/// stays. Source: Envoy `normalize_path`.
fn resolve(path: &[u8]) -> Result<Option<Vec<u8>>, NoPath> {
    let suspect = path.windows(2).any(|pair| pair == b"/.") || path.iter().any(|byte| matches!(byte, b'\\' | b'%') || is_escaped(*byte));
    if !suspect {
        return Ok(None);
    }
    let decoded = decode_unreserved(path)?;
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut pieces = decoded.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none();
        match piece {
            b"." | b".." => {
                if piece == b".." {
                    segments.pop();
                }
                if last {
                    segments.push(b"");
                }
            }
            piece => segments.push(piece),
        }
    }
    let mut out = Vec::with_capacity(decoded.len());
    for segment in segments {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    Ok(Some(out))
}

/// The byte that two hexadecimal digits at the beginning stand for.
fn escaped(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Characters that are written as escapes.
fn is_escaped(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// `\` as `/`, unreserved characters instead of their escapes, escapes instead of characters that have no place in a path.
fn decode_unreserved(bytes: &[u8]) -> Result<Vec<u8>, NoPath> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    // The last `%` that began no escape.
    let mut loose = None;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\\' => out.push(b'/'),
            b'%' => match escaped(rest) {
                None => {
                    loose = Some(out.len());
                    out.push(b'%');
                }
                Some(0) => return Err(NoPath),
                Some(value) if is_unreserved(value) => {
                    out.push(value);
                    rest = &rest[2..];
                    if let Some(percent) = loose {
                        escape_loose_percent(&mut out, percent, rest.first().copied());
                    }
                }
                Some(_) => {
                    out.push(b'%');
                    out.extend_from_slice(&rest[..2]);
                    rest = &rest[2..];
                }
            },
            byte if is_escaped(*byte) => out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]),
            byte => out.push(*byte),
        }
    }
    Ok(out)
}

/// A `%` that began no escape must not begin one by what was decoded after it (`%%34%31`): it becomes `%25`. What is decoded once must not
/// mean something else decoded twice. Source: Chromium's `CheckForNestedEscapes`, by which Envoy goes.
fn escape_loose_percent(out: &mut Vec<u8>, percent: usize, next: Option<u8>) {
    let begins = match (out.get(percent + 1..), next) {
        (Some([one]), Some(next)) => escaped(&[*one, next]).is_some(),
        (Some([one, two]), _) => escaped(&[*one, *two]).is_some(),
        _ => false,
    };
    if begins {
        out.splice(percent + 1..percent + 1, *b"25");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: PathForm = PathForm::AS_IT_IS;
    const BASE: PathForm = PathForm { normalize: true, ..NONE };
    const MERGE: PathForm = PathForm { merge_slashes: true, ..BASE };
    const DECODE: PathForm = PathForm { escaped_slashes: EscapedSlashes::Unescape, ..MERGE };

    #[test]
    fn paths_get_the_form_that_is_asked_for() {
        let same = |path: &'static str| [Ok(path); 4];
        let cases: &[(&str, [Result<&str, NoPath>; 4])] = &[
            ("/a/b", same("/a/b")),
            ("*", same("*")),
            ("/", same("/")),
            ("/a/./b/../c", [Ok("/a/./b/../c"), Ok("/a/c"), Ok("/a/c"), Ok("/a/c")]),
            ("/a/..", [Ok("/a/.."), Ok("/"), Ok("/"), Ok("/")]),
            ("/..", [Ok("/.."), Ok("/"), Ok("/"), Ok("/")]),
            ("/a/.hidden", same("/a/.hidden")),
            ("/a/...", same("/a/...")),
            ("/%2e%2E/x", [Ok("/%2e%2E/x"), Ok("/x"), Ok("/x"), Ok("/x")]),
            ("/a%2e.", [Ok("/a%2e."), Ok("/a.."), Ok("/a.."), Ok("/a..")]),
            ("/%41%7e", [Ok("/%41%7e"), Ok("/A~"), Ok("/A~"), Ok("/A~")]),
            ("/a\\b", [Ok("/a\\b"), Ok("/a/b"), Ok("/a/b"), Ok("/a/b")]),
            ("/a\\\\b", [Ok("/a\\\\b"), Ok("/a//b"), Ok("/a/b"), Ok("/a/b")]),
            ("/a//b", [Ok("/a//b"), Ok("/a//b"), Ok("/a/b"), Ok("/a/b")]),
            ("/a///b//", [Ok("/a///b//"), Ok("/a///b//"), Ok("/a/b/"), Ok("/a/b/")]),
            ("//a", [Ok("//a"), Ok("//a"), Ok("/a"), Ok("/a")]),
            ("//", same("//")),
            ("/%2f", [Ok("/%2f"), Ok("/%2f"), Ok("/%2f"), Ok("//")]),
            ("///", [Ok("///"), Ok("///"), Ok("//"), Ok("//")]),
            // Segments are resolved before slashes are merged: the empty one counts.
            ("/a//../b", [Ok("/a//../b"), Ok("/a/b"), Ok("/a/b"), Ok("/a/b")]),
            ("/a/b/../../../c//d", [Ok("/a/b/../../../c//d"), Ok("/c//d"), Ok("/c/d"), Ok("/c/d")]),
            ("/a%2fb", [Ok("/a%2fb"), Ok("/a%2fb"), Ok("/a%2fb"), Ok("/a/b")]),
            ("/a%2F%2fb", [Ok("/a%2F%2fb"), Ok("/a%2F%2fb"), Ok("/a%2F%2fb"), Ok("/a/b")]),
            ("/a%5cb", [Ok("/a%5cb"), Ok("/a%5cb"), Ok("/a%5cb"), Ok("/a/b")]),
            ("/a%5Cb%5C", [Ok("/a%5Cb%5C"), Ok("/a%5Cb%5C"), Ok("/a%5Cb%5C"), Ok("/a/b/")]),
            ("/a/..%2fb", [Ok("/a/..%2fb"), Ok("/a/..%2fb"), Ok("/a/..%2fb"), Ok("/b")]),
            ("/a/%2e%2e%2Fb", [Ok("/a/%2e%2e%2Fb"), Ok("/a/..%2Fb"), Ok("/a/..%2Fb"), Ok("/b")]),
            ("/a%2f/b", [Ok("/a%2f/b"), Ok("/a%2f/b"), Ok("/a%2f/b"), Ok("/a/b")]),
            // Once, not twice.
            ("/a%252fb", same("/a%252fb")),
            ("/a%255cb", same("/a%255cb")),
            ("/a%2", same("/a%2")),
            ("/a%", same("/a%")),
            ("/a%zz/../b", [Ok("/a%zz/../b"), Ok("/b"), Ok("/b"), Ok("/b")]),
            ("/a%+f", same("/a%+f")),
            // A loose `%` stays one.
            ("/%%41", [Ok("/%%41"), Ok("/%A"), Ok("/%A"), Ok("/%A")]),
            ("/%%341", [Ok("/%%341"), Ok("/%2541"), Ok("/%2541"), Ok("/%2541")]),
            ("/%%34%31", [Ok("/%%34%31"), Ok("/%2541"), Ok("/%2541"), Ok("/%2541")]),
            ("/%2%66%41", [Ok("/%2%66%41"), Ok("/%252fA"), Ok("/%252fA"), Ok("/%252fA")]),
            ("/a{\"}^|b", [Ok("/a{\"}^|b"), Ok("/a%7B%22%7D%5E%7Cb"), Ok("/a%7B%22%7D%5E%7Cb"), Ok("/a%7B%22%7D%5E%7Cb")]),
            ("/a%00", [Ok("/a%00"), Err(NoPath), Err(NoPath), Err(NoPath)]),
            ("/%2f%2e%2e%00", [Ok("/%2f%2e%2e%00"), Err(NoPath), Err(NoPath), Err(NoPath)]),
        ];
        for (path, wanted) in cases {
            for (form, want) in [NONE, BASE, MERGE, DECODE].into_iter().zip(wanted) {
                let got = normal(path, form);
                // A path that stays is not made anew.
                assert_eq!(got.as_ref().map(|made| made.as_deref().unwrap_or(path)), want.as_ref().copied(), "{path} {form:?}");
            }
        }
        assert_eq!((normal("/a/b", DECODE), normal("/a//b", NONE)), (Ok(None), Ok(None)));
    }

    #[test]
    fn steps_are_independent() {
        let cases = [
            (PathForm { merge_slashes: true, ..NONE }, "/a/..//b", Ok(Some("/a/../b"))),
            (PathForm { escaped_slashes: EscapedSlashes::Unescape, ..NONE }, "/a%5c..%2f/b", Ok(Some("/a\\..//b"))),
            (PathForm { escaped_slashes: EscapedSlashes::Refuse, ..NONE }, "/a%5cb", Err(NoPath)),
            (PathForm { escaped_slashes: EscapedSlashes::Refuse, ..NONE }, "/a%255cb", Ok(None)),
        ];
        for (form, path, want) in cases {
            assert_eq!(normal(path, form).as_ref().map(Option::as_deref), want.as_ref().copied(), "{path} {form:?}");
        }
    }
}
