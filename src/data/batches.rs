//! From batches of Arrow columns to the cells of rows: what the readers of Arrow and Parquet files share.
//!
//! Numbers, booleans, decimals, dates and times become numbers; strings, plain or from a dictionary, become texts. A column
//! that is neither (lists, structs, bytes) is refused by name unless it is ignored. A batch is read a few rows at a time, so
//! that a large one takes no more memory than a small one. Start reading with [`Columns`].

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, LargeStringArray, RecordBatch, StringArray, StringViewArray};
use arrow_schema::{DataType, TimeUnit};
use bytes::Bytes;

use super::DataError;
use super::rows;
use super::sink::{Cells, Field, Holds, Sink};
use super::text::refuse;
use crate::domain::limits::{COLUMN_NAME_CHARS, LEVELS, TEXT_CELL_BYTES};
use crate::domain::refusal::{Code, Faults};

/// Cells that are turned into numbers at once.
const BLOCK_CELLS: usize = 1 << 18;
/// Whole numbers above this have more digits than 32-bit floats.
pub(super) const EXACT: f64 = 16_777_216.0;
pub(super) const ROUNDED: &str = "numbers beyond 16,777,216 are rounded to 24 binary digits";

/// The bytes of a file, through a memory map.
pub(super) fn mapped(source: &Path) -> Result<Bytes, DataError> {
    Ok(Bytes::from_owner(rows::map(&File::open(source)?)?))
}

