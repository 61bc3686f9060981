//! Canonical rows: 32-bit little-endian floats, row after row, NaN where a value is missing.
//!
//! Written once by `RowWriter`, which profiles every column on the way; read through a memory map by [`RowFile`], so that
//! a file larger than memory can be trained on.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;

use super::DataError;
use super::dataset::Profile;
use crate::domain::limits::{DISTINCT_VALUES, DISTINCT_VALUES_IN_ALL};
use crate::domain::refusal::{Code, Refusal};

const VALUE_BYTES: u64 = 4;

/// Writes rows and profiles their columns, block by block on a thread of its own.
pub(super) struct RowWriter {
    block: Vec<f32>,
    width: usize,
    rows: u64,
    bytes: u64,
    most_bytes: u64,
    lasts: bool,
    worker: Option<Worker>,
}

/// The thread that profiles and writes.
struct Worker {
    blocks: SyncSender<Vec<f32>>,
    /// Blocks that were written, whose memory is used again.
    written: Receiver<Vec<f32>>,
    thread: JoinHandle<io::Result<(File, Vec<ColumnCounter>)>>,
}

/// Values of a block, and blocks that wait to be written.
const BLOCK_VALUES: usize = 1 << 16;
const BLOCKS: usize = 16;
/// Bytes that are brought to the disk together.
const SYNC_BYTES: usize = 64 << 20;

pub(super) struct Written {
    pub rows: u64,
    pub bytes: u64,
    pub profiles: Vec<Profile>,
}

impl RowWriter {
    /// A writer whose rows are synced if they are to last.
    pub fn create(path: &Path, width: usize, most_bytes: u64, lasts: bool) -> io::Result<Self> {
        let mut writer = Self::start(path, width, most_bytes, counters(width))?;
        writer.lasts = lasts;
        Ok(writer)
    }

    /// A writer that profiles nothing.
    pub fn plain(path: &Path, width: usize, most_bytes: u64) -> io::Result<Self> {
        Self::start(path, width, most_bytes, Vec::new())
    }

    fn start(path: &Path, width: usize, most_bytes: u64, columns: Vec<ColumnCounter>) -> io::Result<Self> {
        let file = File::options().write(true).create_new(true).open(path)?;
        let (blocks, to_write) = sync_channel(BLOCKS);
        let (back, written) = channel();
        let thread = std::thread::Builder::new()
            .name("rows".to_owned())
            .spawn(move || write_blocks(file, columns, width, &to_write, &back))?;
        let worker = Some(Worker { blocks, written, thread });
        Ok(Self {
            block: Vec::with_capacity(BLOCK_VALUES + width),
            width,
            rows: 0,
            bytes: 0,
            most_bytes,
            lasts: true,
            worker,
        })
    }

    /// Adds a row, or several at once.
    pub fn push(&mut self, rows: &[f32]) -> Result<(), DataError> {
        assert_eq!(rows.len() % self.width, 0, "a format gives rows of one width; this is a bug");
        self.bytes += rows.len() as u64 * VALUE_BYTES;
        if self.bytes > self.most_bytes {
            return Err(too_large(self.most_bytes).into());
        }
        self.rows += (rows.len() / self.width) as u64;
        self.block.extend_from_slice(rows);
        if self.block.len() >= BLOCK_VALUES { Ok(self.hand_over()?) } else { Ok(()) }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let Some(worker) = &self.worker else { return Err(io::Error::other("the rows could not be written")) };
        let mut next = worker.written.try_recv().unwrap_or_default();
        next.clear();
        if worker.blocks.send(std::mem::replace(&mut self.block, next)).is_ok() {
            return Ok(());
        }
        // Writing ended early: its thread says why.
        self.end().map(|_| ())
    }

