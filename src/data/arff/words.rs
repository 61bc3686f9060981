//! The words of a line: bare, quoted, or a brace.
//!
//! Commas and blanks stand between words; two commas with nothing between them enclose an empty one. A `%` outside quotes ends
//! the line. In quotes a backslash takes the next character for itself, or for what it stands for.

/// What kind of word was read. Its text is in [`Words::text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Bare,
    Quoted,
    /// `{`
    Open,
    /// `}`
    Close,
}

/// Reads one line after the other, without taking memory for each.
#[derive(Default)]
pub(super) struct Words {
    line: String,
    at: usize,
    text: String,
    /// Whether a comma was read and no word since.
    owes: bool,
}

impl Words {
    /// Begins with another line.
    pub fn start(&mut self, line: &str) {
        self.line.clear();
        self.line.push_str(line);
        (self.at, self.owes) = (0, false);
    }

    /// The text of the word that was read last, without its quotes.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn rest(&self) -> &str {
        &self.line[self.at..]
    }

    fn skip_blanks(&mut self) {
        self.at = self.line.len() - self.rest().trim_start().len();
    }

    /// The next word; `None` at the end of the line.
    ///
    /// # Errors
    /// A sentence: a quote is not closed.
    pub fn next(&mut self) -> Result<Option<Word>, String> {
        self.text.clear();
        self.skip_blanks();
        let word = match self.rest().bytes().next() {
            None | Some(b'%') => {
                self.at = self.line.len();
                // After the last comma of a row there is one more cell.
                return Ok(std::mem::take(&mut self.owes).then_some(Word::Bare));
            }
            Some(b',') => Word::Bare,
            Some(b'{') => {
                self.at += 1;
                self.owes = false;
                return Ok(Some(Word::Open));
            }
            Some(b'}') => {
                self.at += 1;
                Word::Close
            }
            Some(quote @ (b'\'' | b'"')) => {
                self.quoted(char::from(quote))?;
                Word::Quoted
            }
            Some(_) => {
                let ends = |c: char| c.is_whitespace() || matches!(c, ',' | '{' | '}' | '%');
                let length = self.rest().find(ends).unwrap_or(self.rest().len());
                self.text.push_str(&self.line[self.at..self.at + length]);
                self.at += length;
                Word::Bare
            }
        };
        self.skip_blanks();
        self.owes = self.rest().starts_with(',');
        self.at += usize::from(self.owes);
        Ok(Some(word))
    }

    fn quoted(&mut self, quote: char) -> Result<(), String> {
        let mut characters = self.line[self.at..].char_indices().skip(1);
        while let Some((position, character)) = characters.next() {
            match character {
                _ if character == quote => {
                    self.at += position + 1;
                    return Ok(());
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => self.text.push('\n'),
                    Some((_, 'r')) => self.text.push('\r'),
                    Some((_, 't')) => self.text.push('\t'),
                    Some((_, escaped)) => self.text.push(escaped),
                    None => break,
                },
                _ => self.text.push(character),
            }
        }
        Err(format!("has a quote {quote} that is not closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &[&str]) {
        let mut words = Words::default();
        words.start(line);
        let mut found = Vec::new();
        while let Some(word) = words.next().unwrap() {
            found.push(match word {
                Word::Bare => words.text().to_owned(),
                Word::Quoted => format!("'{}", words.text()),
                Word::Open => "{".to_owned(),
                Word::Close => "}".to_owned(),
            });
        }
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn a_line_is_cut_into_words() {
        check("a, b ,c", &["a", "b", "c"]);
        check("1 2\t3", &["1", "2", "3"]);
        check("1,,3", &["1", "", "3"]);
        check(",1,", &["", "1", ""]);
        check("", &[]);
        check("'a, b' \"it's\" % said, 'once", &["'a, b", "'it's"]);
        check(r"'it\'s', 'a\\b\tc\%'", &["'it's", "'a\\b\tc%"]);
        check("{a,'b c' , d}", &["{", "a", "'b c", "d", "}"]);
        check("{}", &["{", "}"]);
        check("{0 1, 2 'x'}, {5}", &["{", "0", "1", "2", "'x", "}", "{", "5", "}"]);
        check("größe,'ß'", &["größe", "'ß"]);
    }

    #[test]
    fn an_open_quote_is_a_fault() {
        for line in ["'abc", "\"abc'", "'abc\\", "'abc\\'"] {
            let mut words = Words::default();
            words.start(line);
            assert!(words.next().is_err(), "{line}");
        }
    }
}