/// Runs a reader that calls into a library. Should the library panic at a damaged file, the file is refused.
pub(super) fn guarded(
    format: &str,
    sink: &mut Sink<'_>,
    read: impl FnOnce(&mut Sink<'_>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    // A sink that was left in the middle of a row is only dropped.
    catch_unwind(AssertUnwindSafe(|| read(sink)))
        .unwrap_or_else(|_| Err(broken(format, "it contradicts itself in a way that has no name")))
}

/// A file that cannot be read on.
pub(super) fn broken(format: &str, why: impl std::fmt::Display) -> DataError {
    refuse("/", "broken_file", format!("the {format} file is damaged or cut short: {why}"))
}

/// The columns of a file and where they are in its batches.
pub(super) struct Columns {
    /// For each column of the file its place in a batch; `None` where it is not read.
    places: Vec<Option<usize>>,
}

impl Columns {
    /// Tells the sink which columns there are. `levels` knows those that hold a closed set of texts.
    pub fn begin(
        schema: &arrow_schema::Schema,
        levels: impl Fn(usize) -> Option<Holds>,
        sink: &mut Sink<'_>,
    ) -> Result<Self, DataError> {
        let fields = schema.fields();
        let meanings: Vec<Meaning> = fields.iter().map(|field| Meaning::of(field.data_type())).collect();
        let named = |position: usize| match fields[position].name().trim() {
            "" => format!("c{position}"),
            name => name.to_owned(),
        };
        let known = meanings.iter().enumerate().map(|(position, meaning)| {
            let holds = match meaning {
                Meaning::Texts => levels(position).unwrap_or(Holds::Names),
                _ => Holds::Numbers,
            };
            Field::new(named(position), holds)
        });
        sink.begin(known.collect())?;
        let mut faults = Faults::new();
        for (position, meaning) in meanings.iter().enumerate() {
            match meaning {
                Meaning::Numbers(Some(note)) => sink.note(position, note),
                Meaning::Neither if sink.wants(position) => {
                    let detail = format!(
                        "(column `{}`) is of the type {}, which is neither a number nor a text; name it in `ignore`, or save it as columns of numbers",
                        named(position),
                        shown(fields[position].data_type()),
                    );
                    faults.push(format!("/columns/{position}"), "not_tabular", detail);
                }
                _ => {}
            }
        }
        faults.into_result(Code::InvalidDataset)?;
        let mut next = 0..;
        let places = (0..fields.len()).map(|position| sink.wants(position).then(|| next.next()).flatten()).collect();
        Ok(Self { places })
    }

    /// The columns that a batch is to hold, in their order.
    pub fn wanted(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|position| self.places[*position].is_some()).collect()
    }

    /// Feeds the rows of a batch of the wanted columns.
    pub fn feed(&self, batch: &RecordBatch, sink: &mut Sink<'_>) -> Result<(), DataError> {
        let at_once = (BLOCK_CELLS / self.places.len().max(1)).max(1);
        for first in (0..batch.num_rows()).step_by(at_once) {
            let rows = at_once.min(batch.num_rows() - first);
            let arrays: Vec<_> = batch.columns().iter().map(|column| column.slice(first, rows)).collect();
            let mut block = Vec::with_capacity(self.places.len());
            for (position, place) in self.places.iter().enumerate() {
                let Some(array) = place.map(|place| &arrays[place]) else {
                    block.push(Cells::Skipped);
                    continue;
                };
                if let Some(texts) = Texts::of(array) {
                    block.push(Cells::Texts(Box::new(move |row| texts.get(row).map(cut))));
                    continue;
                }
                let mut numbers = Vec::with_capacity(rows);
                push_numbers(array, &mut numbers);
                if has_digits_to_lose(array.data_type()) && numbers.iter().any(|number| number.abs() > EXACT) {
                    sink.note(position, rounded(array.data_type()));
                }
                block.push(Cells::Numbers(numbers));
            }
            sink.rows(rows, &block)?;
            if sink.is_full() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The levels that a dictionary stands for, when each of its texts may be one.
pub(super) fn levels(values: &dyn Array, ordered: bool) -> Option<Holds> {
    let texts = Texts::of(values)?;
    if values.is_empty() || values.len() > LEVELS as usize {
        return None;
    }
    let words = super::words::Words::default();
    let names: Option<Vec<String>> = (0..values.len())
        .map(|row| {
            let text = texts.get(row)?;
            let fits = text == text.trim() && !words.is_missing(text) && text.chars().count() <= COLUMN_NAME_CHARS;
            fits.then(|| text.to_owned())
        })
        .collect();
    let names = names?;
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    (sorted.len() == names.len()).then_some(Holds::Levels { names, ordered })
}

/// What the values of a column mean.
enum Meaning {
    /// Numbers, and what is to be said of them.
    Numbers(Option<&'static str>),
    Texts,
    Neither,
}

impl Meaning {
    fn of(data_type: &DataType) -> Self {
        use DataType as T;
        match data_type {
            T::Null | T::Boolean => Self::Numbers(None),
            T::Int8 | T::Int16 | T::Int32 | T::Int64 => Self::Numbers(None),
            T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64 => Self::Numbers(None),
            T::Float16 | T::Float32 | T::Float64 => Self::Numbers(None),
            T::Decimal32(..) | T::Decimal64(..) | T::Decimal128(..) | T::Decimal256(..) => Self::Numbers(None),
            T::Date32 | T::Date64 => Self::Numbers(Some("dates, as days since 1970")),
            T::Timestamp(..) => Self::Numbers(Some("times, as seconds since 1970")),
            T::Time32(_) | T::Time64(_) => Self::Numbers(Some("times of a day, as seconds since midnight")),
            T::Duration(_) => Self::Numbers(Some("durations, in seconds")),
            T::Utf8 | T::LargeUtf8 | T::Utf8View => Self::Texts,
            T::Dictionary(_, values) if !matches!(**values, T::Dictionary(..)) => Self::of(values),
            _ => Self::Neither,
        }
    }
}

/// The name of a type, which a nested one may make long.
fn shown(data_type: &DataType) -> String {
    let text = data_type.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn has_digits_to_lose(data_type: &DataType) -> bool {
    use DataType as T;
    match data_type {
        T::Int32 | T::Int64 | T::UInt32 | T::UInt64 | T::Timestamp(..) => true,
        T::Dictionary(_, values) => has_digits_to_lose(values),
        _ => false,
    }
}

fn rounded(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Timestamp(..) => {
            "times, as seconds since 1970, of which those after July 1970 are rounded to 24 binary digits"
        }
        _ => ROUNDED,
    }
}

/// A text as far as it is looked at.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_CELL_BYTES)]
}

enum Texts<'a> {
    Plain(&'a StringArray),
    Large(&'a LargeStringArray),
    View(&'a StringViewArray),
    /// Positions in a dictionary.
    Keyed(Vec<Option<usize>>, Box<Texts<'a>>),
}

impl<'a> Texts<'a> {
    /// The texts of an array, when it holds some.
    fn of(array: &'a dyn Array) -> Option<Self> {
        match array.data_type() {
            DataType::Utf8 => Some(Self::Plain(array.as_string())),
            DataType::LargeUtf8 => Some(Self::Large(array.as_string())),
            DataType::Utf8View => Some(Self::View(array.as_string_view())),
            DataType::Dictionary(_, values) if !matches!(**values, DataType::Dictionary(..)) => {
                let texts = Self::of(array.as_any_dictionary().values().as_ref())?;
                Some(Self::Keyed(keys(array), Box::new(texts)))
            }
            _ => None,
        }
    }

    fn get(&self, row: usize) -> Option<&'a str> {
        match self {
            Self::Plain(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Large(array) => array.is_valid(row).then(|| array.value(row)),
            Self::View(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Keyed(keys, texts) => texts.get(keys[row]?),
        }
    }
}

/// The position of each value in its dictionary.
fn keys(array: &dyn Array) -> Vec<Option<usize>> {
    let dictionary = array.as_any_dictionary();
    if dictionary.values().is_empty() {
        return vec![None; array.len()];
    }
    let keys = dictionary.normalized_keys();
    keys.into_iter().enumerate().map(|(row, key)| array.is_valid(row).then_some(key)).collect()
}

/// The numbers of an array, NaN where one is missing.
fn push_numbers(array: &dyn Array, out: &mut Vec<f64>) {
    fn each<T: ArrowPrimitiveType>(array: &dyn Array, out: &mut Vec<f64>, number: impl Fn(T::Native) -> f64) {
        out.extend(array.as_primitive::<T>().iter().map(|value| value.map_or(f64::NAN, &number)));
    }
    macro_rules! each {
        ($($kind:ty),*; $value:ident => $number:expr) => {
            $(if *array.data_type() == <$kind>::DATA_TYPE {
                return each::<$kind>(array, out, |$value| $number);
            })*
        };
    }
    each!(Int8Type, Int16Type, Int32Type, UInt8Type, UInt16Type, UInt32Type; value => f64::from(value));
    each!(Float16Type, Float32Type; value => f64::from(value));
    each!(Int64Type, UInt64Type; value => value as f64);
    each!(Float64Type; value => value);
    each!(Date32Type; value => f64::from(value));
    each!(Date64Type; value => value as f64 / 86_400_000.0);
    each!(Time32SecondType; value => f64::from(value));
    each!(Time32MillisecondType; value => f64::from(value) / 1e3);
    each!(Time64MicrosecondType; value => value as f64 / 1e6);
    each!(Time64NanosecondType; value => value as f64 / 1e9);
    each!(DurationSecondType; value => value as f64);
    each!(DurationMillisecondType; value => value as f64 / 1e3);
    each!(DurationMicrosecondType; value => value as f64 / 1e6);
    each!(DurationNanosecondType; value => value as f64 / 1e9);
    let tenths = |scale: i8| 10_f64.powi(i32::from(scale));
    match array.data_type() {
        DataType::Boolean => {
            out.extend(array.as_boolean().iter().map(|value| value.map_or(f64::NAN, |yes| f64::from(u8::from(yes)))));
        }
        DataType::Timestamp(unit, _) => match unit {
            TimeUnit::Second => each::<TimestampSecondType>(array, out, |value| value as f64),
            TimeUnit::Millisecond => each::<TimestampMillisecondType>(array, out, |value| value as f64 / 1e3),
            TimeUnit::Microsecond => each::<TimestampMicrosecondType>(array, out, |value| value as f64 / 1e6),
            TimeUnit::Nanosecond => each::<TimestampNanosecondType>(array, out, |value| value as f64 / 1e9),
        },
        DataType::Decimal32(_, scale) => {
            each::<Decimal32Type>(array, out, |value| f64::from(value) / tenths(*scale));
        }
        DataType::Decimal64(_, scale) => each::<Decimal64Type>(array, out, |value| value as f64 / tenths(*scale)),
        DataType::Decimal128(_, scale) => each::<Decimal128Type>(array, out, |value| value as f64 / tenths(*scale)),
        DataType::Decimal256(_, scale) => {
            // Its digits are the only thing that every version of the type gives.
            each::<Decimal256Type>(array, out, |value| {
                value.to_string().parse::<f64>().unwrap_or(f64::NAN) / tenths(*scale)
            });
        }
        DataType::Dictionary(..) => {
            let values = array.as_any_dictionary().values();
            for key in keys(array) {
                match key {
                    Some(key) => push_numbers(&values.slice(key, 1), out),
                    None => out.push(f64::NAN),
                }
            }
        }
        // Nulls, and what was refused already.
        _ => out.extend(std::iter::repeat_n(f64::NAN, array.len())),
    }
}

/// What the tests of table formats share.
#[cfg(test)]
pub(super) mod trial {
    use crate::data::rows::RowFile;
    use crate::data::{DataError, IngestSpec, Ingested, ingest};

    pub const MOST_BYTES: u64 = 1 << 24;

    /// Reads a file of these bytes.
    pub fn read(bytes: &[u8], spec: &IngestSpec) -> Result<(Ingested, Vec<Vec<f32>>), DataError> {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (directory.path().join("in"), directory.path().join("rows"));
        std::fs::write(&source, bytes).unwrap();
        let ingested = ingest(&source, &target, spec, MOST_BYTES)?;
        let file = RowFile::open(&target, ingested.schema.kept().count(), ingested.rows).unwrap();
        let rows = (0..file.len()).map(|row| file.row(row).to_vec()).collect();
        let left = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 2, "nothing lies beside the rows");
        Ok((ingested, rows))
    }

    /// The place and the code of the first fault of a file that is refused.
    pub fn refused(bytes: &[u8], spec: &IngestSpec) -> (String, String) {
        match read(bytes, spec) {
            Err(DataError::Refused(mut refusal)) if !refusal.errors.is_empty() => {
                let fault = refusal.errors.remove(0);
                (fault.pointer, fault.code)
            }
            Err(DataError::Refused(refusal)) => (String::new(), refusal.code.as_str().to_owned()),
            other => panic!("the file was not refused: {other:?}"),
        }
    }

    /// A file is read or refused; nothing else may come of it.
    pub fn survives(bytes: &[u8]) {
        match read(bytes, &IngestSpec::default()) {
            Ok(_) | Err(DataError::Refused(_)) => {}
            Err(DataError::Io(error)) => panic!("a damaged file is no fault of the machine: {error}"),
        }
    }

    /// The most memory that this process has had so far.
    pub fn peak_bytes() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) * 1024
    }
}
