//! Separated text: commas, semicolons, tabs or bars; with or without a header; plain, gzip or zstd; UTF-8 or UTF-16.
//!
//! What separates the cells, whether a comma is the decimal sign and whether the first line holds names is found in the
//! first rows, unless the caller says. Faults name the line, and up to a score of them are reported together.

use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::headings::{self, Heading};
use super::sink::Sink;
use super::text::{Text, refuse, wrong};
use super::{DataError, Header};
use crate::domain::refusal::{Code, Faults};

use std::path::Path;

const DELIMITERS: [u8; 4] = *b",;\t|";
/// Rows that are looked at to find how a text is written.
const SAMPLE_ROWS: usize = 200;

pub(super) fn read(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let text = Text::open(source, sink.most_bytes)?;
    let sample = Sample::of(&text, sink.spec.delimiter);
    if sink.spec.decimal.is_none() && sample.has_decimal_commas() {
        sink.say_decimal_comma();
    }
    let heading = match sink.spec.header {
        Header::Present => Heading::Names,
        Header::Absent => Heading::None,
        Header::Auto => Heading::of(&sample.rows, sink.words()),
    };
    let most_bytes = text.most_bytes();
    let reader = builder(sample.delimiter).from_reader(text.reader());
    let (full_sender, full) = sync_channel(PIECES);
    let (empty, empty_receiver) = channel();
    for _ in 0..PIECES {
        empty.send(Piece::default()).expect("the other end is held here; this is a bug");
    }
    let records = Records { full, empty, piece: Piece::default(), next: 0, most_bytes };
    std::thread::scope(|scope| {
        scope.spawn(move || cut(reader, &empty_receiver, &full_sender));
        records.read(heading, sink)
    })
}

fn builder(delimiter: u8) -> csv::ReaderBuilder {
    let mut builder = csv::ReaderBuilder::new();
    builder.has_headers(false).flexible(true).delimiter(delimiter).buffer_capacity(1 << 16);
    builder
}

/// The first rows, cut by the likeliest delimiter.
struct Sample {
    delimiter: u8,
    rows: Vec<Vec<Vec<u8>>>,
}

impl Sample {
    fn of(text: &Text, delimiter: Option<u8>) -> Self {
        let cut = |delimiter| Self::cut(&text.head, text.is_whole, delimiter);
        if let Some(delimiter) = delimiter {
            return cut(delimiter);
        }
        // The one that gives the most rows of one width, of more than one cell; the earlier of equals.
        let mut best = cut(DELIMITERS[0]);
        for delimiter in &DELIMITERS[1..] {
            let other = cut(*delimiter);
            if other.score() > best.score() {
                best = other;
            }
        }
        best
    }

    fn cut(head: &[u8], is_whole: bool, delimiter: u8) -> Self {
        let mut rows: Vec<Vec<Vec<u8>>> = builder(delimiter)
            .from_reader(head)
            .byte_records()
            .map_while(Result::ok)
            .take(SAMPLE_ROWS)
            .map(|record| record.iter().map(<[u8]>::to_vec).collect())
            .collect();
        // The last row of a part may be cut in the middle.
        if !is_whole && rows.len() > 1 && rows.len() < SAMPLE_ROWS {
            rows.pop();
        }
        Self { delimiter, rows }
    }

    /// Share of the rows that are as wide as the first, when that is more than one cell wide; then the width.
    fn score(&self) -> (usize, usize) {
        let width = self.rows.first().map_or(0, Vec::len);
        if width < 2 {
            return (0, 0);
        }
        let alike = self.rows.iter().filter(|row| row.len() == width).count();
        (alike * 100 / self.rows.len(), width)
    }

    /// Whether numbers are written with a comma and none with a point.
    fn has_decimal_commas(&self) -> bool {
        let written = |sign: char| {
            move |cell: &&Vec<u8>| {
                let text = String::from_utf8_lossy(cell);
                text.trim().trim_start_matches(['-', '+']).split_once(sign).is_some_and(|(whole, rest)| {
                    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                    digits(whole) && digits(rest)
                })
            }
        };
        let cells = || self.rows.iter().flatten();
        self.delimiter != b',' && cells().any(|cell| written(',')(&cell)) && !cells().any(|cell| written('.')(&cell))
    }
}

