//! Bodies that are compressed by gzip or deflate, within bounds.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use axum::http::{HeaderMap, HeaderValue, header};
use flate2::Compression;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::domain::refusal::{Code, Refusal};

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

impl Encoding {
    fn named(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Self::Identity),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// How the body of a request is compressed.
    pub fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let name = match headers.get(header::CONTENT_ENCODING) {
            Some(value) => value.to_str().unwrap_or("?"),
            None => "",
        };
        Self::named(name).ok_or_else(|| {
            let detail = format!("the body is compressed by `{name}`; allowed are gzip and deflate");
            Refusal::new(Code::UnsupportedMediaType, detail)
        })
    }

    /// How the answer is to be compressed: by the first of the best that the caller takes and that is known here.
    pub fn wanted(headers: &HeaderMap) -> Self {
        let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("");
        let mut best = (Self::Identity, 0.0);
        for part in accepted.split(',') {
            let (name, quality) = part.split_once(';').unwrap_or((part, ""));
            let quality = quality.trim().strip_prefix("q=").map_or(1.0, |text| text.parse().unwrap_or(0.0));
            if let Some(encoding) = Self::named(name).filter(|_| !name.trim().is_empty() && quality > best.1) {
                best = (encoding, quality);
            }
        }
        best.0
    }

    /// The value of `Content-Encoding`.
    pub fn header(self) -> Option<HeaderValue> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some(HeaderValue::from_static("gzip")),
            Self::Deflate => Some(HeaderValue::from_static("deflate")),
        }
    }

    /// What a body is when it is decompressed, which may be `most` bytes.
    pub fn open(self, bytes: &[u8], most: usize) -> Result<Cow<'_, [u8]>, Refusal> {
        let mut opened = Vec::new();
        let limit = most as u64 + 1;
        let read = match self {
            Self::Identity => return Ok(Cow::Borrowed(bytes)),
            Self::Gzip => MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut opened),
            // What HTTP calls deflate is the zlib format; some send the bare stream that is within.
            Self::Deflate if is_zlib(bytes) => ZlibDecoder::new(bytes).take(limit).read_to_end(&mut opened),
            Self::Deflate => DeflateDecoder::new(bytes).take(limit).read_to_end(&mut opened),
        };
        if opened.len() > most {
            let detail =
                format!("the body is larger than the {most} bytes that are allowed here, once it is decompressed");
            return Err(Refusal::new(Code::TooLarge, detail));
        }
        read.map_err(|error| Refusal::new(Code::InvalidRequest, format!("the body cannot be decompressed: {error}")))?;
        Ok(Cow::Owned(opened))
    }

    /// Compresses an answer.
    pub fn close(self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::Identity => Ok(bytes),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(&bytes)?;
                encoder.finish()
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(&bytes)?;
                encoder.finish()
            }
        }
    }
}

/// Whether bytes begin as the zlib format does (RFC 1950).
fn is_zlib(bytes: &[u8]) -> bool {
    matches!(bytes, [method, flags, ..] if method & 0x0f == 8 && (u16::from(*method) * 256 + u16::from(*flags)) % 31 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(accept: &'static str) -> Encoding {
        Encoding::wanted(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(accept))]))
    }

    #[test]
    fn the_best_that_is_known_is_chosen() {
        assert_eq!(wanted("gzip"), Encoding::Gzip);
        assert_eq!(wanted("deflate"), Encoding::Deflate);
        assert_eq!(wanted("br, gzip;q=0.5, deflate;q=0.8"), Encoding::Deflate);
        assert_eq!(wanted("identity, gzip;q=0"), Encoding::Identity);
        assert_eq!(wanted("br"), Encoding::Identity);
        assert_eq!(Encoding::wanted(&HeaderMap::new()), Encoding::Identity);
    }

    #[test]
    fn what_was_closed_is_opened_within_bounds() {
        let bytes = b"rows ".repeat(1000);
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Deflate] {
            let closed = encoding.close(bytes.clone()).unwrap();
            assert_eq!(*encoding.open(&closed, 5000).unwrap(), bytes);
        }
        let closed = Encoding::Gzip.close(bytes.clone()).unwrap();
        assert_eq!(Encoding::Gzip.open(&closed, 4999).unwrap_err().code, Code::TooLarge);
        assert_eq!(Encoding::Gzip.open(&closed[..20], 5000).unwrap_err().code, Code::InvalidRequest);
        let mut bare = flate2::write::DeflateEncoder::new(Vec::new(), Compression::default());
        bare.write_all(&bytes).unwrap();
        assert_eq!(*Encoding::Deflate.open(&bare.finish().unwrap(), 5000).unwrap(), bytes);
    }
}
