//! The same rows in every form are the same question, and the same answer comes in every form.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Float32Array, RecordBatch, StringArray};
use axum::body::Body;
use axum::http::Request;
use latente::data::dataset::Column;
use latente::data::export::{self, Form};
use latente::data::npy::{matrix, written};
use latente::data::rows::floats;
use latente::data::safetensors::{self, Named};
use serde_json::{Value, json};

use super::{close, pixels, rows, trained};
use crate::support::{Answer, TestApp, npy};

const CSV: &str = "text/csv";
const JSONL: &str = "application/x-ndjson";
const NPY: &str = "application/x-npy";
const ARROW: &str = "application/vnd.apache.arrow.stream";
const PARQUET: &str = "application/vnd.apache.parquet";
const F32: &str = "application/octet-stream";
const SAFETENSORS: &str = "application/x-safetensors";
const EVERY: [&str; 7] = [CSV, JSONL, NPY, ARROW, PARQUET, F32, SAFETENSORS];

const SIZES: [&str; 3] = ["large", "middle, \"so\"", "small"];

/// Rows of a JSON body, answered in another form.
async fn ask(app: &TestApp, path: &str, accept: &str, body: &Value) -> Answer {
    let request = Request::post(path).header("content-type", "application/json").header("accept", accept);
    app.send(request.body(Body::from(body.to_string())).unwrap()).await
}

/// A model of a table with a category, gaps, an identifier and a label.
pub(super) async fn of_a_table(app: &TestApp) -> String {
    let lines: String = (0..60)
        .map(|row| {
            let x = if row % 7 == 3 { String::new() } else { format!("{}", row as f32 / 8.0) };
            let size = ["large", "\"middle, \"\"so\"\"\"", "small", ""][row % 4];
            format!("r{row},{x},{size},{},{}\n", row % 5, ["yes", "no"][row % 2])
        })
        .collect();
    let dataset = app.upload("?id=key&label=y", format!("key,x,size,n,y\n{lines}")).await;
    let job = json!({
        "dataset": dataset["id"],
        "model": {"family": "vae", "settings": {"latent": 2}},
        "network": {"hidden": [8]},
        "training": {"epochs": 3, "seed": 1},
    });
    format!("/v1/models/{}", app.train(&job).await)
}

/// Rows of that table in the order of its features, categories by their positions.
const ROWS: [f32; 12] = [0.25, 0.0, 3.0, f32::NAN, 2.0, 1.0, -1.5, f32::NAN, 4.0, 7.125, 1.0, 0.0];

fn columns() -> [Column; 3] {
    let mut columns = ["x", "size", "n"].map(Column::of_numbers);
    columns[1].levels = SIZES.map(str::to_owned).to_vec();
    columns
}

fn exported(form: Form, columns: &[Column], values: &[f32]) -> Vec<u8> {
    let (columns, mut bytes): (Vec<&Column>, _) = (columns.iter().collect(), Vec::new());
    export::write(form, &columns, values.chunks_exact(columns.len()), &mut bytes).unwrap();
    bytes
}

fn tensors(name: &str, width: usize, values: &[f32]) -> Vec<u8> {
    safetensors::written(&[Named { name, width: Some(width), values }], HashMap::new()).unwrap()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Those rows in each form.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let columns = columns();
    // Positions of levels in another order, and more columns than the model takes.
    let shuffled =
        "n,y,size,key,x\n3,yes,large,a,0.25\n1,no,small,b,\n4,,,c,-1.5\n0,yes,\"middle, \"\"so\"\"\",d,7.125\n";
    let lines = "{\"n\":3,\"size\":\"large\",\"x\":0.25}\n{\"size\":\"small\",\"n\":1}\n{\"x\":-1.5,\"size\":null,\"n\":4}\n{\"x\":7.125,\"size\":\"middle, \\\"so\\\"\",\"n\":0}\n";
    let arrays = "[0.25,\"large\",3]\n[null,\"small\",1]\n[-1.5,null,4]\n[7.125,\"middle, \\\"so\\\"\",0]\n";
    vec![
        (CSV, exported(Form::Csv, &columns, &ROWS)),
        (CSV, shuffled.into()),
        (CSV, shuffled.replace("large", "LARGE").replace("LARGE", " large ").into()),
        ("text/csv; header=absent", "0.25,large,3\n,small,1\n-1.5,NA,4\n7.125,\"middle, \"\"so\"\"\",0\n".into()),
        (
            "Text/CSV; header=present",
            "x;size;n\n0,25;large;3\n;small;1\n-1,5;;4\n7,125;\"middle, \"\"so\"\"\";0\n".into(),
        ),
        (JSONL, exported(Form::Jsonl, &columns, &ROWS)),
        ("application/jsonl", lines.into()),
        (JSONL, arrays.into()),
        (NPY, npy(4, 3, &ROWS)),
        (ARROW, exported(Form::Arrow, &columns, &ROWS)),
        (PARQUET, exported(Form::Parquet, &columns, &ROWS)),
        (F32, bytes(&ROWS)),
        (SAFETENSORS, tensors("rows", 3, &ROWS)),
        (SAFETENSORS, tensors("anything", 3, &ROWS)),
    ]
}

