//! Canonical rows: 32-bit little-endian floats, row after row, NaN where a value is missing.
//!
//! Written once by `RowWriter`, which profiles every column on the way; read through a memory map by [`RowFile`], so that
//! a file larger than memory can be trained on.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::DataError;
use super::dataset::{Kind, Profile};
use crate::domain::limits::{DISTINCT_VALUES, DISTINCT_VALUES_IN_ALL};
use crate::domain::refusal::{Code, Refusal};

const VALUE_BYTES: u64 = 4;

/// Writes rows and profiles their columns.
pub(super) struct RowWriter {
    file: BufWriter<File>,
    columns: Vec<ColumnCounter>,
    width: usize,
    rows: u64,
    bytes: u64,
    most_bytes: u64,
}

pub(super) struct Written {
    pub rows: u64,
    pub bytes: u64,
    pub profiles: Vec<Profile>,
}

impl RowWriter {
    pub fn create(path: &Path, width: usize, most_bytes: u64) -> io::Result<Self> {
        Ok(Self { columns: counters(width), ..Self::plain(path, width, most_bytes)? })
    }

    /// A writer that profiles nothing.
    pub fn plain(path: &Path, width: usize, most_bytes: u64) -> io::Result<Self> {
        let file = File::options().write(true).create_new(true).open(path)?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { file, columns: Vec::new(), width, rows: 0, bytes: 0, most_bytes })
    }

    pub fn push(&mut self, row: &[f32]) -> Result<(), DataError> {
        assert_eq!(row.len(), self.width, "a format gives rows of one width; this is a bug");
        self.bytes += row.len() as u64 * VALUE_BYTES;
        if self.bytes > self.most_bytes {
            return Err(too_large(self.most_bytes).into());
        }
        self.rows += 1;
        for (column, value) in self.columns.iter_mut().zip(row) {
            column.count(*value);
        }
        if cfg!(target_endian = "little") {
            self.file.write_all(bytemuck::cast_slice(row))?;
        } else {
            for value in row {
                self.file.write_all(&value.to_le_bytes())?;
            }
        }
        Ok(())
    }

    pub fn finish(self) -> io::Result<Written> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(Written {
            rows: self.rows,
            bytes: self.bytes,
            profiles: self.columns.into_iter().map(ColumnCounter::profile).collect(),
        })
    }
}

fn counters(width: usize) -> Vec<ColumnCounter> {
    let distinct_most = DISTINCT_VALUES.min(DISTINCT_VALUES_IN_ALL / width.max(1)).max(2);
    (0..width).map(|_| ColumnCounter::new(distinct_most)).collect()
}

/// Profiles of rows that are written already.
pub(super) fn profiles(path: &Path, width: usize, rows: u64) -> io::Result<Vec<Profile>> {
    let file = RowFile::open(path, width, rows)?;
    let mut columns = counters(width);
    for index in 0..file.len() {
        for (column, value) in columns.iter_mut().zip(file.row(index)) {
            column.count(*value);
        }
    }
    Ok(columns.into_iter().map(ColumnCounter::profile).collect())
}

/// The refusal of a file that holds more than is allowed, compressed or not.
pub(super) fn too_large(most_bytes: u64) -> Refusal {
    Refusal::new(
        Code::TooLarge,
        format!(
            "the dataset is larger than the {most_bytes} bytes that this server allows, counted after decompression"
        ),
    )
}

/// Figures of one column in one pass; mean and deviation by Welford's recurrence (1962).
struct ColumnCounter {
    present: u64,
    missing: u64,
    minimum: f64,
    maximum: f64,
    mean: f64,
    squares: f64,
    whole: bool,
    counts_up: bool,
    last: f64,
    distinct: HashSet<u32>,
    distinct_most: usize,
    distinct_is_exact: bool,
}

impl ColumnCounter {
    fn new(distinct_most: usize) -> Self {
        Self {
            present: 0,
            missing: 0,
            minimum: f64::INFINITY,
            maximum: f64::NEG_INFINITY,
            mean: 0.0,
            squares: 0.0,
            whole: true,
            counts_up: true,
            last: f64::NAN,
            distinct: HashSet::new(),
            distinct_most,
            distinct_is_exact: true,
        }
    }

