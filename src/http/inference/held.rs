//! A body in memory that 32-bit floats may lie in: numbers that came as bytes are used where they were put when they arrived.

use axum::body::{Body, HttpBody};
use http_body_util::BodyExt;

use crate::data::rows::little_endian;
use crate::http::error::ApiError;
use crate::http::extract::{BODY_IDLE, cut_short, too_large, too_slow};

/// How many bytes stand before the numbers of a body that begins so; `None` where more of it must be seen.
pub(super) type Head = fn(&[u8]) -> Option<usize>;

/// A whole body.
#[derive(Debug)]
pub(super) struct Held {
    head_bytes: Head,
    /// What stands before the numbers.
    head: Vec<u8>,
    /// How long that is, once it is known.
    known: Option<usize>,
    words: Vec<f32>,
    /// Bytes that are no whole number yet.
    rest: Vec<u8>,
    /// Whether one of the numbers is NaN or infinite: seen while they are at hand, which costs less than to fetch all of them again.
    strange: bool,
}

/// The numbers of a body.
pub(super) struct Floats {
    pub values: Vec<f32>,
    /// Whether all of them are finite.
    pub are_finite: bool,
}

impl Held {
    fn new(head_bytes: Head, bytes: usize) -> Self {
        let mut words = Vec::with_capacity(bytes / 4 + 1);
        in_large_pages(&mut words);
        Self { head_bytes, head: Vec::new(), known: None, words, rest: Vec::new(), strange: false }
    }

    /// Reads a body of at most `most` bytes.
    pub async fn read(body: Body, most: usize, head: Head) -> Result<Self, ApiError> {
        tokio::time::timeout(BODY_IDLE, Self::collect(body, most, head)).await.map_err(|_| too_slow())?
    }

    async fn collect(mut body: Body, most: usize, head: Head) -> Result<Self, ApiError> {
        let announced = body.size_hint().lower();
        if announced > most as u64 {
            return Err(too_large(most));
        }
        let mut held = Self::new(head, announced as usize);
        let mut count = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| cut_short())?.into_data() else { continue };
            count += data.len();
            if count > most {
                return Err(too_large(most));
            }
            held.append(&data);
        }
        Ok(held)
    }

    fn append(&mut self, mut data: &[u8]) {
        while self.known.is_none_or(|known| self.head.len() < known) {
            let Some((first, others)) = data.split_first() else { return };
            if self.known.is_none() {
                self.known = (self.head_bytes)(&self.head);
                if self.known.is_some() {
                    continue;
                }
            }
            self.head.push(*first);
            data = others;
        }
        // What was looked at and is no head is numbers.
        let known = self.known.unwrap_or(0);
        if self.head.len() > known {
            self.rest = self.head.split_off(known);
            let rest = std::mem::take(&mut self.rest);
            self.rest = self.extend(&rest);
        }
        if !self.rest.is_empty() {
            let (first, others) = data.split_at(data.len().min(4 - self.rest.len()));
            self.rest.extend_from_slice(first);
            data = others;
            if self.rest.len() < 4 {
                return;
            }
            let rest = std::mem::take(&mut self.rest);
            self.extend(&rest);
        }
        self.rest = self.extend(data);
    }

    /// Appends the numbers of bytes; gives those at the end that are no whole number.
    fn extend(&mut self, bytes: &[u8]) -> Vec<u8> {
        let (words, rest) = bytes.as_chunks();
        let from = self.words.len();
        self.words.extend(words.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        // This loop has no way out, so that it is done in vector instructions.
        self.strange |= self.words[from..].iter().fold(false, |found, value| found | !value.is_finite());
        rest.to_vec()
    }

    /// What stands before the numbers.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// How many bytes came.
    pub fn len(&self) -> usize {
        self.head.len() + self.words.len() * 4 + self.rest.len()
    }

    /// All that came.
    pub fn into_bytes(self) -> Vec<u8> {
        [&self.head[..], &little_endian(&self.words)[..], &self.rest[..]].concat()
    }

    /// The numbers.
    pub fn into_floats(self) -> Floats {
        Floats { values: self.words, are_finite: !self.strange }
    }
}

/// Asks for memory in large pages where there is none behind the vector yet: to be given it in small ones takes longer than to write
/// there.
#[cfg(target_os = "linux")]
fn in_large_pages(words: &mut Vec<f32>) {
    /// Where advice about memory may begin and end.
    const PAGE_BYTES: usize = 4096;
    /// From so many bytes on it is worth while; each of the pages is two mebibytes.
    const LARGE_BYTES: usize = 4 << 20;
    let room = words.spare_capacity_mut();
    let start = room.as_mut_ptr().cast::<u8>();
    let (first, bytes) = (start.align_offset(PAGE_BYTES), size_of_val(room));
    if bytes >= LARGE_BYTES {
        // SAFETY: whole pages of the vector's own room, whose contents this does not change.
        #[expect(unsafe_code, reason = "the advice is about memory, of which any may be given by address")]
        let advised = unsafe {
            let advice = rustix::mm::Advice::LinuxHugepage;
            rustix::mm::madvise(start.add(first).cast(), (bytes - first) / PAGE_BYTES * PAGE_BYTES, advice)
        };
        // A kernel that has no such pages says so, and gives small ones.
        let _ = advised;
    }
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
fn in_large_pages(_: &mut Vec<f32>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_odd_pieces_is_whole() {
        let values: Vec<f32> = (0..50).map(|number| number as f32 * 0.37).collect();
        let numbers = little_endian(&values).into_owned();
        // Its first byte says how long a head is, once three were seen.
        let head: Head = |start| (start.len() >= 3).then(|| usize::from(start[0]));
        for length in [0, 1, 3, 5, 8] {
            let bytes = [&[length as u8; 9][..length], &numbers[..]].concat();
            let bytes = if length == 0 { [&[0; 4][..], &numbers[..]].concat() } else { bytes };
            for size in [1, 2, 3, 4, 7, 100, 1000] {
                let held = || {
                    let mut held = Held::new(head, 0);
                    bytes.chunks(size).for_each(|piece| held.append(piece));
                    held
                };
                assert_eq!(
                    (held().len(), held().head().len(), held().into_bytes()),
                    (bytes.len(), length, bytes.clone())
                );
                let found = held().into_floats();
                assert_eq!(found.values[found.values.len() - 50..], values, "{length} {size}");
                assert!(found.are_finite || length == 0, "{length} {size}");
            }
        }
        for strange in [f32::NAN, f32::INFINITY] {
            let bytes = little_endian(&[1.0, strange]).into_owned();
            for size in 1..8 {
                let mut held = Held::new(|_| Some(0), 8);
                bytes.chunks(size).for_each(|piece| held.append(piece));
                assert!(!held.into_floats().are_finite, "{strange} {size}");
            }
        }
        let mut short = Held::new(head, 0);
        short.append(&[7, 7]);
        assert_eq!((short.len(), short.into_bytes()), (2, vec![7, 7]));
    }
}
