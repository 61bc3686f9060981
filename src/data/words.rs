//! What the text of a cell means: a number, a missing value, or neither.

/// Texts that stand for a missing value in any file, whatever their case.
const MISSING: [&str; 8] = ["", "na", "n/a", "nan", "null", "none", "?", "nil"];

/// What texts mean in one file.
#[derive(Clone, Debug)]
pub struct Words {
    /// Further texts that stand for a missing value.
    missing: Vec<String>,
    /// Further numbers that do.
    missing_numbers: Vec<f32>,
    decimal_comma: bool,
}

impl Words {
    /// `missing` are texts or numbers that stand for no value, beside the usual ones.
    pub fn new(missing: &[String], decimal: Option<u8>) -> Self {
        let decimal_comma = decimal == Some(b',');
        let mut words = Self { missing: missing.to_vec(), missing_numbers: Vec::new(), decimal_comma };
        words.missing_numbers =
            missing.iter().filter_map(|text| words.parse(text.trim())).filter(|number| !number.is_nan()).collect();
        words
    }

    /// Whether a text, without blanks around it, stands for a missing value.
    pub fn is_missing(&self, text: &str) -> bool {
        (text.len() <= 4 && MISSING.iter().any(|marker| text.eq_ignore_ascii_case(marker)))
            || self.missing.iter().any(|marker| text == marker.trim())
    }

    /// Whether a number stands for a missing value.
    pub fn is_missing_number(&self, number: f32) -> bool {
        self.missing_numbers.contains(&number)
    }

    /// Whether any number does.
    pub fn has_missing_numbers(&self) -> bool {
        !self.missing_numbers.is_empty()
    }

    /// The number that a cell says: NaN when it is missing, infinite when 32 bits do not hold it, `None` when it says
    /// something else.
    pub fn number(&self, cell: &[u8]) -> Option<f32> {
        // Nearly every cell of a column of numbers is a plain number.
        if self.missing_numbers.is_empty()
            && let Ok(number) = fast_float2::parse::<f32, _>(cell)
        {
            return Some(number);
        }
        let text = std::str::from_utf8(cell).ok()?.trim();
        match self.parse(text) {
            Some(number) if self.is_missing_number(number) => Some(f32::NAN),
            Some(number) => Some(number),
            None if self.is_missing(text) => Some(f32::NAN),
            None => None,
        }
    }

    fn parse(&self, text: &str) -> Option<f32> {
        if self.decimal_comma && text.contains(',') {
            return text.replacen(',', ".", 1).parse().ok();
        }
        text.parse().ok()
    }
}

impl Default for Words {
    fn default() -> Self {
        Self::new(&[], None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &Words, text: &str, expected: Option<f32>) {
        let found = words.number(text.as_bytes());
        let same = match (found, expected) {
            (Some(a), Some(b)) => a == b || (a.is_nan() && b.is_nan()),
            (a, b) => a == b,
        };
        assert!(same, "`{text}` gave {found:?}, not {expected:?}");
    }

    #[test]
    fn texts_are_numbers_missing_or_neither() {
        let usual = Words::default();
        for (text, expected) in [(" 1.5 ", Some(1.5)), ("-4e2", Some(-400.0)), ("1,5", None), ("x", None)] {
            check(&usual, text, expected);
        }
        for text in ["", " ", "NA", "n/a", "NaN", "null", "None", "?"] {
            check(&usual, text, Some(f32::NAN));
        }
        check(&usual, "1e99", Some(f32::INFINITY));
        let own = Words::new(&["-999".into(), "unknown".into()], Some(b','));
        for (text, expected) in
            [("1,5", Some(1.5)), ("-999,0", Some(f32::NAN)), ("unknown", Some(f32::NAN)), ("1.5", Some(1.5))]
        {
            check(&own, text, expected);
        }
    }
}