#[tokio::test]
async fn a_table_with_categories_and_gaps_is_the_same_question_in_every_form() {
    let app = TestApp::start().await;
    let model = of_a_table(&app).await;
    let row = |x: Value, size: Value, n: u8| json!([x, size, n]);
    let in_json = json!({"rows": [
        row(json!(0.25), json!("large"), 3),
        row(Value::Null, json!("small"), 1),
        row(json!(-1.5), Value::Null, 4),
        row(json!(7.125), json!(SIZES[1]), 0),
    ]});
    for question in ["encode", "impute", "score", "reconstruct"] {
        let path = format!("{model}/{question}");
        let expected = app.post(&path, &in_json).await.expect(200);
        for (kind, body) in bodies() {
            assert_eq!(app.post_as(&path, kind, body).await.expect(200), expected, "{question} of {kind}");
        }
    }
    // Options stand in the query, and a column that is left out is missing where missing values are filled in.
    let filled =
        app.post(&format!("{model}/impute"), &json!({"rows": [{"n": 3}], "rounds": 2, "seed": 4})).await.expect(200);
    let told = app.post_as(&format!("{model}/impute?rounds=2&seed=4"), CSV, "n\n3\n").await.expect(200);
    assert_eq!(told, filled);
    app.stop().await;
}