    /// Waits for the thread.
    fn end(&mut self) -> io::Result<(File, Vec<ColumnCounter>)> {
        let worker = self.worker.take().ok_or_else(|| io::Error::other("the rows could not be written"))?;
        drop(worker.blocks);
        worker.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub fn finish(mut self) -> io::Result<Written> {
        self.hand_over()?;
        let (file, columns) = self.end()?;
        if self.lasts {
            file.sync_all()?;
        }
        let profiles = columns.into_iter().map(ColumnCounter::profile).collect();
        Ok(Written { rows: self.rows, bytes: self.bytes, profiles })
    }
}

impl Drop for RowWriter {
    fn drop(&mut self) {
        if self.worker.is_some() {
            // What was written is removed by whoever gave up; there is nobody to tell of another fault.
            let _ = self.end();
        }
    }
}

fn write_blocks(
    mut file: File,
    mut columns: Vec<ColumnCounter>,
    width: usize,
    blocks: &Receiver<Vec<f32>>,
    back: &Sender<Vec<f32>>,
) -> io::Result<(File, Vec<ColumnCounter>)> {
    let synced = file.try_clone()?;
    let (written, to_sync) = sync_channel::<()>(1);
    std::thread::scope(|scope| {
        // Rows go to the disk while others are written, so that the end does not wait for all of them.
        let syncing = scope.spawn(move || to_sync.iter().try_for_each(|()| synced.sync_data()));
        let mut unsynced = 0;
        for block in blocks {
            for (position, column) in columns.iter_mut().enumerate() {
                column.count_all(block.iter().skip(position).step_by(width).copied());
            }
            file.write_all(&little_endian(&block))?;
            unsynced += block.len() * VALUE_BYTES as usize;
            // One that is under way is not waited for.
            if unsynced >= SYNC_BYTES && written.try_send(()).is_ok() {
                unsynced = 0;
            }
            // Nobody may want the memory any more.
            let _ = back.send(block);
        }
        drop(written);
        syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok((file, columns))
}

/// 32-bit floats that lie one after the other, in little-endian order.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The bytes of 32-bit floats as every file has them.
pub fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    match cfg!(target_endian = "little") {
        true => Cow::Borrowed(bytemuck::cast_slice(values)),
        false => Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
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
    let at_once = (BLOCK_VALUES / width.max(1)).max(1);
    for first in (0..file.len()).step_by(at_once) {
        let rows = first..(first + at_once).min(file.len());
        for (position, column) in columns.iter_mut().enumerate() {
            column.count_all(rows.clone().map(|row| file.row(row)[position]));
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

/// Figures of one column in one pass.
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
    last_bits: Option<u32>,
    distinct: HashSet<u32, foldhash::fast::FixedState>,
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
            last_bits: None,
            distinct: HashSet::default(),
            distinct_most,
            distinct_is_exact: true,
        }
    }

    /// Counts some values. Their sums are taken around a value near their mean and joined to those before (Chan, Golub and
    /// LeVeque, 1979), which costs one division for all of them.
    fn count_all(&mut self, values: impl Iterator<Item = f32>) {
        let mut shift = if self.present > 0 { Some(self.mean) } else { None };
        let (mut count, mut sum, mut squares) = (0_u64, 0.0, 0.0);
        for narrow in values {
            if narrow.is_nan() {
                self.missing += 1;
                continue;
            }
            if self.distinct_is_exact {
                self.tell_apart(narrow);
            }
            let value = f64::from(narrow);
            let apart = value - *shift.get_or_insert(value);
            count += 1;
            sum += apart;
            squares += apart * apart;
            self.minimum = self.minimum.min(value);
            self.maximum = self.maximum.max(value);
            self.whole = self.whole && is_whole(narrow);
            self.counts_up = self.counts_up && (self.last.is_nan() || value == self.last + 1.0);
            self.last = value;
        }
        let Some(shift) = shift.filter(|_| count > 0) else { return };
        let (before, own) = (self.present as f64, count as f64);
        let apart = shift + sum / own - self.mean;
        let whole = before + own;
        self.squares += (squares - sum * sum / own).max(0.0) + apart * apart * before * own / whole;
        self.mean += apart * own / whole;
        self.present += count;
    }

    fn tell_apart(&mut self, value: f32) {
        // Adding 0.0 makes one value of the two zeros.
        let bits = (value + 0.0).to_bits();
        if self.last_bits == Some(bits) {
            return;
        }
        self.last_bits = Some(bits);
        self.distinct.insert(bits);
        self.distinct_is_exact = self.distinct.len() <= self.distinct_most;
    }

    fn profile(self) -> Profile {
        let some = |value: f64| (self.present > 0).then_some(value);
        Profile {
            minimum: some(self.minimum),
            maximum: some(self.maximum),
            mean: some(self.mean),
            deviation: some((self.squares / self.present.max(1) as f64).max(0.0).sqrt()),
            missing: self.missing,
            distinct: self.distinct.len() as u64,
            distinct_is_exact: self.distinct_is_exact,
            whole: self.whole && self.present > 0,
            counts_up: self.counts_up && self.present > 1,
        }
    }
}

/// Whether a number has no fraction. Beyond 2^23 none has room for one.
fn is_whole(value: f32) -> bool {
    value.abs() >= 8_388_608.0 || value as i32 as f32 == value
}

/// The bytes of a file of the server's own, through a memory map; none of an empty one.
///
/// # Errors
/// It cannot be opened.
pub fn mapped(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    // The system maps no empty file.
    if file.metadata()?.len() == 0 { Ok(Bytes::new()) } else { Ok(Bytes::from_owner(map(&file)?)) }
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

    /// Says that a row will be wanted soon: what of it is on the disk alone is read meanwhile. Costs a call of the system.
    pub fn expect(&self, index: usize) {
        let bytes = self.width * VALUE_BYTES as usize;
        // Where the system takes no such hints the row is read when it is wanted.
        #[cfg(unix)]
        let _ = self.map.advise_range(memmap2::Advice::WillNeed, index * bytes, bytes);
    }

    /// Says whether rows are wanted in any order: then nothing is read from the disk because it lies beside a row, which else the
    /// system does, and which drives rows that are expected out of a memory that is too small for all.
    pub fn jumps(&self, whether: bool) {
        #[cfg(unix)]
        let _ = self.map.advise(if whether { memmap2::Advice::Random } else { memmap2::Advice::Normal });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::Kind;

    #[test]
    fn rows_come_back_and_columns_are_profiled() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.f32");
        let mut writer = RowWriter::create(&path, 3, 1 << 20, true).unwrap();
        for row in [[1.0, 0.0, -2.5], [2.0, 1.0, f32::NAN], [6.0, 1.0, 2.5]] {
            writer.push(&row).unwrap();
        }
        let written = writer.finish().unwrap();
        let file = RowFile::open(&path, 3, written.rows).unwrap();
        assert_eq!(file.row(0), [1.0, 0.0, -2.5]);
        assert!(file.row(1)[2].is_nan());
        let kinds: Vec<_> = written.profiles.iter().map(|profile| profile.kind()).collect();
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
        let mut writer = RowWriter::create(&directory.path().join("rows.f32"), 2, 8, true).unwrap();
        writer.push(&[1.0, 2.0]).unwrap();
        assert!(matches!(writer.push(&[1.0, 2.0]), Err(DataError::Refused(Refusal { code: Code::TooLarge, .. }))));
    }
}
