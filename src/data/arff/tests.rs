//! Files of every shape that ARFF has, and damaged ones.

use proptest::prelude::*;

use super::super::trial;
use super::*;
use crate::data::dataset::Kind as ColumnKind;
use crate::data::{Format, IngestSpec};

const WEATHER: &str = "% a remark\n\n@RELATION weather\n@attribute outlook {sunny, 'over cast', none}\n\
    @Attribute temperature\treal\n@attribute 'wind y' INTEGER\n@attribute day date 'yyyy-MM-dd'\n\
    @attribute note string\n@attribute Class { no, yes }\n@DATA\n\
    sunny, 20.5, 1, 1970-01-03, 'it''s', yes\n\
    % between rows\n\
    'over cast', ?, 0, ?, \"two, words\", no % to the end\n\
    none\t7\t1\t1970-01-01\tx\t?\n";

#[test]
fn every_kind_of_attribute_is_read() {
    // Two quotes are the end of one text and the start of another, as Weka has it.
    let text = WEATHER.replace("it''s", "it\\'s");
    for bytes in [text.clone().into_bytes(), trial::gzip(text.as_bytes()), trial::zstd(text.as_bytes())] {
        let (ingested, rows) = trial::read(&bytes).unwrap();
        assert_eq!(ingested.format, Format::Arff);
        let columns = &ingested.schema.columns;
        let kinds: Vec<_> = columns.iter().map(|column| column.kind).collect();
        assert_eq!(kinds[0], ColumnKind::Categorical);
        assert_eq!(kinds[1], ColumnKind::Positive);
        assert_eq!(kinds[5], ColumnKind::Categorical);
        assert_eq!(columns[0].levels, ["sunny", "over cast", "none"]);
        assert_eq!(columns[2].name, "wind y");
        assert!(columns[3].reason.as_ref().unwrap().contains("days since 1970"), "{:?}", columns[3].reason);
        assert_eq!(columns[5].role, Role::Label);
        assert_eq!(rows[0], [0.0, 20.5, 1.0, 2.0, 0.0, 1.0]);
        assert!(rows[1][1].is_nan() && rows[1][3].is_nan() && rows[2][5].is_nan());
        assert_eq!((rows[2][0], rows[2][1]), (2.0, 7.0));
        assert_eq!(columns[4].levels, ["it's", "two, words", "x"]);
    }
}

#[test]
fn a_level_may_be_called_as_missing_values_are() {
    let text = b"@relation r\n@attribute a {none,'?',NA}\n@attribute b real\n@data\nnone,1\n'?',2\nNA,3\n?,4\n";
    let (_, rows) = trial::read(text).unwrap();
    assert_eq!(rows.iter().take(3).map(|row| row[0]).collect::<Vec<_>>(), [0.0, 1.0, 2.0]);
    assert!(rows[3][0].is_nan());
}

#[test]
fn sparse_rows_leave_out_zeros_and_first_levels() {
    let text = b"@relation r\n@attribute a real\n@attribute b {x,y}\n@attribute c real\n@data\n{}\n{2 5, 1 y}\n{ 0 ?,1 'x' }\n1,y,2\n";
    let (_, rows) = trial::read(text).unwrap();
    assert_eq!((&rows[0], &rows[1], &rows[3]), (&vec![0.0, 0.0, 0.0], &vec![0.0, 1.0, 5.0], &vec![1.0, 1.0, 2.0]));
    assert!(rows[2][0].is_nan() && rows[2][2] == 0.0);
}

#[test]
fn a_class_that_is_asked_for_as_a_feature_is_one() {
    let spec = IngestSpec::default().with_role(Role::Feature, ["Class", "outlook"]);
    let (ingested, rows) = trial::read_with(&spec, WEATHER.replace("it''s", "its").as_bytes()).unwrap();
    assert_eq!(ingested.schema.features(), [0, 1]);
    assert_eq!(rows[0], [0.0, 1.0]);
}

#[test]
fn attributes_of_too_many_levels_are_texts() {
    let names: Vec<String> = (0..LEVELS + 1).map(|level| format!("v{level}")).collect();
    let text =
        format!("@relation r\n@attribute a {{{}}}\n@attribute b real\n@data\nv7,1\nv7,2\nv9,3\n", names.join(","));
    let (ingested, _) = trial::read(text.as_bytes()).unwrap();
    assert_eq!(ingested.schema.columns[0].levels, ["v7", "v9"]);
}

