//! Regular expressions as Envoy's RE2 reads them; equal texts share one program.
//!
//! In:  expressions from resources.
//! Out: compiled ones. A program takes about 13 KiB, and a mesh says the same few things in thousands of routes.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;
use regex::bytes::{Regex, RegexBuilder};

/// The largest program, in bytes.
const MAX_PROGRAM: usize = 1 << 20;

/// The programs in use, by their texts.
static IN_USE: LazyLock<Mutex<InUse>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct InUse {
    programs: HashMap<Box<str>, Weak<Regex>>,
    /// How many to have before those that nobody uses any more are dropped.
    sweep_at: usize,
}

impl InUse {
    fn get(&self, expression: &str) -> Option<Arc<Regex>> {
        self.programs.get(expression)?.upgrade()
    }

    fn insert(&mut self, expression: &str, program: &Arc<Regex>) {
        if self.programs.len() >= self.sweep_at {
            self.programs.retain(|_, program| program.strong_count() > 0);
            self.sweep_at = (self.programs.len() * 2).max(64);
        }
        self.programs.insert(expression.into(), Arc::downgrade(program));
    }
}

/// An expression that the whole text must match. Classes are ASCII unless one of Unicode's (`\p{Greek}`) is named.
///
/// # Errors
/// When it is no regular expression or grows beyond 1 MiB when compiled.
pub fn anchored(expression: &str) -> Result<Arc<Regex>, regex::Error> {
    unanchored(&format!("^(?:{expression})$"))
}

/// As [`anchored`], for an expression that may match anywhere.
///
/// # Errors
/// As of [`anchored`].
pub fn unanchored(expression: &str) -> Result<Arc<Regex>, regex::Error> {
    if let Some(program) = IN_USE.lock().get(expression) {
        return Ok(program);
    }
    let build = |unicode| RegexBuilder::new(expression).unicode(unicode).dot_matches_new_line(false).size_limit(MAX_PROGRAM).build();
    let named = expression.contains("\\p") || expression.contains("\\P");
    let program = Arc::new(build(false).or_else(|error| if named { build(true) } else { Err(error) })?);
    IN_USE.lock().insert(expression, &program);
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_expressions_are_one_program_while_somebody_uses_it() {
        let (one, other) = (anchored("/shared/[0-9]+").unwrap(), anchored("/shared/[0-9]+").unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        assert!(!Arc::ptr_eq(&one, &unanchored("/shared/[0-9]+").unwrap()), "anchored ones are others");
        drop((one, other));
        assert!(IN_USE.lock().get("^(?:/shared/[0-9]+)$").is_none(), "nobody keeps what nobody uses");
    }

    #[test]
    fn programs_that_nobody_uses_are_forgotten() {
        let mut in_use = InUse::default();
        let kept = Arc::new(Regex::new("a").unwrap());
        in_use.insert("kept", &kept);
        for number in 0..1_000 {
            in_use.insert(&number.to_string(), &Arc::new(Regex::clone(&kept)));
        }
        assert!(in_use.programs.len() <= 128, "{}", in_use.programs.len());
        assert!(in_use.get("kept").is_some());
    }

    #[test]
    fn matching_expressions_cover_the_whole_text() {
        let regex = anchored(r"/a/\d+|/b").unwrap();
        let cases = [("/a/12", true), ("/a/12/x", false), ("/b", true), ("/bb", false), ("x/b", false)];
        for (text, want) in cases {
            assert_eq!(regex.is_match(text.as_bytes()), want, "{text}");
        }
        for refused in ["(", "a{1000}{1000}", r"(a)\1", "(?=a)"] {
            assert!(anchored(refused).is_err(), "{refused}");
        }
        assert!(anchored(r"\p{Greek}+").unwrap().is_match("αβ".as_bytes()));
        assert!(!anchored(r"\d").unwrap().is_match("٣".as_bytes()));
        // Linear whatever the expression.
        assert!(!anchored("(a+)+b").unwrap().is_match(&[b'a'; 50_000]));
    }
}
