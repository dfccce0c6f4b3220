//! Values as bytes of a line. Whatever came from outside is escaped, so that no value can end a line or a quotation.
//!
//! In:  numbers, addresses, text of strangers.
//! Out: bytes appended to a line.

use std::io::Write as _;

/// Writes digits at the end of the buffer and says how many.
pub(super) fn decimal(mut value: u64, digits: &mut [u8; 20]) -> usize {
    let mut place = digits.len();
    loop {
        place -= 1;
        digits[place] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return digits.len() - place;
        }
    }
}

pub(super) fn print_number(value: u64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let length = decimal(value, &mut digits);
    out.extend_from_slice(&digits[20 - length..]);
}

pub(super) fn print_display(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{value}");
}

/// Control characters, quotes and backslashes leave as `\xNN`, `\"`, `\\`: a value can end neither its line nor its quotation.
pub(super) fn escape_text(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x20..=0x7e | 0x80.. => out.push(byte),
            _ => out.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}

/// The inside of a JSON string; bytes that are not UTF-8 become U+FFFD.
pub(super) fn escape_json(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                character if character < ' ' || character == '\x7f' => print_display(format_args!("\\u{:04x}", character as u32), out),
                character => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_break_out_of_their_line() {
        let mut out = Vec::new();
        escape_text(b"a\r\n\x1b[0m\t\x7f", &mut out);
        assert_eq!(out, br"a\x0d\x0a\x1b[0m\x09\x7f");
        out.clear();
        escape_json(b"\x01\n\"\xff\x7f", &mut out);
        assert_eq!(out, "\\u0001\\n\\\"\u{fffd}\\u007f".as_bytes());
    }
}