#[test]
fn each_malformed_file_says_where() {
    fn check(text: &str, pointer: &str, code: &str) {
        trial::refused_as(Format::Arff, text.as_bytes(), pointer, code);
    }
    let rows = |rows: &str| {
        format!("@relation r\n@attribute a real\n@attribute b {{x,y}}\n@attribute d date\n@data\n{rows}\n")
    };
    check(&rows("1,x"), "/rows/0", "ragged");
    check(&rows("1,x,?,2"), "/rows/0", "ragged");
    check(&rows("1,x,?\no,x,?"), "/rows/1/columns/0", "not_a_number");
    check(&rows("1,z,?"), "/rows/0/columns/1", "unknown_level");
    check(&rows("1,x,today"), "/rows/0/columns/2", "not_a_date");
    check(&rows("1e99,x,?"), "/rows/0/columns/0", "out_of_range");
    check(&rows("1,'x,?"), "/rows/0", "broken_row");
    check(&rows("1,x,?,{3}"), "/rows/0", "broken_row");
    check(&rows("{0 1, 0 2}"), "/rows/0", "broken_row");
    check(&rows("{7 1}"), "/rows/0", "broken_row");
    check(&rows("{0}"), "/rows/0", "broken_row");
    check(&rows("{0 1"), "/rows/0", "broken_row");
    check(&rows("{0 1}, {2}"), "/rows/0", "broken_row");
    check(&rows(""), "", "empty");
    check("@relation r\n@data\n1\n", "/columns", "empty");
    check("@relation r\n@attribute a real\n", "/", "broken_header");
    check("@relation r\n@attribute\n@data\n", "/columns/0", "broken_header");
    check("@relation r\n@attribute a\n@data\n", "/columns/0", "broken_header");
    check("@relation r\n@attribute a {x,y\n@data\n", "/columns/0", "broken_header");
    check("@relation r\n@attribute a {x,x}\n@data\n", "/columns/0", "duplicate");
    check("@relation r\n@attribute a real\n@attribute bag relational\n@data\n", "/columns/1", "not_tabular");
    check("@relation r\n@attribute a date 'QQ'\n@data\n", "/columns/0", "broken_header");
    check("@relation r\n@attribute a real\n@attribute a real\n@data\n1,2\n", "/columns/1", "duplicate");
    check("@relation r\nhello\n", "/columns/0", "broken_header");
    let whole = trial::gzip(WEATHER.as_bytes());
    trial::refused_as(Format::Arff, &whole[..whole.len() - 9], "/", "broken_compression");
    let many = "@attribute a real\n".repeat(COLUMNS + 1);
    check(&format!("@relation r\n{many}@data\n1\n"), &format!("/columns/{COLUMNS}"), "too_many");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_is_read(
        rows in prop::collection::vec((prop::option::of(-1e6_f32..1e6), prop::option::of(0..3_usize)), 1..30),
        sparse: bool,
    ) {
        let levels = ["a b", "it's", "100%"];
        let quoted = |level: usize| format!("'{}'", levels[level].replace('\'', "\\'"));
        let mut text = "@relation r\n@attribute n numeric\n".to_owned();
        text += &format!("@attribute l {{{}}}\n@data\n", (0..3).map(quoted).collect::<Vec<_>>().join(","));
        for (number, level) in &rows {
            let number = number.map_or("?".to_owned(), |number| number.to_string());
            let level = level.map_or("?".to_owned(), quoted);
            text += &if sparse { format!("{{0 {number}, 1 {level}}}\n") } else { format!("{number},{level}\n") };
        }
        let (ingested, read) = trial::read(text.as_bytes()).unwrap();
        prop_assert_eq!(&ingested.schema.columns[1].levels, &levels);
        prop_assert_eq!(read.len(), rows.len());
        for (found, (number, level)) in read.iter().zip(&rows) {
            prop_assert_eq!(number.map(f32::to_bits), (!found[0].is_nan()).then(|| found[0].to_bits()));
            prop_assert_eq!(level.map(|level| level as f32), (!found[1].is_nan()).then_some(found[1]));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        header in "[ -~\\n{},'%@]{0,80}",
        rest in prop::collection::vec(any::<u8>(), 0..200),
        data in "[0-9,'{}%? \\n\\\\a-c]{0,80}",
    ) {
        let _ = trial::read(&[b"@relation r\n@attribute ", header.as_bytes(), &rest].concat());
        let whole = format!("@relation r\n@attribute a real\n@attribute b {{a,b}}\n@attribute c date\n@data\n{data}");
        let _ = trial::read(whole.as_bytes());
    }

    #[test]
    fn damage_is_read_or_refused(position in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
        trial::damage(WEATHER.as_bytes(), position.index(WEATHER.len()), byte, cut.index(WEATHER.len()));
    }
}
