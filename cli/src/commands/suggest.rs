//! Names that people mistype.
//!
//! In:  a name that is not there, and those that are.
//! Out: the one that was probably meant; a list for an error message.

/// Names that an error lists; the rest is counted.
const LISTED: usize = 20;

/// The closest name, when it is close.
pub fn closest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    let best = known.iter().min_by_key(|other| distance(other))?;
    (distance(best) <= 1 + name.len() / 4).then_some(best.as_str())
}

/// `there is no workload x; did you mean y?`, and all of them below.
pub fn unknown(what: &str, name: &str, known: &[String]) -> String {
    let mut text = format!("there is no {what} {name}");
    if let Some(meant) = closest(name, known) {
        text += &format!("; did you mean {meant}?");
    }
    if known.is_empty() {
        return text + ", nor any other";
    }
    text += &format!("\n\nThere is: {}", known[..known.len().min(LISTED)].join(", "));
    if known.len() > LISTED {
        text += &format!(", and {} more", known.len() - LISTED);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_said_when_it_is_clear() {
        let known = ["default/product-v1", "default/visitor"].map(str::to_owned);
        let text = unknown("workload", "default/vistor", &known);
        assert_eq!(
            text,
            "there is no workload default/vistor; did you mean default/visitor?\n\nThere is: default/product-v1, default/visitor"
        );
        assert_eq!(closest("x", &known), None);
        assert_eq!(unknown("workload", "x", &[]), "there is no workload x, nor any other");
        let many: Vec<String> = (0..25).map(|n| format!("w{n}")).collect();
        assert!(unknown("workload", "?", &many).ends_with("w19, and 5 more"));
    }
}