#[tokio::test]
async fn what_is_answered_in_a_form_can_be_asked_in_it() {
    let app = TestApp::start().await;
    let model = of_a_table(&app).await;
    let asked = json!({"rows": [[0.25, "large", 3], [3.5, "small", 1], [-1.5, SIZES[1], 4]]});
    let rebuilt = app.post(&format!("{model}/reconstruct"), &asked).await.expect(200);
    let codes = app.post(&format!("{model}/encode"), &json!({"rows": rebuilt["rows"]})).await.expect(200);
    let decoded = app.post(&format!("{model}/decode"), &json!({"codes": codes["codes"]})).await.expect(200);
    for kind in EVERY {
        let answer = ask(&app, &format!("{model}/reconstruct"), kind, &asked).await;
        assert_eq!(answer.status, 200, "{kind}: {}", String::from_utf8_lossy(&answer.body));
        let told = answer.headers["content-type"].to_str().unwrap().to_owned();
        assert!(told.starts_with(kind), "{told}");
        let again = app.post_as(&format!("{model}/encode"), &told, answer.body).await.expect(200);
        close(&again["codes"], &codes["codes"]);
        let answer = ask(&app, &format!("{model}/encode"), kind, &json!({"rows": rebuilt["rows"]})).await;
        let again = app.post_as(&format!("{model}/decode"), &told, answer.body).await.expect(200);
        for (one, other) in again["rows"].as_array().unwrap().iter().zip(decoded["rows"].as_array().unwrap()) {
            assert!((one[0].as_f64().unwrap() - other[0].as_f64().unwrap()).abs() < 1e-4, "{kind}: {one} {other}");
            assert_eq!(one[1], other[1], "{kind}");
        }
    }
    // In words: levels by their texts, codes by their numbers.
    let lines = ask(&app, &format!("{model}/reconstruct"), JSONL, &asked).await.body;
    let first: Value = serde_json::from_slice(lines.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!(first["size"], rebuilt["rows"][0][1]);
    let text = String::from_utf8(ask(&app, &format!("{model}/encode"), CSV, &asked).await.body).unwrap();
    assert!(text.starts_with("z0,z1\r\n") && text.lines().count() == 4, "{text}");
    // In numbers: levels by their positions.
    let position = SIZES.iter().position(|size| *size == rebuilt["rows"][0][1]).unwrap() as f32;
    let answer = app.get(&format!("{model}/decode?x=0,0&format=f32")).await;
    let of_code = app.get(&format!("{model}/decode?x=0,0")).await.expect(200);
    assert_eq!(SIZES[floats(&answer.body)[1] as usize], of_code["rows"][0][1]);
    let answer = ask(&app, &format!("{model}/reconstruct"), NPY, &asked).await;
    assert_eq!(matrix(&answer.body, 9).unwrap().2[1], position);
    app.stop().await;
}

#[tokio::test]
async fn what_stands_beside_an_answer_is_told_where_there_is_room() {
    let app = TestApp::start().await;
    let model = of_a_table(&app).await;
    let asked = json!({"rows": [[0.25, "large", 3], [3.5, "small", 1]]});
    let named = |body: &[u8], name: &str| safetensors::matrix(body, name, 100).unwrap();
    let told = app.post(&format!("{model}/reconstruct"), &asked).await.expect(200);
    let answer = ask(&app, &format!("{model}/reconstruct"), SAFETENSORS, &asked).await;
    assert_eq!(named(&answer.body, "errors").2, serde_json::from_value::<Vec<f32>>(told["errors"].clone()).unwrap());
    let told = app.post(&format!("{model}/encode"), &asked).await.expect(200);
    let answer = ask(&app, &format!("{model}/encode"), SAFETENSORS, &asked).await;
    close(&json!(named(&answer.body, "spread").2.chunks(2).collect::<Vec<_>>()), &told["spread"]);
    let answer = app.get(&format!("{model}/decode?x=0,1&spread=true&format=safetensors")).await;
    assert_eq!(named(&answer.body, "spread").1, 3);
    let refused = app.get(&format!("{model}/decode?x=0,1&spread=true&format=csv")).await;
    assert!(refused.refuses(422, "invalid_request", &["?spread"]).contains(SAFETENSORS));

    let told = app.post(&format!("{model}/score"), &asked).await.expect(200);
    let table = String::from_utf8(ask(&app, &format!("{model}/score"), CSV, &asked).await.body).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    let head = "score,anomaly,is_anomaly,reconstruction,error,log_likelihood,standard_error,effective_samples,elbo";
    assert_eq!((lines[0], lines.len()), (head, 3));
    let score: f64 = lines[2].split(',').next().unwrap().parse().unwrap();
    assert!((score - told["scores"][1]["score"].as_f64().unwrap()).abs() < 1e-4 * score.abs().max(1.0));
    app.stop().await;
}

#[tokio::test]
async fn images_go_in_and_come_out_in_every_form() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let pixels: Vec<f32> = pixels(&app, &dataset, 3).await.concat().into_iter().map(|value| value as f32).collect();
    let expected = app.get(&format!("{model}/encode?dataset={dataset}&rows=0-2")).await.expect(200);
    let names = app.get(&model).await.expect(200)["columns"].clone();
    let names = names.as_array().unwrap().iter().filter(|column| column["role"] == "feature");
    let columns: Vec<Column> = names.map(|column| Column::of_numbers(column["name"].as_str().unwrap())).collect();
    let batch = RecordBatch::try_from_iter(columns.iter().enumerate().map(|(at, column)| {
        let values: Float32Array = pixels.iter().skip(at).step_by(64).copied().map(Some).collect();
        (column.name.clone(), Arc::new(values) as arrow_array::ArrayRef)
    }))
    .unwrap();
    let mut file = arrow_ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    file.write(&batch).unwrap();
    let file = file.into_inner().unwrap();
    let as_images = {
        let mut header = b"\x93NUMPY\x01\x00".to_vec();
        let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 8, 8), }\n";
        header.extend((text.len() as u16).to_le_bytes());
        header.extend(text.as_bytes());
        header.extend(pixels.iter().map(|value| *value as u8));
        header
    };
    for (kind, body) in [
        (CSV, exported(Form::Csv, &columns, &pixels)),
        (JSONL, exported(Form::Jsonl, &columns, &pixels)),
        (NPY, written(&pixels, 64)),
        (NPY, as_images),
        (ARROW, exported(Form::Arrow, &columns, &pixels)),
        ("application/vnd.apache.arrow.file", file),
        (PARQUET, exported(Form::Parquet, &columns, &pixels)),
        (F32, bytes(&pixels)),
        (SAFETENSORS, tensors("rows", 64, &pixels)),
    ] {
        assert_eq!(app.post_as(&format!("{model}/encode"), kind, body).await.expect(200), expected, "{kind}");
    }
    let drawn = rows(&app.get(&format!("{model}/sample?n=5&seed=2")).await.expect(200)["rows"]).concat();
    let drawn: Vec<f32> = drawn.into_iter().map(|value| value as f32).collect();
    let get = async |kind: &str| app.get_as(&format!("{model}/sample?n=5&seed=2"), kind).await.body;
    assert_eq!(floats(&get(F32).await), drawn);
    assert_eq!(matrix(&get(NPY).await, 320).unwrap(), (5, 64, drawn.clone()));
    assert_eq!(safetensors::matrix(&get(SAFETENSORS).await, "rows", 320).unwrap().2, drawn);
    assert_eq!(get(CSV).await, exported(Form::Csv, &columns, &drawn));
    assert_eq!(get(ARROW).await, exported(Form::Arrow, &columns, &drawn));
    // One image is a picture, several are a grid of them.
    for (n, side) in [(1, 1), (5, 3)] {
        let answer = app.get_as(&format!("{model}/sample?n={n}"), "image/*, */*;q=0.1").await;
        let picture = image::load_from_memory(&answer.body).unwrap();
        assert_eq!(answer.headers["content-type"], "image/png");
        assert_eq!(picture.width() / picture.height(), if n == 1 { 1 } else { side / 2 }, "{n}");
    }
    app.stop().await;
}