    fn count(&mut self, value: f32) {
        if value.is_nan() {
            self.missing += 1;
            return;
        }
        if self.distinct_is_exact {
            // Adding 0.0 makes one value of the two zeros.
            self.distinct.insert((value + 0.0).to_bits());
            if self.distinct.len() > self.distinct_most {
                self.distinct_is_exact = false;
            }
        }
        let value = f64::from(value);
        self.present += 1;
        self.minimum = self.minimum.min(value);
        self.maximum = self.maximum.max(value);
        let before = value - self.mean;
        self.mean += before / self.present as f64;
        self.squares += before * (value - self.mean);
        self.whole &= value.fract() == 0.0;
        self.counts_up &= self.last.is_nan() || value == self.last + 1.0;
        self.last = value;
    }

    fn profile(self) -> Profile {
        let some = |value: f64| (self.present > 0).then_some(value);
        let kind = match () {
            () if self.present == 0 => Kind::Real,
            () if self.whole && self.minimum >= 0.0 && self.maximum <= 1.0 => Kind::Binary,
            () if self.whole && self.minimum >= 0.0 => Kind::Count,
            () if self.minimum > 0.0 => Kind::Positive,
            () => Kind::Real,
        };
        Profile {
            minimum: some(self.minimum),
            maximum: some(self.maximum),
            mean: some(self.mean),
            deviation: some((self.squares / self.present.max(1) as f64).max(0.0).sqrt()),
            missing: self.missing,
            distinct: self.distinct.len() as u64,
            distinct_is_exact: self.distinct_is_exact,
            whole: self.whole && self.present > 0,
            kind: Some(kind),
            counts_up: self.counts_up && self.present > 1,
        }
    }
}

/// A file of the server's own: canonical rows, or an upload that has arrived.
pub(super) fn map(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: such a file is written aside, closed before it is read and never changed afterwards; it is only ever
    // removed, which leaves the pages of an open map in place.
    #[expect(unsafe_code, reason = "a memory map is the point of this function")]
    unsafe {
        memmap2::Mmap::map(file)
    }
}

/// Canonical rows, read through a memory map.
pub struct RowFile {
    map: memmap2::Mmap,
    width: usize,
    rows: usize,
}

impl RowFile {
    /// Opens rows of `width` kept columns.
    ///
    /// # Errors
    /// The file cannot be opened, or its length is not `rows` rows of that width.
    pub fn open(path: &Path, width: usize, rows: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        if bytes != rows * width as u64 * VALUE_BYTES || bytes == 0 {
            let detail = format!("the file of rows has {bytes} bytes, which are not {rows} rows of {width} values");
            return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
        }
        Ok(Self { map: map(&file)?, width, rows: rows as usize })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Never: an empty dataset is refused before it is written.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// One row of every kept column.
    pub fn row(&self, index: usize) -> &[f32] {
        let values: &[f32] = bytemuck::cast_slice(&self.map);
        &values[index * self.width..(index + 1) * self.width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_columns_are_profiled() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.f32");
        let mut writer = RowWriter::create(&path, 3, 1 << 20).unwrap();
        for row in [[1.0, 0.0, -2.5], [2.0, 1.0, f32::NAN], [6.0, 1.0, 2.5]] {
            writer.push(&row).unwrap();
        }
        let written = writer.finish().unwrap();
        let file = RowFile::open(&path, 3, written.rows).unwrap();
        assert_eq!(file.row(0), [1.0, 0.0, -2.5]);
        assert!(file.row(1)[2].is_nan());
        let kinds: Vec<_> = written.profiles.iter().map(|profile| profile.kind.unwrap()).collect();
        assert_eq!(kinds, [Kind::Count, Kind::Binary, Kind::Real]);
        let first = &written.profiles[0];
        assert_eq!((first.minimum, first.maximum, first.mean), (Some(1.0), Some(6.0), Some(3.0)));
        // Population variance of 1, 2, 6 is (4 + 1 + 9) / 3.
        assert!((first.deviation.unwrap() - (14.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!((written.profiles[2].missing, written.profiles[2].distinct), (1, 2));
    }

    #[test]
    fn a_file_of_another_length_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.f32");
        std::fs::write(&path, [0_u8; 20]).unwrap();
        assert!(RowFile::open(&path, 2, 3).is_err());
    }

    #[test]
    fn rows_beyond_the_limit_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = RowWriter::create(&directory.path().join("rows.f32"), 2, 8).unwrap();
        writer.push(&[1.0, 2.0]).unwrap();
        assert!(matches!(writer.push(&[1.0, 2.0]), Err(DataError::Refused(Refusal { code: Code::TooLarge, .. }))));
    }
}
