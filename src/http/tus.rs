//! What the upload protocol tus 1.0 (<https://tus.io/protocols/resumable-upload>) puts into headers. The handlers are in
//! `uploads`.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::error::ApiError;
use crate::domain::limits::UPLOAD_METADATA_BYTES;
use crate::domain::refusal::{Code, Refusal};

/// The version that is spoken here.
pub const VERSION: &str = "1.0.0";
/// The extensions that are spoken here.
pub const EXTENSIONS: &str = "creation,creation-with-upload,checksum,expiration,termination";
/// The checksums that a part may come with.
pub const CHECKSUMS: &str = "sha256,sha1";
/// The type of the body of a part.
pub const PART: &str = "application/offset+octet-stream";

/// Every answer says which version it is of, and which are spoken here.
pub async fn sign(mut response: Response) -> Response {
    response.headers_mut().insert("tus-resumable", HeaderValue::from_static(VERSION));
    response.headers_mut().insert("tus-version", HeaderValue::from_static(VERSION));
    response
}

/// Proof that the request is of the version that is spoken here.
pub struct Version;

impl<S: Send + Sync> FromRequestParts<S> for Version {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match text(&parts.headers, "Tus-Resumable")? {
            Some(VERSION) => Ok(Self),
            other => {
                let detail = format!("is `{}`; the version spoken here is {VERSION}", other.unwrap_or(""));
                Err(Refusal::at(Code::UnsupportedVersion, "Tus-Resumable", "unsupported", detail).into())
            }
        }
    }
}

/// A number of bytes in a header.
///
/// # Errors
/// It is missing, or not a number.
pub fn bytes(headers: &HeaderMap, name: &'static str) -> Result<u64, Refusal> {
    let Some(given) = text(headers, name)? else {
        return Err(invalid(name, "missing", "is missing: give a number of bytes"));
    };
    // Files and columns of the database count in signed numbers.
    let number = given.bytes().all(|byte| byte.is_ascii_digit()).then(|| given.parse::<i64>().ok()).flatten();
    number
        .map(i64::cast_unsigned)
        .ok_or_else(|| invalid(name, "invalid", format!("is `{given}`, not a number of bytes")))
}

/// What is said of a file: names with values. Kept as it comes, so that it can be given back.
///
/// # Errors
/// It is too long, or not in the form of the protocol.
pub fn metadata(headers: &HeaderMap) -> Result<&str, Refusal> {
    let Some(given) = text(headers, "Upload-Metadata")? else { return Ok("") };
    if given.len() > UPLOAD_METADATA_BYTES {
        let detail = format!("has {} bytes; allowed are up to {UPLOAD_METADATA_BYTES}", given.len());
        return Err(invalid("Upload-Metadata", "too_long", detail));
    }
    if given.split(',').any(|pair| self::pair(pair).is_none()) && !given.is_empty() {
        let detail = "is not a list of names, each with a value in Base64, such as `filename ZGlnaXRzLmNzdg==`";
        return Err(invalid("Upload-Metadata", "invalid", detail));
    }
    Ok(given)
}

/// The names and values of metadata that were checked when they came.
pub fn pairs(metadata: &str) -> Vec<(String, String)> {
    metadata.split(',').filter_map(pair).collect()
}

fn pair(text: &str) -> Option<(String, String)> {
    let (name, value) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let value = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    (!name.is_empty()).then(|| (name.to_owned(), value))
}

/// The checksum that a part must have.
pub struct Checksum {
    running: Running,
    expected: Vec<u8>,
}

enum Running {
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Checksum {
    /// The checksum that a request announces, if any.
    ///
    /// # Errors
    /// Its algorithm is not known here, or it is no checksum.
    pub fn wanted(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        const NAME: &str = "Upload-Checksum";
        let Some(given) = text(headers, NAME)? else { return Ok(None) };
        let (algorithm, value) = given.trim().split_once(' ').unwrap_or((given.trim(), ""));
        let (running, length) = match algorithm {
            "sha1" => (Running::Sha1(Sha1::new()), 20),
            "sha256" => (Running::Sha256(Sha256::new()), 32),
            other => {
                return Err(invalid(NAME, "unknown_value", format!("is of `{other}`; known are {CHECKSUMS}")));
            }
        };
        match STANDARD.decode(value.trim()) {
            Ok(expected) if expected.len() == length => Ok(Some(Self { running, expected })),
            _ => Err(invalid(NAME, "invalid", format!("does not hold {length} bytes in Base64 after `{algorithm} `"))),
        }
    }

    /// Counts bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.running {
            Running::Sha1(sha1) => sha1.update(bytes),
            Running::Sha256(sha256) => sha256.update(bytes),
        }
    }

    /// Whether the bytes were those that were announced.
    pub fn holds(self) -> bool {
        match self.running {
            Running::Sha1(sha1) => sha1.finalize()[..] == self.expected,
            Running::Sha256(sha256) => sha256.finalize()[..] == self.expected,
        }
    }
}

/// A time as HTTP writes it.
pub fn date(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default().format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    let unreadable = |_| invalid(name, "invalid", "is not plain text");
    headers.get(name).map(|value| value.to_str().map_err(unreadable)).transpose()
}

fn invalid(name: &'static str, fault: &str, detail: impl Into<String>) -> Refusal {
    Refusal::at(Code::InvalidRequest, name, fault, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::try_from(value).unwrap());
        headers
    }

    #[test]
    fn numbers_of_bytes_are_read_strictly() {
        assert_eq!(bytes(&headers("upload-length", "12"), "Upload-Length").unwrap(), 12);
        for bad in ["", "-1", "+1", "1.5", "0x10", "99999999999999999999", "9223372036854775808"] {
            assert!(bytes(&headers("upload-length", bad), "Upload-Length").is_err(), "{bad}");
        }
        assert!(bytes(&HeaderMap::new(), "Upload-Length").is_err());
    }

    #[test]
    fn metadata_is_kept_as_it_comes_and_can_be_read() {
        let given = "filename ZGlnaXRzLmNzdg==,label ZGlnaXQ=,is_private";
        assert_eq!(metadata(&headers("upload-metadata", given)).unwrap(), given);
        let expected = [("filename", "digits.csv"), ("label", "digit"), ("is_private", "")];
        assert_eq!(pairs(given), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(metadata(&headers("upload-metadata", "")).unwrap(), "");
        assert!(metadata(&headers("upload-metadata", "filename ###")).is_err());
        assert!(metadata(&headers("upload-metadata", &"a".repeat(UPLOAD_METADATA_BYTES + 1))).is_err());
        assert_eq!(pairs(""), []);
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        // FIPS 180-4: the digests of `abc`.
        let check = |announced: &str, bytes: &[u8]| {
            let mut checksum = Checksum::wanted(&headers("upload-checksum", announced)).unwrap().unwrap();
            checksum.update(bytes);
            checksum.holds()
        };
        assert!(check("sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=", b"abc"));
        assert!(check("sha256 ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=", b"abc"));
        assert!(!check("sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=", b"abd"));
        for bad in ["md5 AAAA", "sha1", "sha1 !", "sha256 qZk+NkcGgWq6PiVxeFDCbJzQ2J0="] {
            assert!(Checksum::wanted(&headers("upload-checksum", bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_written_as_http_does() {
        assert_eq!(date(784_111_777_000), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
