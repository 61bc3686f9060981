//! Dates as numbers: days since 1970 where a pattern has no time of day, seconds otherwise.
//!
//! Patterns are those of Java's `SimpleDateFormat`, of which the letters for year, month, day, hour, minute, second, the half
//! of the day, the name of the weekday and the offset from UTC are known.

use chrono::format::{Parsed, StrftimeItems, parse};
use chrono::{NaiveDate, NaiveTime};

/// What Weka writes when an attribute says nothing.
const USUAL: &str = "yyyy-MM-dd'T'HH:mm:ss";
/// Characters of a pattern.
const PATTERN_CHARS: usize = 100;

/// How dates are written.
pub(super) struct Pattern {
    /// As the file says it.
    pub text: String,
    /// As chrono says it.
    format: String,
    has_time: bool,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// The end of a sentence that says what is wrong with it.
    pub fn of(given: Option<&str>) -> Result<Self, String> {
        let text = given.unwrap_or(USUAL);
        if text.chars().count() > PATTERN_CHARS {
            return Err(format!("of more than {PATTERN_CHARS} characters"));
        }
        let characters: Vec<char> = text.chars().collect();
        let mut format = String::new();
        let mut has_time = false;
        let mut at = 0;
        while at < characters.len() {
            let letter = characters[at];
            let count = characters[at..].iter().take_while(|other| **other == letter).count();
            if letter == '\'' {
                // Two quotes are one; otherwise everything up to the next is meant as it is.
                let length = characters[at + 1..].iter().position(|other| *other == '\'');
                let length = length.ok_or_else(|| "with a quote that is not closed".to_owned())?;
                let literal: String = characters[at + 1..at + 1 + length].iter().collect();
                format.push_str(&if length == 0 { "'".to_owned() } else { literal.replace('%', "%%") });
                at += length + 2;
                continue;
            }
            let known = match (letter, count) {
                ('y', 2) => "%y",
                ('y' | 'u', 1 | 3 | 4) => "%Y",
                ('M', 1 | 2) => "%m",
                ('M', 3) => "%b",
                ('M', 4) => "%B",
                ('d', 1 | 2) => "%d",
                ('D', 1..=3) => "%j",
                ('E', 1..=3) => "%a",
                ('E', 4) => "%A",
                ('H', 1 | 2) => "%H",
                ('h', 1 | 2) => "%I",
                ('a', 1 | 2) => "%p",
                ('m', 1 | 2) => "%M",
                ('s', 1 | 2) => "%S",
                ('S', 1..=3) => "%3f",
                ('Z' | 'X' | 'x', 1..=3) => "%#z",
                (letter, _) if letter.is_ascii_alphabetic() => {
                    return Err(format!(
                        "with the letters `{}`, which are not known",
                        letter.to_string().repeat(count)
                    ));
                }
                (' ', _) => " ",
                (letter, _) => {
                    let literal = if letter == '%' { "%%".to_owned() } else { letter.to_string() };
                    format.push_str(&literal.repeat(count));
                    at += count;
                    continue;
                }
            };
            has_time |= matches!(letter, 'H' | 'h' | 'a' | 'm' | 's' | 'S');
            format.push_str(known);
            at += count;
        }
        Ok(Self { text: text.to_owned(), format, has_time })
    }

    /// What is to be said of such a column.
    pub fn note(&self) -> &'static str {
        if self.has_time {
            "times, as seconds since 1970, of which those after July 1970 are rounded to 24 binary digits"
        } else {
            "dates, as days since 1970"
        }
    }

    /// The number that a date is; what the pattern does not say is as at the start of 1970.
    pub fn number(&self, text: &str) -> Option<f64> {
        let mut parsed = Parsed::new();
        parse(&mut parsed, text, StrftimeItems::new(&self.format)).ok()?;
        if parsed.year().is_none() && parsed.year_mod_100().is_none() {
            parsed.set_year(1970).ok()?;
        }
        if parsed.ordinal().is_none() {
            if parsed.month().is_none() {
                parsed.set_month(1).ok()?;
            }
            if parsed.day().is_none() {
                parsed.set_day(1).ok()?;
            }
        }
        let days = parsed.to_naive_date().ok()?.signed_duration_since(NaiveDate::default()).num_days() as f64;
        if !self.has_time {
            return Some(days);
        }
        if parsed.hour_mod_12().is_none() && parsed.hour_div_12().is_none() {
            parsed.set_hour(0).ok()?;
        } else if parsed.hour_div_12().is_none() {
            parsed.set_ampm(false).ok()?;
        }
        if parsed.minute().is_none() {
            parsed.set_minute(0).ok()?;
        }
        if parsed.second().is_none() && parsed.nanosecond().is_some() {
            parsed.set_second(0).ok()?;
        }
        let offset = f64::from(parsed.offset().unwrap_or(0));
        let time = parsed.to_naive_time().ok()?.signed_duration_since(NaiveTime::default());
        Some(days * 86_400.0 + time.num_milliseconds() as f64 / 1e3 - offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_become_days_or_seconds() {
        fn check(pattern: Option<&str>, text: &str, expected: f64) {
            let found = Pattern::of(pattern).unwrap().number(text);
            assert_eq!(found, Some(expected), "{pattern:?} {text}");
        }
        check(None, "1970-01-02T00:00:01", 86_401.0);
        check(Some("yyyy-MM-dd"), "1970-02-01", 31.0);
        check(Some("yyyy-MM-dd"), "1969-12-31", -1.0);
        check(Some("dd.MM.yyyy HH:mm"), "01.01.2000 12:30", 946_729_800.0);
        check(Some("MM/dd/yy"), "01/03/70", 2.0);
        check(Some("EEE, d MMM yyyy"), "Thu, 1 Jan 1970", 0.0);
        check(Some("HH:mm:ss.SSS"), "00:01:00.250", 60.25);
        check(Some("h:mm a"), "1:30 PM", 48_600.0);
        check(Some("yyyy"), "1971", 365.0);
        check(Some("yyyyMMdd'at'HH"), "19700101at02", 7_200.0);
        check(Some("yyyy-MM-dd'T'HH:mm:ssZ"), "1970-01-01T01:00:00+0100", 0.0);
        check(Some("''yy"), "'70", 0.0);
    }

    #[test]
    fn what_is_no_date_is_none() {
        let usual = Pattern::of(None).unwrap();
        for text in ["", "1970-01-01", "1970-13-01T00:00:00", "1970-02-30T00:00:00", "soon", "1970-01-01T00:00:00 x"] {
            assert_eq!(usual.number(text), None, "{text}");
        }
        for pattern in ["yyyy 'of", "GG", "yyyyy", &"y".repeat(200)] {
            assert!(Pattern::of(Some(pattern)).is_err(), "{pattern}");
        }
    }
}
