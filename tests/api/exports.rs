//! Rows leave as files that other programs read, whole if that is wanted.

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;

use crate::support::TestApp;

/// Names and rows of record batches; NaN where a value is null.
fn table(batches: &[RecordBatch]) -> (Vec<String>, Vec<Vec<f32>>) {
    let names = batches[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    let rows = batches.iter().flat_map(|batch| {
        (0..batch.num_rows()).map(|row| {
            let value = |column: &dyn Array| {
                let column = column.as_primitive::<Float32Type>();
                if column.is_null(row) { f32::NAN } else { column.value(row) }
            };
            batch.columns().iter().map(|column| value(column)).collect()
        })
    });
    (names, rows.collect())
}

fn arrow(bytes: &[u8]) -> Vec<RecordBatch> {
    arrow_ipc::reader::StreamReader::try_new(bytes, None).unwrap().map(Result::unwrap).collect()
}

fn parquet(bytes: Vec<u8>) -> Vec<RecordBatch> {
    let file = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
    file.build().unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn rows_are_given_as_csv_arrow_and_parquet() {
    let app = TestApp::start().await;
    let file = "a,\"b, c\"\r\n1,0.1\r\n2.5,\r\n-3,4\r\n";
    let dataset = app.upload("", file).await;
    let path = format!("/v1/datasets/{}/rows", dataset["id"].as_str().unwrap());
    let csv = app.get_as(&path, "text/csv").await;
    assert_eq!((csv.status.as_u16(), String::from_utf8(csv.body).unwrap().as_str()), (200, file));
    assert!(csv.headers["content-type"].to_str().unwrap().starts_with("text/csv"));
    let name = format!("attachment; filename=\"{}.csv\"", dataset["id"].as_str().unwrap());
    assert_eq!(csv.headers["content-disposition"], name.as_str());
    let part = app.get(&format!("{path}?format=csv&offset=1&limit=1")).await;
    assert_eq!(part.body, b"a,\"b, c\"\r\n2.5,\r\n");

    for (form, kind) in
        [("arrow", "application/vnd.apache.arrow.stream"), ("parquet", "application/vnd.apache.parquet")]
    {
        let asked = app.get(&format!("{path}?format={form}&limit=all")).await;
        assert_eq!((asked.status.as_u16(), asked.headers["content-type"].to_str().unwrap()), (200, kind));
        let read = |body: Vec<u8>| table(&if form == "arrow" { arrow(&body) } else { parquet(body) });
        let (names, rows) = read(asked.body);
        assert_eq!(names, ["a", "b, c"]);
        assert_eq!((rows.len(), rows[0].as_slice(), rows[2].as_slice()), (3, &[1.0, 0.1][..], &[-3.0, 4.0][..]));
        assert!(rows[1][0] == 2.5 && rows[1][1].is_nan());
        assert_eq!(read(app.get_as(&path, kind).await.body).1.len(), 3);
    }
    for query in
        ["?limit=all", "?format=npy&limit=all", "?limit=many", "?format=csv&limit=10001", "?format=arrow&limit=0"]
    {
        app.get(&format!("{path}{query}")).await.refuses(422, "invalid_request", &["?limit"]);
    }
    app.get(&format!("{path}?format=xlsx")).await.refuses(422, "invalid_request", &["?format"]);
    app.get_as(&path, "image/png").await.refuses(406, "not_acceptable", &[]);
    let beyond = app.get(&format!("{path}?format=csv&offset=9&limit=all")).await;
    assert_eq!(beyond.body, b"a,\"b, c\"\r\n", "there are no rows there");
    app.stop().await;
}

#[tokio::test]
async fn a_whole_dataset_leaves_in_every_form_and_comes_back_the_same() {
    let app = TestApp::start().await;
    let count = 300_000;
    let line = |row: usize| format!("{row},{}\n", row as f32 / 7.0);
    // Two files below the limit of an upload make more rows than one block holds.
    let half = |from: usize| format!("a,b\n{}", (from..from + count / 2).map(line).collect::<String>());
    let first = app.upload("", half(0)).await;
    let added = format!("/v1/datasets/{}/rows", first["id"].as_str().unwrap());
    let whole = app.post_as(&added, "text/csv", half(count / 2)).await.expect(201);
    let path = format!("/v1/datasets/{}/rows", whole["id"].as_str().unwrap());
    let expected = |row: usize| vec![row as f32, row as f32 / 7.0];
    let csv = app.get(&format!("{path}?format=csv&limit=all")).await.body;
    let text = String::from_utf8(csv).unwrap();
    assert_eq!(text.lines().count(), count + 1);
    for (row, line) in text.lines().skip(1).enumerate() {
        let values: Vec<f32> = line.split(',').map(|cell| cell.parse().unwrap()).collect();
        assert_eq!(values, expected(row));
    }
    let streamed = table(&arrow(&app.get(&format!("{path}?format=arrow&limit=all")).await.body)).1;
    let stored = table(&parquet(app.get(&format!("{path}?format=parquet&limit=all")).await.body)).1;
    for rows in [streamed, stored] {
        assert_eq!(rows.len(), count);
        assert!(rows.iter().enumerate().all(|(row, values)| *values == expected(row)));
    }
    assert_eq!(app.get(&format!("{path}?limit=2")).await.expect(200)["total"], json!(count));
    app.stop().await;
}
