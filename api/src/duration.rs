//! Durations as Istio writes them: `1h30m`, `2s`, `1.5s`, `250ms`.
//!
//! In:  the text of a duration. Out: a [`Duration`], or what is wrong with the text.
//!
//! Source: Istio reads `google.protobuf.Duration` fields of YAML with Go's `time.ParseDuration`.

use std::time::Duration;

/// Reads a Go-style duration. Negative ones are refused: no field takes them.
pub fn parse(text: &str) -> Result<Duration, &'static str> {
    let body = text.strip_prefix('+').unwrap_or(text);
    if body == "0" {
        return Ok(Duration::ZERO);
    }
    if body.is_empty() {
        return Err("it is empty");
    }
    if body.starts_with('-') {
        return Err("it is negative");
    }
    let mut total = Duration::ZERO;
    let mut rest = body;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        total = total.checked_add(piece(number, unit)?).ok_or("it is too long")?;
        rest = tail;
    }
    Ok(total)
}

fn piece(number: &str, unit: &str) -> Result<Duration, &'static str> {
    let nanoseconds: u64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err("its unit is missing"),
        "d" => return Err("days are not a unit; use hours"),
        _ => return Err("its unit is none of h, m, s, ms, us, ns"),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err("its number is not a number");
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| "it is too long")? };
    let mut nanos = u128::from(whole) * u128::from(nanoseconds);
    // Fifteen digits reach far below the nanosecond of the largest unit.
    let fraction = &fraction[..fraction.len().min(15)];
    if !fraction.is_empty() {
        let numerator: u128 = fraction.parse().map_err(|_| "its number is not a number")?;
        nanos += u128::from(nanoseconds) * numerator / 10_u128.pow(fraction.len() as u32);
    }
    // Go's limit, about 292 years.
    if nanos > i64::MAX as u128 {
        return Err("it is too long");
    }
    Ok(Duration::from_nanos(nanos as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        let cases = [
            ("2s", 2_000_000_000),
            ("1.5s", 1_500_000_000),
            ("1h30m", 5_400_000_000_000),
            ("250ms", 250_000_000),
            ("0", 0),
            ("0s", 0),
            ("0.001s", 1_000_000),
            (".5s", 500_000_000),
            ("1us", 1_000),
            ("1µs", 1_000),
            ("1.25m", 75_000_000_000),
            ("0.333333333s", 333_333_333),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text), Ok(Duration::from_nanos(want)), "{text}");
        }
        for text in ["", "5", "-1s", "1d", "s", "1.2.3s", "1 s", "abc", "99999999999999h", "1.s.", "ms1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