#[tokio::test]
async fn what_is_not_given_or_taken_is_answered_with_what_is() {
    let app = TestApp::start().await;
    let model = of_a_table(&app).await;
    let refused = app.get_as(&format!("{model}/sample"), "text/html, image/png;q=0.5").await;
    let detail = refused.refuses(406, "not_acceptable", &[]);
    assert!(EVERY.iter().all(|kind| detail.contains(kind)) && detail.contains("`shape`"), "{detail}");
    let refused = app.post_as(&format!("{model}/encode"), "application/xml", "<rows/>").await;
    let detail = refused.refuses(415, "unsupported_media_type", &[]);
    assert!(EVERY.iter().all(|kind| detail.contains(kind)) && detail.contains("application/json"), "{detail}");
    // What is liked less is given where what is liked more is not there.
    let answer = app.get_as(&format!("{model}/sample"), "image/png, text/csv;q=0.4, */*;q=0.1").await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with(CSV));
    assert_eq!(answer.headers["vary"], "accept");
    let other = app.get_as(&format!("{model}/sample"), ARROW).await;
    assert_ne!(answer.headers["etag"], other.headers["etag"]);
    app.stop().await;
}

#[tokio::test]
async fn each_bad_body_is_refused_where_it_is_wrong_and_the_next_question_is_answered() {
    let app = TestApp::start().await;
    let model = of_a_table(&app).await;
    let dense = {
        let dataset = app.upload("", "a,b\n1,2\n3,4\n5,7\n8,1\n").await;
        let job = json!({"dataset": dataset["id"], "model": {"family": "autoencoder", "settings": {"latent": 1}}, "training": {"epochs": 1}});
        format!("/v1/models/{}", app.train(&job).await)
    };
    let names = |name: &str| StringArray::from(vec![name.to_owned()]);
    let batch =
        RecordBatch::try_from_iter([("a", Arc::new(names("x")) as arrow_array::ArrayRef), ("b", Arc::new(names("y")))]);
    let mut stream = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batch.as_ref().unwrap().schema()).unwrap();
    stream.write(batch.as_ref().unwrap()).unwrap();
    let texts = stream.into_inner().unwrap();
    let parquet = exported(Form::Parquet, &columns(), &ROWS);
    let arrow = exported(Form::Arrow, &columns(), &ROWS);
    let lying = |shape: &str, body: &[u8]| {
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        [&b"\x93NUMPY\x01\x00"[..], &(text.len() as u16).to_le_bytes(), text.as_bytes(), body].concat()
    };
    let deep_header = [&b"\x93NUMPY\x01\x00"[..], &60_000_u16.to_le_bytes(), "(".repeat(60_000).as_bytes()].concat();
    let deep = |text: &str| text.repeat(1000).into_bytes();
    let of = |values: [f32; 3]| values;
    let no_gaps: [(&str, Vec<u8>, &[&str]); 8] = [
        (NPY, npy(1, 2, &[1.0, f32::NAN]), &["/rows/0/1"]),
        (F32, bytes(&[1.0, 2.0, f32::NAN, f32::INFINITY]), &["/rows/1/0", "/rows/1/1"]),
        (SAFETENSORS, tensors("rows", 2, &[f32::NEG_INFINITY, 0.0]), &["/rows/0/0"]),
        (CSV, b"b,a\n1,2\n,3\n".to_vec(), &["/rows/1/columns/0"]),
        (CSV, b"b,a\n1,inf\n".to_vec(), &["/rows/0/columns/1"]),
        (CSV, b"b,b\n1,2\n".to_vec(), &["/columns/1"]),
        (JSONL, b"{\"a\":1,\"b\":null}\n{\"b\":2}\n".to_vec(), &["/rows/0/columns/1", "/rows/1/columns/0"]),
        (ARROW, texts, &["/rows/0/columns/0", "/rows/0/columns/1"]),
    ];
    let with_gaps: Vec<(&str, Vec<u8>, &[&str])> = vec![
        // Categories.
        (NPY, npy(1, 3, &of([0.5, 1.7, 1.0])), &["/rows/0/1"]),
        (F32, bytes(&of([0.5, 99.0, 1.0])), &["/rows/0/1"]),
        (SAFETENSORS, tensors("rows", 3, &of([0.5, -1.0, 1.0])), &["/rows/0/1"]),
        (
            CSV,
            b"x,size,n\n1,huge,1\n2,small,2\n3,tiny,x\n".to_vec(),
            &["/rows/0/columns/1", "/rows/2/columns/1", "/rows/2/columns/2"],
        ),
        (JSONL, b"{\"x\":1,\"size\":\"huge\",\"n\":1}".to_vec(), &["/rows/0/columns/1"]),
        // Widths, names and counts.
        (NPY, npy(2, 2, &[1.0; 4]), &["/"]),
        (NPY, lying("(0, 3)", &[]), &["/"]),
        (F32, bytes(&[1.0; 4]), &["/"]),
        (F32, bytes(&of([1.0; 3]))[..11].to_vec(), &["/"]),
        (F32, Vec::new(), &["/"]),
        (F32, vec![0; 65_537 * 12], &["/"]),
        (CSV, b"x,size,n,weight\n1,small,1,70\n".to_vec(), &["/columns/3"]),
        (CSV, b"x,size,n\n1,small\n".to_vec(), &["/rows/0"]),
        ("text/csv; header=absent", b"1,small\n".to_vec(), &["/rows/0"]),
        (JSONL, b"[1,\"small\"]".to_vec(), &["/rows/0"]),
        (CSV, ["x,size,n\n", &"1,small,1\n".repeat(65_537)].concat().into_bytes(), &["/"]),
        // Types.
        (NPY, lying("(1, 3)", &[0; 12]).iter().map(|byte| if *byte == b'f' { b'c' } else { *byte }).collect(), &["/"]),
        // Not what they say they are.
        (CSV, Vec::new(), &["/"]),
        (CSV, b"x,size,n\n".to_vec(), &["/"]),
        (CSV, parquet.clone(), &["/"]),
        (JSONL, b"x,size,n\n1,small,1\n".to_vec(), &["/rows/0"]),
        (NPY, b"{\"rows\": [[1]]}".to_vec(), &["/"]),
        (ARROW, parquet.clone(), &["/"]),
        (PARQUET, arrow.clone(), &["/"]),
        (SAFETENSORS, arrow.clone(), &["/"]),
        // Lies about their length.
        (NPY, lying("(1000000000, 3)", &[0; 12]), &["/"]),
        (NPY, lying("(18446744073709551615, 3)", &[0; 12]), &["/"]),
        (NPY, npy(4, 3, &ROWS)[..100].to_vec(), &["/"]),
        (SAFETENSORS, [&(1_u64 << 60).to_le_bytes()[..], b"{}"].concat(), &["/"]),
        (SAFETENSORS, tensors("rows", 3, &ROWS)[..80].to_vec(), &["/"]),
        (ARROW, arrow[..arrow.len() / 2].to_vec(), &["/"]),
        (PARQUET, parquet[..parquet.len() / 2].to_vec(), &["/"]),
        // A thousand deep.
        (NPY, deep_header, &["/"]),
        (JSONL, deep("["), &["/rows/0"]),
        (JSONL, deep("{\"x\":"), &["/rows/0"]),
    ];
    let good = json!({"rows": [[0.25, "large", 3]]});
    for (model, cases) in [(&dense, no_gaps.to_vec()), (&model, with_gaps)] {
        for (kind, body, pointers) in cases {
            let start = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            let answer = app.post_as(&format!("{model}/encode"), kind, body).await;
            let told: Vec<Value> = answer.json()["errors"].as_array().cloned().unwrap_or_default();
            let found: Vec<&str> = told.iter().filter_map(|fault| fault["pointer"].as_str()).collect();
            assert_eq!((answer.status.as_u16(), &found[..]), (422, pointers), "{kind} {start}: {}", answer.json());
            assert_eq!(answer.json()["code"], "invalid_request", "{kind} {start}");
        }
    }
    app.post(&format!("{model}/encode"), &good).await.expect(200);

    // Codes have names and positions of their own.
    let decode = async |kind: &str, body: Vec<u8>| app.post_as(&format!("{model}/decode"), kind, body).await;
    let expected = app.post(&format!("{model}/decode"), &json!({"codes": [[0.5, -1.0]]})).await.expect(200);
    for body in ["z1,z0\n-1,0.5\n", "z0,z1\n0.5,-1\n", "0.5,-1\n"] {
        assert_eq!(decode(CSV, body.into()).await.expect(200), expected, "{body}");
    }
    assert_eq!(decode(SAFETENSORS, tensors("codes", 2, &[0.5, -1.0])).await.expect(200), expected);
    let refuses = async |kind: &str, body: Vec<u8>, pointers: &[&str]| {
        decode(kind, body).await.refuses(422, "invalid_request", pointers);
    };
    refuses(NPY, npy(1, 2, &[0.0, f32::INFINITY]), &["/codes/0/1"]).await;
    refuses(F32, bytes(&[0.0, f32::NAN]), &["/codes/0/1"]).await;
    refuses(NPY, npy(1, 3, &[0.0; 3]), &["/"]).await;
    refuses(CSV, b"z0,z2\n1,2\n".to_vec(), &["/columns", "/columns/1"]).await;
    refuses(CSV, b"1,2,3\n".to_vec(), &["/rows/0"]).await;
    refuses(JSONL, b"[1,null]".to_vec(), &["/rows/0/columns/1"]).await;

    // In JSON a column is named once, and a class that is a number is one that there was.
    let twice = r#"{"rows": [{"x": 1, "size": "small", "n": 1, "x": 2}]}"#;
    let refused = app.post_as(&format!("{model}/encode"), "application/json", twice).await;
    refused.refuses(422, "invalid_request", &["/rows/0/x"]);
    app.post(&format!("{model}/encode?format=csv"), &json!({"rows": [["inf", "small", 1]]})).await.refuses(
        422,
        "invalid_request",
        &["/rows/0/0"],
    );
    app.post(&format!("{model}/encode"), &good).await.expect(200);
    app.stop().await;
}
