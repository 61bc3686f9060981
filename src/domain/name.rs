//! Names that people give to datasets, jobs and models: one line of readable text. Never used as a path.

use super::limits::NAME_CHARS;

/// The name as it is kept, without surrounding white space.
///
/// # Errors
/// What is wrong with it: empty, too long, or holding control characters.
pub fn checked(name: &str) -> Result<String, String> {
    let name = name.trim();
    let length = name.chars().count();
    if length == 0 || length > NAME_CHARS {
        return Err(format!("has {length} characters; allowed are 1 to {NAME_CHARS}"));
    }
    if name.chars().any(char::is_control) {
        return Err("holds control characters; allowed is one line of text".to_owned());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_line_of_text() {
        assert_eq!(checked("  digits "), Ok("digits".to_owned()));
        assert_eq!(checked("Zahlen, größer"), Ok("Zahlen, größer".to_owned()));
        assert!(checked(" ").is_err());
        assert!(checked("a\nb").is_err());
        assert!(checked(&"x".repeat(NAME_CHARS + 1)).is_err());
    }
}
