//! Rows of every kind, and damaged ones.

use proptest::prelude::*;
use serde_json::json;

use super::super::trial;
use crate::data::dataset::{Kind, Role};
use crate::data::{Format, IngestSpec};

fn lines(rows: &[serde_json::Value]) -> Vec<u8> {
    rows.iter().map(|row| format!("{row}\n")).collect::<String>().into_bytes()
}

#[test]
fn objects_are_rows_in_the_order_of_their_keys() {
    let text = b"{\"b\": 1, \"a\": true}\n\n{\"a\": false, \"c\": \"red\"}\n  {\"c\":\"blue\",\"b\":null,\"a\":true}";
    for bytes in [text.to_vec(), trial::gzip(text), trial::zstd(text)] {
        let (ingested, rows) = trial::read(&bytes).unwrap();
        assert_eq!(ingested.format, Format::Jsonl);
        let names: Vec<_> = ingested.schema.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["b", "a", "c"]);
        assert_eq!(ingested.schema.columns[1].kind, Kind::Binary);
        assert_eq!(ingested.schema.columns[2].levels, ["blue", "red"]);
        assert_eq!(rows[0][..2], [1.0, 1.0]);
        assert!(rows[0][2].is_nan() && rows[1][0].is_nan() && rows[2][0].is_nan());
        assert_eq!((rows[1][2], rows[2][2]), (1.0, 0.0));
    }
}

#[test]
fn arrays_of_one_width_are_rows() {
    let (ingested, rows) = trial::read(b"[1, 2.5]\n[3, -4e2]\n").unwrap();
    assert_eq!(rows, [[1.0, 2.5], [3.0, -400.0]]);
    assert_eq!(ingested.schema.columns[1].name, "c1");
}

#[test]
fn texts_stay_texts_unless_all_are_numbers() {
    let rows = b"{\"zip\": \"01234\", \"quoted\": \"1.5\", \"mixed\": 1, \"missing\": \"NA\"}\n\
        {\"zip\": \"99999\", \"quoted\": \"7\", \"mixed\": \"two\", \"missing\": 3}\n";
    let (ingested, rows) = trial::read(rows).unwrap();
    let columns = &ingested.schema.columns;
    assert_eq!(columns[0].levels, ["01234", "99999"]);
    assert_eq!((rows[0][1], rows[1][1]), (1.5, 7.0));
    assert_eq!(columns[2].levels, ["1", "two"]);
    assert!(rows[0][3].is_nan() && rows[1][3] == 3.0);
}

#[test]
fn a_nested_column_may_be_ignored() {
    let text = b"{\"a\": 1, \"tags\": [1, [2]]}\n{\"a\": 2, \"tags\": {\"x\": {}}}\n";
    trial::refused(text, "/columns/1", "not_tabular");
    let spec = IngestSpec::default().with_role(Role::Ignore, ["tags"]);
    assert_eq!(trial::read_with(&spec, text).unwrap().1, [[1.0], [2.0]]);
}

#[test]
fn digits_that_are_lost_are_told() {
    let (ingested, _) = trial::read(b"{\"a\": 20000001, \"b\": 1e30}\n").unwrap();
    let told = |column: usize| ingested.schema.columns[column].reason.as_ref().unwrap().contains("rounded");
    assert!(told(0) && !told(1));
}

