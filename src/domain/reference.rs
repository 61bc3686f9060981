//! How people speak of models: by id, or by a name of the registry with a version or an alias.
//!
//! | text | the model |
//! |---|---|
//! | `mdl_…` | of this id |
//! | `fraud` | the newest version of `fraud` |
//! | `fraud:3` | version 3 |
//! | `fraud@production` | whatever the alias points to |

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

use super::id::ModelId;
use super::limits::REGISTERED_NAME_CHARS;

const ID_PREFIX: &str = "mdl_";

/// A name in the registry, or an alias: a letter, then letters, digits, `.`, `_` and `-`, all of them small.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, pattern = "^[a-z][a-z0-9._-]{0,63}$")]
pub struct ModelName(String);

impl ModelName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(80).collect();
        let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        if text.len() > REGISTERED_NAME_CHARS
            || !text.starts_with(|first: char| first.is_ascii_lowercase())
            || !text.bytes().all(is_plain)
        {
            return Err(format!(
                "is `{shown}`; allowed are 1 to {REGISTERED_NAME_CHARS} of a-z, 0-9, `.`, `_` and `-`, of which the first is a letter"
            ));
        }
        if text.starts_with(ID_PREFIX) || is_id(text) {
            return Err(format!("is `{shown}`, which is an id or begins like that of a model"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What a model is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModelRef {
    /// Its id.
    Id(ModelId),
    /// The newest version of a name.
    Newest(ModelName),
    /// One version of a name.
    Version(ModelName, u32),
    /// What an alias of a name points to.
    Alias(ModelName, ModelName),
}

impl FromStr for ModelRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(ID_PREFIX) || is_id(text) {
            return text.parse().map(Self::Id).map_err(|error: super::id::IdError| error.to_string());
        }
        if let Some((name, alias)) = text.split_once('@') {
            let name = name.parse().map_err(|fault: String| named("the name of the model", &fault))?;
            let is_number = !alias.is_empty() && alias.bytes().all(|byte| byte.is_ascii_digit());
            let hint = if is_number { "; a version is written with a colon, as in `name:3`" } else { "" };
            let alias = alias.parse().map_err(|fault: String| named("the alias", &fault) + hint)?;
            return Ok(Self::Alias(name, alias));
        }
        if let Some((name, version)) = text.split_once(':') {
            let name = name.parse().map_err(|fault: String| named("the name of the model", &fault))?;
            let number = version.parse().ok().filter(|number| *number > 0 && !version.starts_with('+'));
            let shown: String = version.chars().take(40).collect();
            let number =
                number.ok_or_else(|| format!("the version is `{shown}`; versions are whole numbers from 1"))?;
            return Ok(Self::Version(name, number));
        }
        text.parse().map(Self::Newest).map_err(|fault: String| {
            format!("this is no model: write its id, or `name`, `name:3` or `name@alias`; the name {fault}")
        })
    }
}

/// Whether a text is the id of something, of a model or not.
fn is_id(text: &str) -> bool {
    let digits = text.split_once('_').map_or("", |(_, digits)| digits);
    digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn named(what: &str, fault: &str) -> String {
    format!("{what} {fault}")
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Newest(name) => name.fmt(f),
            Self::Version(name, version) => write!(f, "{name}:{version}"),
            Self::Alias(name, alias) => write!(f, "{name}@{alias}"),
        }
    }
}

macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

as_text!(ModelName ModelRef);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_survives_its_text() {
        let id = ModelId::new();
        for text in [id.to_string().as_str(), "fraud", "fraud:3", "fraud@production", "a.b_c-9@x"] {
            assert_eq!(text.parse::<ModelRef>().unwrap().to_string(), text);
        }
        assert_eq!(id.to_string().parse(), Ok(ModelRef::Id(id)));
    }

    #[test]
    fn what_is_no_reference_is_refused_with_what_is_allowed() {
        fn check(text: &str, words: &str) {
            let fault = text.parse::<ModelRef>().unwrap_err();
            assert!(fault.contains(words), "{text}: {fault}");
        }
        check("", "write its id");
        check("Fraud", "a-z");
        check("9lives", "first is a letter");
        check("mdl_1", "is not the id of a model");
        check("mdl_x@production", "is not the id of a model");
        check("ds_0198c5d2a1b37e6f9a1b2c3d4e5f6071", "is not the id of a model");
        check("fraud:0", "whole numbers from 1");
        check("fraud:+3", "whole numbers from 1");
        check("fraud:99999999999", "whole numbers from 1");
        check("fraud@3", "written with a colon");
        check("fraud@", "the alias is");
        check("@production", "the name of the model is");
        check(&"x".repeat(65), "1 to 64");
        check("größe", "a-z");
    }
}
