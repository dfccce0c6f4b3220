//! Prometheus text as tests read it.
//!
//! In:  the text of a scrape.
//! Out: sums over the series that carry given labels.

/// The sum of all series of `name` that carry every one of `labels`.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| wanted.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[test]
fn sums_the_series_that_carry_the_labels() {
    let text = "# HELP a b\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab{x=\"1\"} 5\na{x=\"2\"} 6\n";
    let cases: &[(&[(&str, &str)], f64)] = &[(&[("x", "1")], 7.0), (&[("x", "1"), ("y", "3")], 4.0), (&[], 13.0), (&[("x", "9")], 0.0)];
    for (labels, want) in cases {
        assert_eq!(sum(text, "a", labels), *want, "{labels:?}");
    }
}