#[test]
fn each_malformed_file_says_where() {
    let check = trial::refused;
    check(b"{\"a\": 1}\n{\"a\": 2", "/rows/1", "not_json");
    check(b"{\"a\": 1}\n{\"a\": 2} 3\n", "/rows/1", "not_json");
    check(b"{\"a\": 1}\n{\"a\": NaN}\n", "/rows/1", "not_json");
    check(b"{\"a\": 1}\n{\"a\": 1e999}\n", "/rows/1", "not_json");
    check(b"{\"a\": 1}\n{\"a\": 1e99}\n", "/rows/1/columns/0", "out_of_range");
    check(b"{\"a\": 1}\n7\n", "/rows/1", "not_json");
    check(b"{\"a\": 1}\n[7]\n", "/rows/1", "mixed");
    check(b"[1,2]\n[3]\n", "/rows/1", "ragged");
    check(b"[1,2]\n[3,4,5]\n", "/rows/1", "ragged");
    check(b"{\"a\": 1, \"a\": 2}\n", "/rows/0", "duplicate");
    check(b"{\"a\": \xff}\n", "/rows/0", "not_json");
    check(b"{}\n{}\n", "", "empty");
    check(b"[\n{\"a\": 1}\n]\n", "/rows/0", "not_json");
    check(b"{\n\"a\": 1\n}\n", "/rows/0", "not_json");
    check(b"[{\"a\": 1}, {\"a\": 2}]\n", "/columns/0", "not_tabular");
    check(&[b"{\"a\":".repeat(100_000), b"1".to_vec()].concat(), "/rows/0", "not_json");
    check(&[&b"{\"a\": 1, \"b\":"[..], &b"[".repeat(100_000)].concat(), "/rows/0", "not_json");
    let whole = trial::gzip(&b"{\"a\": 1}\n".repeat(100));
    check(&whole[..whole.len() - 9], "/", "broken_compression");
    let name = "n".repeat(5_000);
    check(format!("{{\"{name}\": 1}}\n").as_bytes(), "/columns/0", "too_long");
}

#[test]
fn a_key_that_the_first_rows_do_not_have_is_a_fault() {
    let mut text = b"{\"a\": 1}\n".repeat(super::LOOK_ROWS);
    text.extend(b"{\"a\": 1, \"late\": 2}\n");
    trial::refused(&text, &format!("/rows/{}", super::LOOK_ROWS), "unknown_column");
}

#[test]
fn a_late_text_among_numbers_is_a_fault_of_its_cell() {
    let mut text = b"{\"a\": 1, \"b\": 2}\n".repeat(super::LOOK_ROWS);
    text.extend(b"{\"a\": \"x\", \"b\": [1]}\n");
    let row = super::LOOK_ROWS;
    trial::refused(&text, &format!("/rows/{row}/columns/0"), "not_a_number");
}

#[test]
fn too_many_columns_are_refused() {
    let many: String = (0..70_000).map(|column| format!("\"k{column}\":1,")).collect();
    trial::refused(format!("{{{}}}\n", many.trim_end_matches(',')).as_bytes(), "/columns", "too_many");
    let wide = format!("[{}1]\n", "1,".repeat(70_000));
    trial::refused(wide.as_bytes(), "/columns", "too_many");
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    trial::too_large(&trial::gzip(&b"[1,2]\n".repeat(4 << 20)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_is_read(
        rows in prop::collection::vec((prop::option::of(-1e6_f32..1e6), prop::option::of("[a-z\"\\\\é\n]{1,6}")), 1..30),
    ) {
        let written = rows.iter().map(|(number, text)| json!({"n": number, "t": text.as_ref().map(|text| format!("-{text}-"))}));
        let written: Vec<_> = written.chain([json!({"n": 0.5, "t": "-end-"})]).collect();
        let (ingested, read) = trial::read(&lines(&written)).unwrap();
        let texts = &ingested.schema.columns[1];
        for (found, row) in read.iter().zip(&written) {
            prop_assert_eq!(row["n"].as_f64().map(|number| number as f32), (!found[0].is_nan()).then_some(found[0]));
            if let Some(found) = found.get(1) {
                prop_assert_eq!(row["t"].as_str(), texts.text(*found));
            }
        }
        // Texts of which each is another are left out, with a reason.
        prop_assert!(read[0].len() == 2 || texts.role != Role::Feature);
    }

    #[test]
    fn any_bytes_are_read_or_refused(rest in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":,0-9a-e\n ]{0,80}") {
        let _ = trial::read(&[b"{\"", &rest[..]].concat());
        let _ = trial::read(format!("[1,{text}").as_bytes());
        let _ = trial::read(format!("{{\"a\":1}}\n{{\"a\":{text}").as_bytes());
    }

    #[test]
    fn damage_is_read_or_refused(position in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
        let whole = b"{\"a\": 1, \"b\": \"x\"}\n{\"a\": 2.5e3, \"b\": null}\n{\"b\": \"y\"}\n";
        trial::damage(whole, position.index(whole.len()), byte, cut.index(whole.len()));
    }
}
