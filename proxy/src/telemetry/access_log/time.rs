//! Times in the access log: `%START_TIME(...)%`.
//!
//! In:  a `strftime` format with `%f`, once; wall-clock times, per line.
//! Out: digits, UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use super::escape::decimal;
use super::format::FormatError;

/// A piece of a time format. Source: Envoy's `START_TIME`, `strftime` with `%f`.
#[derive(Debug)]
pub(super) enum TimePart {
    Literal(Box<str>),
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    MonthName,
    Weekday,
    DayOfYear,
    EpochSeconds,
    /// This many digits after the second.
    Fraction(usize),
}

pub(super) fn parse_time(source: &str, format: &str) -> Result<Vec<TimePart>, FormatError> {
    let unknown =
        |argument: &str| FormatError::Argument { operator: source.to_owned(), argument: argument.to_owned(), wanted: "a time conversion" };
    let format = format.replace("%T", "%H:%M:%S").replace("%F", "%Y-%m-%d").replace("%D", "%m/%d/%y");
    let mut parts = Vec::new();
    let mut rest = format.as_str();
    while let Some(at) = rest.find('%') {
        if at > 0 {
            parts.push(TimePart::Literal(rest[..at].into()));
        }
        let directive = &rest[at + 1..];
        let digits = directive.bytes().take_while(u8::is_ascii_digit).count();
        let letter = directive[digits..].chars().next().ok_or_else(|| unknown("%"))?;
        let part = match (letter, &directive[..digits]) {
            ('f', "") => TimePart::Fraction(9),
            ('f', width) => TimePart::Fraction(width.parse().ok().filter(|width| (1..=9).contains(width)).ok_or_else(|| unknown(width))?),
            ('Y', "") => TimePart::Year,
            ('m', "") => TimePart::Month,
            ('d', "") => TimePart::Day,
            ('H', "") => TimePart::Hour,
            ('M', "") => TimePart::Minute,
            ('S', "") => TimePart::Second,
            ('b', "") => TimePart::MonthName,
            ('a', "") => TimePart::Weekday,
            ('j', "") => TimePart::DayOfYear,
            ('s', "") => TimePart::EpochSeconds,
            ('z', "") => TimePart::Literal("+0000".into()),
            ('Z', "") => TimePart::Literal("UTC".into()),
            ('%', "") => TimePart::Literal("%".into()),
            _ => return Err(unknown(&format!("%{}{letter}", &directive[..digits]))),
        };
        parts.push(part);
        rest = &directive[digits + letter.len_utf8()..];
    }
    if !rest.is_empty() {
        parts.push(TimePart::Literal(rest.into()));
    }
    Ok(parts)
}

pub(super) fn render_time(format: &[TimePart], time: SystemTime) -> smallvec::SmallVec<[u8; 40]> {
    let mut out = smallvec::SmallVec::new();
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let date = Date::of(since.as_secs());
    for part in format {
        let (value, width) = match part {
            TimePart::Literal(text) => {
                out.extend_from_slice(text.as_bytes());
                continue;
            }
            TimePart::MonthName => {
                let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
                out.extend_from_slice(names.get(date.month as usize - 1).unwrap_or(&"Jan").as_bytes());
                continue;
            }
            TimePart::Weekday => {
                let names = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
                out.extend_from_slice(names[(since.as_secs() / 86_400 % 7) as usize].as_bytes());
                continue;
            }
            TimePart::Year => (date.year, 4),
            TimePart::Month => (date.month, 2),
            TimePart::Day => (date.day, 2),
            TimePart::Hour => (since.as_secs() / 3600 % 24, 2),
            TimePart::Minute => (since.as_secs() / 60 % 60, 2),
            TimePart::Second => (since.as_secs() % 60, 2),
            TimePart::DayOfYear => (date.day_of_year, 3),
            TimePart::EpochSeconds => (since.as_secs(), 1),
            TimePart::Fraction(width) => {
                let drop = u32::try_from(9 - width.min(&9)).unwrap_or(0);
                (u64::from(since.subsec_nanos()) / 10_u64.pow(drop), *width)
            }
        };
        let mut digits = [b'0'; 20];
        let length = decimal(value, &mut digits).max(width);
        out.extend_from_slice(&digits[20 - length..]);
    }
    out
}

/// A day of the Gregorian calendar, UTC.
struct Date {
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
}

impl Date {
    /// Days since 1970 to a date, by eras of 400 years that begin in March, so that the leap day is the last of a year.
    fn of(seconds: u64) -> Self {
        let days = seconds / 86_400 + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * from_march + 2) / 153;
        let day = from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let before_january = if month > 2 { from_march + 60 + u64::from(leap) } else { from_march - 305 };
        Self { year, month, day, day_of_year: before_january.max(1) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        let cases = [
            (0, "1970-01-01 001 Thu"),
            (951_782_400, "2000-02-29 060 Tue"),
            (4_107_542_400, "2100-03-01 060 Mon"),
            (1_735_603_200, "2024-12-31 366 Tue"),
        ];
        for (seconds, want) in cases {
            let parts = parse_time("", "%F %j %a").unwrap();
            let got = render_time(&parts, UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(std::str::from_utf8(&got).unwrap(), want);
        }
    }
}
