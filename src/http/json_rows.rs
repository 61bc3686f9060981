//! Rows of numbers in a JSON body, read straight into 32-bit floats: without a tree, without a cell for each value.
//!
//! What is unusual (rows by name, texts, every fault) is left to serde, which tells each fault and its place: [`read`] says
//! `None` then, and only time was lost. Numbers come out as serde's do: the nearest 64-bit float, then the nearest of 32 bits.

/// What a body holds.
#[derive(Debug, PartialEq)]
pub struct Found {
    /// Row after row; NaN where a value is missing.
    pub values: Vec<f32>,
    /// The body with an empty array in the place of the rows: the options that stand beside them.
    pub rest: Vec<u8>,
}

/// Reads the rows that are the member `name` of an object. `None` unless all of them are arrays of `width` numbers that 32 bits
/// hold, or `null` where values may be `missing`.
pub fn read(body: &[u8], name: &str, width: usize, most_rows: usize, missing: bool) -> Option<Found> {
    let mut reader = Reader { bytes: body, at: 0 };
    let mut found = None;
    reader.expect(b'{')?;
    loop {
        let key = reader.text()?;
        reader.expect(b':')?;
        reader.space();
        let start = reader.at;
        if key != name.as_bytes() {
            reader.skip()?;
        } else if found.is_none() {
            let values = reader.rows(width, most_rows, missing)?;
            found = Some((values, start..reader.at));
        } else {
            return None;
        }
        match reader.next()? {
            b',' => {}
            b'}' => break,
            _ => return None,
        }
    }
    reader.space();
    if reader.at != body.len() {
        return None;
    }
    let (values, place) = found?;
    Some(Found { values, rest: [&body[..place.start], b"[]", &body[place.end..]].concat() })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        self.space();
        self.at += 1;
        self.bytes.get(self.at - 1).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// A text without escapes.
    fn text(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let rest = &self.bytes[self.at..];
        let length = memchr::memchr(b'"', rest)?;
        self.at += length + 1;
        (!rest[..length].contains(&b'\\')).then_some(&rest[..length])
    }

    /// Passes over a value that holds no others.
    fn skip(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.text().map(drop),
            b'{' | b'[' => None,
            _ => {
                let rest = &self.bytes[self.at..];
                self.at += rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']'))?;
                Some(())
            }
        }
    }

    fn rows(&mut self, width: usize, most: usize, missing: bool) -> Option<Vec<f32>> {
        self.expect(b'[')?;
        // A value takes two bytes at least.
        let mut values = Vec::with_capacity((self.bytes.len() / 2).min(width));
        for _ in 0..most {
            self.row(width, missing, &mut values)?;
            match self.next()? {
                b',' => {}
                b']' => return Some(values),
                _ => return None,
            }
        }
        None
    }

    fn row(&mut self, width: usize, missing: bool, values: &mut Vec<f32>) -> Option<()> {
        self.expect(b'[')?;
        for position in 1..=width {
            self.space();
            let value = if self.peek()? == b'n' { self.null(missing)? } else { self.number()? };
            values.push(value);
            self.expect(if position == width { b']' } else { b',' })?;
        }
        Some(())
    }

    fn null(&mut self, missing: bool) -> Option<f32> {
        let is_null = missing && self.bytes[self.at..].starts_with(b"null");
        self.at += 4;
        is_null.then_some(f32::NAN)
    }

    fn number(&mut self) -> Option<f32> {
        let start = self.at;
        let is_negative = self.peek()? == b'-';
        self.at += usize::from(is_negative);
        let mut digits = 0;
        let whole = self.digits(&mut digits);
        // There is a digit, and no zero before others.
        if whole == 0 || (whole > 1 && self.bytes[self.at - whole] == b'0') {
            return None;
        }
        let mut decimals = 0;
        if self.peek() == Some(b'.') {
            self.at += 1;
            decimals = self.digits(&mut digits);
            if decimals == 0 {
                return None;
            }
        }
        let mut is_plain = true;
        if matches!(self.peek(), Some(b'e' | b'E')) {
            is_plain = false;
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            if self.digits(&mut 0) == 0 {
                return None;
            }
        }
        // Both are exact as 64-bit floats then, and so the quotient is rounded once (Clinger, 1990).
        let value = if is_plain && whole + decimals <= 19 && digits < 1 << 53 && decimals < POWERS.len() {
            let value = digits as f64 / POWERS[decimals];
            if is_negative { -value } else { value }
        } else {
            fast_float2::parse::<f64, _>(&self.bytes[start..self.at]).ok()?
        } as f32;
        value.is_finite().then_some(value)
    }

    /// Passes over digits, which it appends to `number`; says how many there are. Beyond 19 of them `number` means nothing.
    fn digits(&mut self, number: &mut u64) -> usize {
        let start = self.at;
        while let Some(eight) = self.bytes.get(self.at..self.at + 8).and_then(eight_digits) {
            *number = number.wrapping_mul(100_000_000).wrapping_add(eight);
            self.at += 8;
        }
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            *number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        self.at - start
    }
}