/// Records that are cut on a thread of their own while others are being read.
struct Records {
    full: Receiver<Result<Piece, csv::Error>>,
    empty: Sender<Piece>,
    piece: Piece,
    next: usize,
    most_bytes: u64,
}

/// Some records; those from `count` on are old ones, whose memory is used again.
#[derive(Default)]
struct Piece {
    records: Vec<csv::ByteRecord>,
    count: usize,
}

/// Records of a piece, and pieces in all.
const PIECE_RECORDS: usize = 256;
const PIECE_BYTES: usize = 1 << 20;
const PIECES: usize = 4;

/// Cuts a text until it ends, or until nobody takes what is cut. A piece without records says that the text has ended.
fn cut<R: Read>(mut reader: csv::Reader<R>, empty: &Receiver<Piece>, full: &SyncSender<Result<Piece, csv::Error>>) {
    while let Ok(mut piece) = empty.recv() {
        piece.count = 0;
        let mut bytes = 0;
        let outcome = loop {
            if piece.count == PIECE_RECORDS || bytes > PIECE_BYTES {
                break Ok(());
            }
            if piece.count == piece.records.len() {
                piece.records.push(csv::ByteRecord::new());
            }
            match reader.read_byte_record(&mut piece.records[piece.count]) {
                Ok(true) => {
                    bytes += piece.records[piece.count].as_slice().len();
                    piece.count += 1;
                }
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let ends = piece.count == 0;
        // What was cut before a fault is read before the fault is told.
        let sent = if ends && outcome.is_err() { Ok(()) } else { full.send(Ok(piece)) };
        let told = sent.is_ok() && outcome.is_err_and(|error| full.send(Err(error)).is_ok());
        if sent.is_err() || told || ends {
            return;
        }
    }
}

impl Records {
    fn next(&mut self) -> Result<Option<&csv::ByteRecord>, DataError> {
        if self.next == self.piece.count {
            // Whoever cuts may have gone, when it has met the end.
            let _ = self.empty.send(std::mem::take(&mut self.piece));
            self.next = 0;
            self.piece = match self.full.recv() {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => {
                    return Err(match error.into_kind() {
                        csv::ErrorKind::Io(error) => wrong(error, self.most_bytes),
                        other => refuse("/", "not_csv", format!("the text is not CSV: {other:?}")),
                    });
                }
                Err(_) => Piece::default(),
            };
            if self.piece.count == 0 {
                return Ok(None);
            }
        }
        self.next += 1;
        Ok(Some(&self.piece.records[self.next - 1]))
    }

    fn read(mut self, heading: Heading, sink: &mut Sink<'_>) -> Result<(), DataError> {
        let nothing = || refuse("", "empty", "the file has no rows of data");
        let mut lines = Vec::new();
        for _ in 0..heading.lines() {
            lines.push(self.next()?.ok_or_else(nothing)?.clone());
        }
        let mut record = self.next()?;
        let Some(first) = record else {
            return Err(match lines.is_empty() {
                true => nothing(),
                false => refuse("", "empty", "the file has a header and no rows of data"),
            });
        };
        let texts = |line: &csv::ByteRecord| {
            line.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect::<Vec<_>>()
        };
        let fields = match heading {
            Heading::None => headings::named((0..first.len()).map(|column| format!("c{column}")).collect()),
            Heading::Names => headings::named(names(&lines[0])?),
            Heading::Orange => headings::orange(names(&lines[0])?, &texts(&lines[1]), &texts(&lines[2])),
            Heading::Counts => headings::with_class(first.len()),
        };
        let width = fields.len();
        sink.begin(fields)?;
        while let Some(row) = record {
            sink.at_line(row.position().map_or(0, csv::Position::line));
            if row.len() == width {
                sink.texts(row.iter());
            } else {
                let than = if heading == Heading::None { "the first row" } else { "the header" };
                sink.fault("ragged", format_args!("has {} cells; {than} has {width}", row.len()));
            }
            sink.end_row()?;
            if sink.is_full() {
                break;
            }
            record = self.next()?;
        }
        Ok(())
    }
}

fn names(record: &csv::ByteRecord) -> Result<Vec<String>, DataError> {
    let mut faults = Faults::new();
    let names = record
        .iter()
        .enumerate()
        .map(|(column, cell)| match std::str::from_utf8(cell).map(str::trim) {
            Ok("") => format!("c{column}"),
            Ok(name) => name.to_owned(),
            Err(_) => {
                faults.push(
                    format!("/columns/{column}"),
                    "not_utf8",
                    "has a name that is not UTF-8; save the file as UTF-8",
                );
                String::new()
            }
        })
        .collect();
    faults.into_result(Code::InvalidDataset)?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::{Kind, Role};
    use crate::data::{IngestSpec, Ingested, ingest, rows::RowFile};
    use crate::domain::limits::LINE_BYTES;
    use crate::domain::refusal::Refusal;

    fn with(spec: &IngestSpec, bytes: &[u8]) -> Result<(Ingested, Vec<Vec<f32>>), DataError> {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (directory.path().join("in"), directory.path().join("rows"));
        std::fs::write(&source, bytes).unwrap();
        let ingested = ingest(&source, &target, spec, 1 << 20)?;
        let file = RowFile::open(&target, ingested.schema.kept().count(), ingested.rows).unwrap();
        let rows = (0..file.len()).map(|row| file.row(row).to_vec()).collect();
        Ok((ingested, rows))
    }

    fn plain(bytes: &[u8]) -> Result<(Ingested, Vec<Vec<f32>>), DataError> {
        with(&IngestSpec::default(), bytes)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_header_is_found_or_done_without() {
        let names = |bytes: &[u8]| {
            plain(bytes).unwrap().0.schema.columns.into_iter().map(|column| column.name).collect::<Vec<_>>()
        };
        assert_eq!(names(b"a,b\n1,2\n"), ["a", "b"]);
        assert_eq!(names(b"\xef\xbb\xbfa,b\r\n1,2"), ["a", "b"]);
        assert_eq!(names(b"1,2\n3,4\n"), ["c0", "c1"]);
        assert_eq!(names(b"NA,2\n3,4\n"), ["c0", "c1"]);
    }

    #[test]
    fn a_header_over_texts_is_told_from_a_row_of_them() {
        let named = |bytes: &[u8]| plain(bytes).unwrap().0.schema.columns[0].name == "s";
        assert!(named(b"s,t\nm,1\nf,2\n"));
        assert!(named(b"s,t\nm,x\nf,y\n"));
        assert!(!named(b"s,1\nm,2\ns,3\n"));
        assert!(!named(b"s,x\nm,y\ns,x\n"));
    }

    #[test]
    fn the_delimiter_and_the_decimal_sign_are_found() {
        let rows = [[1.5, 2.0], [-3.25, 4.0]];
        for text in [
            "a;b\n1,5;2\n-3,25;4\n",
            "a\tb\n1.5\t2\n-3.25\t4\n",
            "a|b\n1.5|2\n-3.25|4\n",
            "\"a\",b\n1.5,\"2\"\n-3.25,4\n",
        ] {
            assert_eq!(plain(text.as_bytes()).unwrap().1, rows, "{text}");
        }
        let said = IngestSpec { delimiter: Some(b' '), ..IngestSpec::default() };
        assert_eq!(with(&said, b"a b\n1.5 2\n-3.25 4\n").unwrap().1, rows);
    }

    #[test]
    fn utf_16_and_zstd_read_like_plain_text() {
        let text = "a,b\n1,2\n3.5,-4e2\n";
        let expected = plain(text.as_bytes()).unwrap().1;
        let wide = |to: fn(u16) -> [u8; 2]| {
            std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(to).collect::<Vec<u8>>()
        };
        assert_eq!(plain(&wide(u16::to_le_bytes)).unwrap().1, expected);
        assert_eq!(plain(&wide(u16::to_be_bytes)).unwrap().1, expected);
        assert_eq!(plain(&zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap().1, expected);
    }

    #[test]
    fn texts_become_levels_in_their_order() {
        let (ingested, rows) = plain(b"size,x\n10,1\nsmall,2\n9,3\nNA,4\nsmall,5\n").unwrap();
        let column = &ingested.schema.columns[0];
        assert_eq!((column.kind, column.levels.join(",")), (Kind::Categorical, "9,10,small".to_owned()));
        assert_eq!(rows.iter().map(|row| row[0]).take(3).collect::<Vec<_>>(), [1.0, 2.0, 0.0]);
        assert!(rows[3][0].is_nan());
        let spec =
            IngestSpec { levels: vec![("size".into(), vec!["small".into(), "9".into()])], ..IngestSpec::default() };
        let Err(DataError::Refused(refusal)) = with(&spec, b"size,x\nsmall,2\n10,1\n") else {
            panic!("10 is no level")
        };
        assert_eq!(
            (refusal.errors[0].pointer.as_str(), refusal.errors[0].code.as_str()),
            ("/rows/1/columns/0", "unknown_level")
        );
    }

    #[test]
    fn free_text_is_left_out_and_says_why() {
        let lines: String = (0..60).map(|row| format!("name {row},note {},{}\n", row % 40, row * row)).collect();
        let (ingested, rows) = plain(format!("who,note,x\n{lines}").as_bytes()).unwrap();
        assert_eq!(rows[3], [9.0]);
        let roles: Vec<(Role, Kind)> =
            ingested.schema.columns.iter().map(|column| (column.role, column.kind)).collect();
        assert_eq!(roles, [(Role::Id, Kind::Text), (Role::Ignore, Kind::Text), (Role::Feature, Kind::Count)]);
        assert!(ingested.schema.columns[..2].iter().all(|column| column.reason.is_some()));
        let asked = IngestSpec::default().with_role(Role::Label, ["note"]);
        assert!(
            matches!(with(&asked, format!("who,note,x\n{lines}").as_bytes()), Err(DataError::Refused(refusal)) if refusal.errors[0].code == "free_text")
        );
    }

    #[test]
    fn a_category_that_grows_too_large_behind_the_look_is_left_out() {
        let early: String = (0..10_050).map(|row| format!("{},{row}.5\n", ["a", "b"][row % 2])).collect();
        let late: String = (0..400).map(|row| format!("t{row},0.5\n")).collect();
        let (ingested, rows) = plain(format!("s,x\n{early}{late}").as_bytes()).unwrap();
        assert_eq!((rows.len(), rows[1].len(), rows[1][0]), (10_450, 1, 1.5));
        assert_eq!((ingested.schema.columns[0].role, ingested.schema.columns[0].kind), (Role::Ignore, Kind::Text));
    }

    #[test]
    fn a_text_behind_the_look_in_a_column_of_numbers_is_named() {
        let early: String = (0..10_050).map(|row| format!("{row}.5,1\n")).collect();
        let Err(DataError::Refused(refusal)) = plain(format!("a,b\n{early}oops,1\n").as_bytes()) else { panic!() };
        assert_eq!(refusal.errors[0].pointer, "/rows/10050/columns/0");
        assert!(refusal.errors[0].detail.contains("line 10052"), "{}", refusal.errors[0].detail);
    }

    #[test]
    fn own_markers_of_missing_values_are_taken() {
        let spec = IngestSpec { missing: vec!["-999".into(), "unknown".into()], ..IngestSpec::default() };
        let (_, rows) = with(&spec, b"a,b\n-999,x\n2,unknown\n3,y\n-999.0,x\n").unwrap();
        let gaps: Vec<bool> = rows.iter().flatten().map(|value| value.is_nan()).collect();
        assert_eq!(gaps, [true, false, false, true, false, false, true, false]);
    }

    #[test]
    fn gzip_reads_like_plain_text() {
        let text = b"a,b\n1,2\n3.5,-4e2\n";
        assert_eq!(plain(&gzip(text)).unwrap().1, plain(text).unwrap().1);
        assert_eq!(plain(text).unwrap().1, [[1.0, 2.0], [3.5, -400.0]]);
    }

    #[test]
    fn missing_markers_become_nan() {
        let (ingested, rows) = plain(b"a,b\n1,NA\n,2\n3,?\nnan,null\n").unwrap();
        assert_eq!(rows.iter().flatten().filter(|value| value.is_nan()).count(), 5);
        assert_eq!(ingested.schema.columns[0].profile.as_ref().unwrap().missing, 2);
    }

    #[test]
    fn ignored_columns_may_hold_text_and_labels_are_no_features() {
        let spec = IngestSpec::default().with_role(Role::Ignore, ["name"]).with_role(Role::Label, ["y"]);
        let (ingested, rows) = with(&spec, b"name,x,y\nAda,1,0\nBob,2,1\n").unwrap();
        assert_eq!(rows, [[1.0, 0.0], [2.0, 1.0]]);
        assert_eq!(
            ingested.schema.columns.iter().map(|column| column.role).collect::<Vec<_>>(),
            [Role::Ignore, Role::Feature, Role::Label]
        );
    }

    #[test]
    fn each_malformed_file_says_where() {
        fn check(bytes: &[u8], pointer: &str, code: &str) {
            match plain(bytes) {
                Err(DataError::Refused(refusal)) => {
                    let fault = &refusal.errors[0];
                    assert_eq!((fault.pointer.as_str(), fault.code.as_str()), (pointer, code), "{refusal:?}");
                }
                other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(bytes)),
            }
        }
        check(b"", "", "empty");
        check(b"\n\n", "", "empty");
        check(b"a,b\n", "", "empty");
        check(b"a,b\n1,2\n3\n", "/rows/1", "ragged");
        let mostly_numbers = [b"a,b\n".as_slice(), &b"1,2\n".repeat(20), b"3,x\n"].concat();
        check(&mostly_numbers, "/rows/20/columns/1", "not_a_number");
        check(b"a,b\n1,inf\n", "/rows/0/columns/1", "out_of_range");
        check(b"a,b\n1,-1e99\n", "/rows/0/columns/1", "out_of_range");
        check(b"a,a\n1,2\n", "/columns/1", "duplicate");
        check(b"a,\xff\n1,2\n", "/columns/1", "not_utf8");
        check(b"\x7fELF\x02\0\0\0", "/", "not_text");
        let whole = gzip(b"a,b\n1,2\n3,4\n5,6\n");
        check(&whole[..whole.len() - 9], "/", "broken_compression");
    }

    #[test]
    fn every_bad_cell_of_a_row_is_named() {
        let spec =
            IngestSpec { kinds: vec![("a".into(), Kind::Real), ("b".into(), Kind::Real)], ..IngestSpec::default() };
        let Err(DataError::Refused(refusal)) = with(&spec, b"a,b\nx,y\nz,1\n") else {
            panic!("text was taken as numbers")
        };
        assert_eq!(refusal.errors.len(), 3);
        assert_eq!(refusal.errors[2].pointer, "/rows/1/columns/0");
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let bomb = gzip(&b"1,2\n".repeat(4 << 20));
        assert!(matches!(plain(&bomb), Err(DataError::Refused(Refusal { code: Code::TooLarge, .. }))));
        let line = gzip(&vec![b'7'; LINE_BYTES + (1 << 20)]);
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("in");
        std::fs::write(&source, line).unwrap();
        let outcome = ingest(&source, &directory.path().join("out"), &IngestSpec::default(), 1 << 30);
        assert!(matches!(outcome, Err(DataError::Refused(refusal)) if refusal.errors[0].code == "line_too_long"));
    }
}
