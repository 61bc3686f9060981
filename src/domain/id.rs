//! Ids: a prefix that names the kind and a UUIDv7, so that the order of ids is the order of creation.
//!
//! An id of the wrong kind is refused when it is parsed, before anything is looked up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;
use uuid::Uuid;

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not the id of a {noun}: expected `{prefix}` followed by 32 hexadecimal digits")]
pub struct IdError {
    given: String,
    noun: &'static str,
    prefix: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal, $noun:literal, $pattern:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
        #[schema(value_type = String, pattern = $pattern)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, later than every earlier one of this process.
            #[expect(clippy::new_without_default, reason = "every call gives another value")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix($prefix)
                    .filter(|digits| digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
                    .and_then(|digits| Uuid::try_parse(digits).ok())
                    .map(Self)
                    .ok_or_else(|| IdError { given: text.chars().take(64).collect(), noun: $noun, prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// The id of a dataset.
    DatasetId = "ds_", "dataset", "^ds_[0-9a-f]{32}$";
    /// The id of a job.
    JobId = "job_", "job", "^job_[0-9a-f]{32}$";
    /// The id of a model.
    ModelId = "mdl_", "model", "^mdl_[0-9a-f]{32}$";
    /// The id of bytes kept in the database: a model's weights or a checkpoint.
    ArtifactId = "art_", "artifact", "^art_[0-9a-f]{32}$";
    /// The id of an upload in several requests.
    UploadId = "up_", "upload", "^up_[0-9a-f]{32}$";
    /// The id of a sweep.
    SweepId = "swp_", "sweep", "^swp_[0-9a-f]{32}$";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = DatasetId::new();
        assert_eq!(id.to_string().parse::<DatasetId>().unwrap(), id);
    }

    #[test]
    fn order_of_ids_is_order_of_creation() {
        let ids: Vec<JobId> = (0..100).map(|_| JobId::new()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn the_wrong_kind_is_refused_with_what_was_expected() {
        fn check(text: &str) {
            let fault = text.parse::<DatasetId>().unwrap_err().to_string();
            assert!(fault.contains("expected `ds_`"), "{fault}");
        }
        check(&JobId::new().to_string());
        check("ds_");
        check("ds_0198C5D2A1B37E6F9A1B2C3D4E5F6071"); // upper case would make two names for one thing
        check("../../etc/passwd");
    }
}