/// Powers of ten that 64-bit floats hold exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The number that eight digits are, worked out for all of them at once (Lemire, 2021); `None` where one is no digit.
fn eight_digits(bytes: &[u8]) -> Option<u64> {
    const PAIRS: u64 = 0x0000_00FF_0000_00FF;
    let bytes = u64::from_le_bytes(bytes.try_into().ok()?);
    let digits = bytes.wrapping_sub(0x3030_3030_3030_3030);
    if (bytes.wrapping_add(0x4646_4646_4646_4646) | digits) & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let high = (pairs & PAIRS).wrapping_mul(100 + (1_000_000 << 32));
    let low = ((pairs >> 16) & PAIRS).wrapping_mul(1 + (10_000 << 32));
    Some(high.wrapping_add(low) >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn of(body: &str, width: usize) -> Option<Vec<f32>> {
        read(body.as_bytes(), "rows", width, 4, true).map(|found| found.values)
    }

    #[test]
    fn rows_are_read_and_the_options_left() {
        let body = r#" { "seed" : 7, "rows": [ [1, -2.5] ,[3e2,0.1 ]], "what":"x]", "all":true } "#;
        let found = read(body.as_bytes(), "rows", 2, 4, false).unwrap();
        assert_eq!(found.values, [1.0, -2.5, 300.0, 0.1]);
        let rest: Value = serde_json::from_slice(&found.rest).unwrap();
        assert_eq!(rest, serde_json::json!({"seed": 7, "rows": [], "what": "x]", "all": true}));
        let gaps = of(r#"{"rows":[[null,1]]}"#, 2).unwrap();
        assert!(gaps[0].is_nan() && gaps[1] == 1.0);
    }

    #[test]
    fn whatever_is_unusual_or_wrong_is_left_to_others() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"rows":[]}"#,
            r#"{"rows":[[1]]}"#,
            r#"{"rows":[[1,2,3]]}"#,
            r#"{"rows":[[1,2],]}"#,
            r#"{"rows":[[1,2]]"#,
            r#"{"rows":[[1,2]]} 1"#,
            r#"{"rows":[[1,2]],"rows":[[1,2]]}"#,
            r#"{"rows":[[1,2]],"more":[1]}"#,
            r#"{"rows":[[1,"2"]]}"#,
            r#"{"rows":[{"a":1,"b":2}]}"#,
            r#"{"ro\u0077s":[[1,2]]}"#,
            r#"{"rows":[[1,1e39]]}"#,
            r#"{"rows":[[1,2],[1,2],[1,2],[1,2],[1,2]]}"#,
            r#"{"rows":[[1,nulL]]}"#,
        ] {
            assert_eq!(of(body, 2), None, "{body}");
        }
        for number in
            ["01", "-", "1.", ".5", "+1", "1e", "1e+", "--1", "NaN", "Infinity", "0x1", "1_0", "00", "-01", "1,"]
        {
            assert_eq!(of(&format!(r#"{{"rows":[[1,{number}]]}}"#), 2), None, "{number}");
        }
        assert_eq!(read(br#"{"rows":[[null]]}"#, "rows", 1, 1, false), None);
    }

    proptest! {
        #[test]
        fn numbers_are_those_of_serde(text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?") {
            let expected = serde_json::from_str::<f64>(&text).unwrap() as f32;
            let found = of(&format!(r#"{{"rows":[[{text}]]}}"#), 1).map(|values| values[0].to_bits());
            prop_assert_eq!(found, expected.is_finite().then(|| expected.to_bits()), "{}", text);
        }

        #[test]
        fn floats_come_back(values in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO, 3)) {
            let body = serde_json::json!({"rows": [values]}).to_string();
            let wanted: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
            let found = of(&body, 3).map(|found| found.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
            prop_assert_eq!(found, Some(wanted));
        }

        #[test]
        fn any_bytes_are_read_or_left(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let body = [br#"{"rows":[["#, &bytes[..]].concat();
            let _ = read(&body, "rows", 2, 4, true);
            let _ = read(&bytes, "rows", 2, 4, true);
        }

        #[test]
        fn what_is_read_is_json(text in r#"[\[\]{}",:0-9.e \-nul]{0,40}"#) {
            let body = format!(r#"{{"rows":[[{text}"#);
            if of(&body, 2).is_some() {
                prop_assert!(serde_json::from_str::<Value>(&body).is_ok(), "{}", body);
            }
        }
    }
}
