//! The Open Inference Protocol: what clients of KServe and Triton send and get. `bench/v2.py` does the same with Triton's own client.

use std::io::{Read, Write};

use axum::body::Body;
use axum::http::Request;
use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

use crate::support::{Answer, TestApp, short_job};

const JSON_LENGTH: &str = "inference-header-content-length";

/// A VAE of the first digits, by its id, and the first three of them.
async fn trained(app: &TestApp) -> (String, Vec<f32>) {
    let dataset = app.upload_digits(200).await;
    let model = app.train(&short_job(&dataset)).await;
    let stored = app.get(&format!("/v1/datasets/{dataset}/rows?limit=3")).await.expect(200);
    let rows: Vec<Vec<f32>> = serde_json::from_value(stored["rows"].clone()).unwrap();
    (model, rows.iter().flat_map(|row| &row[..64]).copied().collect())
}

/// A model of a table with a category, by its id.
async fn of_a_table(app: &TestApp) -> String {
    let lines: Vec<String> = (0..60)
        .map(|row| format!("{},{},{}", ["low", "middle", "high"][row % 3], row % 3 * 10 + row % 7, row % 5))
        .collect();
    let dataset = app.upload("", format!("level,rows,b\n{}\n", lines.join("\n"))).await;
    let spec = json!({"dataset": dataset["id"], "model": {"family": "autoencoder", "settings": {"latent": 2}},
        "training": {"epochs": 2}});
    app.train(&spec).await
}

fn path(model: &str) -> String {
    format!("/v2/models/{model}/infer")
}

fn matrix(values: &[f32], width: usize) -> Value {
    json!(values.chunks(width).collect::<Vec<_>>())
}

/// A request whose one input is bytes behind the JSON.
fn binary(mut request: Value, bytes: &[u8]) -> (usize, Vec<u8>) {
    request["inputs"][0]["parameters"] = json!({"binary_data_size": bytes.len()});
    let json = request.to_string();
    (json.len(), [json.as_bytes(), bytes].concat())
}

async fn send(app: &TestApp, model: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    let mut request = Request::post(path(model));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app.send(request.body(body.into()).unwrap()).await
}

/// The JSON of an answer, and the bytes behind it.
fn parts(answer: &Answer) -> (Value, &[u8]) {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let length: usize = answer.headers[JSON_LENGTH].to_str().unwrap().parse().unwrap();
    let (json, bytes) = answer.body.split_at(length);
    (serde_json::from_slice(json).unwrap(), bytes)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The data of an output, by its name.
#[track_caller]
fn data(answer: &Value, name: &str) -> Vec<f64> {
    let outputs = answer["outputs"].as_array().unwrap();
    let output = outputs.iter().find(|output| output["name"] == name).unwrap_or_else(|| panic!("no {name}: {answer}"));
    serde_json::from_value(output["data"].clone()).unwrap()
}

fn flat(rows: &Value) -> Vec<f64> {
    serde_json::from_value::<Vec<Vec<f64>>>(rows.clone()).unwrap().concat()
}

#[track_caller]
fn close(one: &[f64], other: &[f64]) {
    assert_eq!(one.len(), other.len());
    for (a, b) in one.iter().zip(other) {
        assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{a} is not {b}");
    }
}

/// Checks a refusal in the protocol's form; gives its text.
#[track_caller]
fn refused(answer: &Answer, status: u16, part: &str) -> String {
    let body = answer.expect(status);
    assert_eq!(answer.headers["content-type"], "application/json");
    let error = body["error"].as_str().unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1);
    assert!(error.contains(part), "{error}");
    error.to_owned()
}

#[tokio::test]
async fn the_server_and_its_models_describe_themselves() {
    let app = TestApp::start().await;
    let server = app.get("/v2").await.expect(200);
    assert_eq!(server["name"], "latente");
    assert!(server["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data")));
    assert_eq!(app.get("/v2/health/live").await.expect(200), json!({"live": true}));
    assert_eq!(app.get("/v2/health/ready").await.expect(200), json!({"ready": true}));

    let (model, _) = trained(&app).await;
    let metadata = app.get(&format!("/v2/models/{model}")).await.expect(200);
    assert_eq!((&metadata["name"], &metadata["versions"]), (&json!(model), &json!(["1"])));
    let rows = json!({"name": "rows", "datatype": "FP32", "shape": [-1, 64]});
    assert_eq!(metadata["inputs"], json!([rows, {"name": "codes", "datatype": "FP32", "shape": [-1, 3]}]));
    let names: Vec<&str> =
        metadata["outputs"].as_array().unwrap().iter().map(|output| output["name"].as_str().unwrap()).collect();
    assert_eq!(names[..4], ["codes", "spread", "rows", "errors"]);
    assert!(names.contains(&"log_likelihood") && !names.contains(&"predictions"), "{names:?}");
    assert_eq!(app.get(&format!("/v2/models/{model}/versions/1")).await.expect(200), metadata);
    let config = app.get(&format!("/v2/models/{model}/config")).await.expect(200);
    assert_eq!(config["input"][0], json!({"name": "rows", "data_type": "TYPE_FP32", "dims": [64]}));
    assert_eq!(config["input"][1]["optional"], true);
    assert_eq!(app.get(&format!("/v2/models/{model}/ready")).await.expect(200)["ready"], true);

    refused(&app.get("/v2/models/none").await, 404, "none");
    refused(&app.get("/v2/models/mdl_1").await, 404, "not the id of a model");
    refused(&app.get(&format!("/v2/models/{model}/versions/2")).await, 404, "has no version 2");
    refused(&app.get(&format!("/v2/models/{model}/versions/2/ready")).await, 404, "has no version 2");
    refused(&app.get(&format!("/v2/models/{model}/nothing")).await, 404, "there is nothing at");
    refused(&app.get("/v2/models/stats?colour=1").await, 400, "colour");
    refused(&app.get("/v2/repository/index").await, 405, "does not take GET");
    app.get("/v20").await.refuses(404, "not_found", &[]);
    app.stop().await;
}

#[tokio::test]
async fn json_and_bytes_are_answered_as_the_other_addresses_answer() {
    let app = TestApp::start().await;
    let (model, rows) = trained(&app).await;
    let v1 = format!("/v1/models/{model}");
    let body = json!({"rows": matrix(&rows, 64)});
    let encoded = app.post(&format!("{v1}/encode"), &body).await.expect(200);
    let rebuilt = app.post(&format!("{v1}/reconstruct"), &body).await.expect(200);
    let scored = app.post(&format!("{v1}/score"), &body).await.expect(200);
    let of_scores = |name: &str| -> Vec<f64> {
        scored["scores"].as_array().unwrap().iter().map(|row| row[name].as_f64().unwrap()).collect()
    };

    // Flat and nested, with and without a version.
    let input = json!({"name": "rows", "shape": [3, 64], "datatype": "FP32", "data": rows});
    let request = json!({"id": "mine", "inputs": [input]});
    let answer = app.post(&path(&model), &request).await.expect(200);
    assert_eq!(
        (&answer["model_name"], &answer["model_version"], &answer["id"]),
        (&json!(model), &json!("1"), &json!("mine"))
    );
    assert_eq!(answer["outputs"].as_array().unwrap().len(), 2);
    assert_eq!(answer["outputs"][0]["shape"], json!([3, 3]));
    close(&data(&answer, "codes"), &flat(&encoded["codes"]));
    close(&data(&answer, "spread"), &flat(&encoded["spread"]));
    let images = json!({"id": "mine", "inputs": [{"name": "rows", "datatype": "FP64", "shape": [3, 1, 8, 8], "data": matrix(&rows, 8)}]});
    assert_eq!(app.post(&path(&model), &images).await.expect(200), answer);
    let versioned = app.post(&format!("/v2/models/{model}/versions/1/infer"), &request).await.expect(200);
    assert_eq!(versioned, answer);

    // Several questions at once, and options of one of them.
    let wanted = ["rows", "errors", "codes", "score", "log_likelihood", "elbo"].map(|name| json!({"name": name}));
    let several = json!({"inputs": [input], "outputs": wanted, "parameters": {"seed": 0}});
    let answer = app.post(&path(&model), &several).await.expect(200);
    assert_eq!(answer["outputs"][0]["name"], "rows", "outputs are in the order of the request");
    assert!(answer.get("id").is_none());
    close(&data(&answer, "rows"), &flat(&rebuilt["rows"]));
    close(&data(&answer, "errors"), &serde_json::from_value::<Vec<f64>>(rebuilt["errors"].clone()).unwrap());
    close(&data(&answer, "codes"), &flat(&encoded["codes"]));
    for name in ["score", "log_likelihood", "elbo"] {
        close(&data(&answer, name), &of_scores(name));
    }

    // Bytes in, bytes and JSON out.
    let one = json!({"inputs": [{"name": "rows", "shape": [3, 64], "datatype": "FP32"}],
        "outputs": [{"name": "codes", "parameters": {"binary_data": true}}, {"name": "errors"},
            {"name": "is_anomaly", "parameters": {"binary_data": true}}]});
    let (length, body) = binary(one, &bytes_of(&rows));
    let answer = send(&app, &model, &[(JSON_LENGTH, &length.to_string())], body.clone()).await;
    let (head, bytes) = parts(&answer);
    assert_eq!(answer.headers["content-type"], "application/octet-stream");
    assert_eq!(
        (&head["outputs"][0]["parameters"]["binary_data_size"], &head["outputs"][0]["data"]),
        (&json!(36), &Value::Null)
    );
    assert_eq!((head["outputs"][2]["datatype"].as_str(), bytes.len()), (Some("BOOL"), 39));
    let codes: Vec<f64> = floats(&bytes[..36]).into_iter().map(f64::from).collect();
    close(&codes, &flat(&encoded["codes"]));
    assert_eq!(data(&head, "errors").len(), 3);

    // Nothing but bytes.
    let answer = send(&app, &model, &[(JSON_LENGTH, "0")], bytes_of(&rows)).await;
    let (head, bytes) = parts(&answer);
    assert_eq!(head["outputs"][0]["name"], "codes");
    close(&floats(&bytes[..36]).into_iter().map(f64::from).collect::<Vec<_>>(), &flat(&encoded["codes"]));

    // Half floats, of which the first rows of digits lose nothing.
    let halves: Vec<u8> = rows.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect();
    let (length, body) = binary(json!({"inputs": [{"name": "rows", "shape": [3, 64], "datatype": "FP16"}]}), &halves);
    let answer = send(&app, &model, &[(JSON_LENGTH, &length.to_string())], body).await.expect(200);
    close(&data(&answer, "codes"), &flat(&encoded["codes"]));

    // Codes to rows, and samples.
    let codes = json!({"name": "codes", "shape": [2, 3], "datatype": "INT32", "data": [0, 0, 0, 1, -1, 2]});
    let outputs = json!([{"name": "rows"}, {"name": "rows_spread"}]);
    let answer = app.post(&path(&model), &json!({"inputs": [codes], "outputs": outputs})).await.expect(200);
    let decoded = json!({"codes": [[0, 0, 0], [1, -1, 2]], "spread": true});
    let decoded = app.post(&format!("{v1}/decode"), &decoded).await.expect(200);
    close(&data(&answer, "rows"), &flat(&decoded["rows"]));
    close(&data(&answer, "rows_spread"), &flat(&decoded["spread"]));
    let drawn = json!({"inputs": [], "parameters": {"question": "sample", "n": 2, "seed": 5, "temperature": 0.5}});
    let answer = app.post(&path(&model), &drawn).await.expect(200);
    let sampled = app.post(&format!("{v1}/sample"), &json!({"n": 2, "seed": 5, "temperature": 0.5})).await.expect(200);
    close(&data(&answer, "rows"), &flat(&sampled["rows"]));

    // Gaps are null, NaN or nothing.
    let mut gap = json!(rows[..64]);
    gap[7] = Value::Null;
    let gappy = json!({"inputs": [{"name": "rows", "shape": [1, 64], "datatype": "FP32", "data": gap}],
        "parameters": {"question": "impute", "rounds": 3}});
    let answer = app.post(&path(&model), &gappy).await.expect(200);
    let imputed = app.post(&format!("{v1}/impute"), &json!({"rows": [gap], "rounds": 3})).await.expect(200);
    close(&data(&answer, "rows"), &flat(&imputed["rows"]));
    let without = json!({"inputs": [{"name": "rows", "shape": [1, 64], "datatype": "FP32", "data": gap}]});
    refused(&app.post(&path(&model), &without).await, 400, "has no value in row 0 of column `p07`");
    app.stop().await;
}

#[tokio::test]
async fn tables_with_texts_are_a_tensor_for_each_column() {
    let app = TestApp::start().await;
    let model = of_a_table(&app).await;
    let metadata = app.get(&format!("/v2/models/{model}")).await.expect(200);
    // A column that is called as a tensor of every model is has another name.
    let tensor = |name: &str, datatype: &str| json!({"name": name, "datatype": datatype, "shape": [-1, 1]});
    let columns = [tensor("level", "BYTES"), tensor("column.rows", "FP32"), tensor("b", "FP32")];
    assert_eq!(metadata["inputs"].as_array().unwrap()[..3], columns);
    assert_eq!(metadata["outputs"].as_array().unwrap()[1..4], columns);

    let rows = json!({"rows": [["high", 3, 1], ["low", 20, 4]]});
    let rebuilt = app.post(&format!("/v1/models/{model}/reconstruct"), &rows).await.expect(200);
    let request = json!({"parameters": {"question": "reconstruct"}, "inputs": [
        {"name": "b", "shape": [2], "datatype": "INT64", "data": [1, 4]},
        {"name": "level", "shape": [2, 1], "datatype": "BYTES", "data": ["high", "low"]},
        {"name": "column.rows", "shape": [2, 1], "datatype": "FP64", "data": [[3], [20]]}]});
    let answer = app.post(&path(&model), &request).await.expect(200);
    assert_eq!(answer["outputs"][0]["data"], json!([rebuilt["rows"][0][0], rebuilt["rows"][1][0]]));
    close(&data(&answer, "b"), &[rebuilt["rows"][0][2].as_f64().unwrap(), rebuilt["rows"][1][2].as_f64().unwrap()]);

    // The same as one tensor of texts, in and out as bytes; numbers of levels are their places.
    let texts: Vec<u8> = ["high", "3", "1", "low", "20", "4"]
        .iter()
        .flat_map(|text| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat())
        .collect();
    let request = json!({"inputs": [{"name": "rows", "shape": [2, 3], "datatype": "BYTES"}],
        "outputs": [{"name": "codes", "parameters": {"binary_data": false}}, {"name": "level"}, {"name": "rows"}],
        "parameters": {"binary_data_output": true}});
    let (length, body) = binary(request, &texts);
    let answer = send(&app, &model, &[(JSON_LENGTH, &length.to_string())], body).await;
    let (head, bytes) = parts(&answer);
    let encoded = app.post(&format!("/v1/models/{model}/encode"), &rows).await.expect(200);
    close(&data(&head, "codes"), &flat(&encoded["codes"]));
    let size = head["outputs"][1]["parameters"]["binary_data_size"].as_u64().unwrap() as usize;
    let level = rebuilt["rows"][0][0].as_str().unwrap();
    assert_eq!((&bytes[..4], &bytes[4..4 + level.len()]), (&(level.len() as u32).to_le_bytes()[..], level.as_bytes()));
    let columns = app.get(&format!("/v1/models/{model}")).await.expect(200)["columns"].clone();
    assert_eq!(columns[0]["levels"][floats(&bytes[size..])[0] as usize], level);

    let of_level = |data: Value, datatype: &str| {
        json!({"inputs": [{"name": "level", "shape": [1], "datatype": datatype, "data": [data]},
            {"name": "column.rows", "shape": [1], "datatype": "FP32", "data": [3]},
            {"name": "b", "shape": [1], "datatype": "FP32", "data": [3]}]})
    };
    app.post(&path(&model), &of_level(json!("low"), "BYTES")).await.expect(200);
    app.post(&path(&model), &of_level(json!(2), "UINT8")).await.expect(200);
    let none = app.post(&path(&model), &of_level(json!("none"), "BYTES")).await;
    refused(&none, 400, "/inputs/0/data/0 is `none`; the levels of `level` are");
    refused(
        &app.post(&path(&model), &of_level(json!(3), "UINT8")).await,
        400,
        "/inputs/0/data/0 is 3; the levels of `level` are numbered 0 to 2",
    );
    let lone = json!({"inputs": [{"name": "b", "shape": [1], "datatype": "FP32", "data": [3]}]});
    refused(&app.post(&path(&model), &lone).await, 400, "has no tensor `level`, `column.rows`");
    let mut filled = lone.clone();
    filled["parameters"] = json!({"question": "impute"});
    assert_eq!(data(&app.post(&path(&model), &filled).await.expect(200), "b"), [3.0]);
    refused(&send(&app, &model, &[(JSON_LENGTH, "0")], vec![0; 12]).await, 400, "one for each column");
    app.stop().await;
}

#[tokio::test]
async fn models_are_listed_loaded_unloaded_and_counted() {
    let app = TestApp::start().await;
    let (model, rows) = trained(&app).await;
    let index =
        async |body: &str| app.post_as("/v2/repository/index", "application/json", body.to_owned()).await.expect(200);
    let listed = index("").await;
    assert_eq!(
        (&listed[0]["name"], &listed[0]["version"], &listed[0]["state"]),
        (&json!(model), &json!("1"), &json!("READY"))
    );
    assert_eq!(listed[0]["reason"], "read into memory when it is asked");

    let control = async |verb: &str| {
        app.post_as(&format!("/v2/repository/models/{model}/{verb}"), "application/json", "").await.status.as_u16()
    };
    assert_eq!(control("load").await, 200);
    assert_eq!(index("{}").await[0]["reason"], "in memory");
    let stats = async || app.get(&format!("/v2/models/{model}/stats")).await.expect(200)["model_stats"][0].clone();
    let before = stats().await;
    assert_eq!(
        (&before["inference_count"], &before["last_inference"], &before["batch_stats"]),
        (&json!(0), &json!(0), &json!([]))
    );

    let input = json!({"name": "rows", "shape": [3, 64], "datatype": "FP32", "data": rows});
    app.post(&path(&model), &json!({"inputs": [input]})).await.expect(200);
    let both = json!({"inputs": [input], "outputs": [{"name": "codes"}, {"name": "errors"}]});
    app.post(&path(&model), &both).await.expect(200);
    app.post(&format!("/v1/models/{model}/sample"), &json!({"n": 5})).await.expect(200);
    app.post(&path(&model), &json!({"inputs": []})).await.expect(400);
    let after = stats().await;
    // Three requests, of which one asked two questions.
    assert_eq!((&after["inference_count"], &after["execution_count"]), (&json!(14), &json!(4)));
    let of = |name: &str| {
        (
            after["inference_stats"][name]["count"].as_u64().unwrap(),
            after["inference_stats"][name]["ns"].as_u64().unwrap(),
        )
    };
    assert_eq!((of("success").0, of("fail").0, of("queue").0, of("compute_infer").0), (3, 0, 4, 4));
    assert!(of("success").1 > of("compute_infer").1 && of("compute_infer").1 > 0);
    assert!(after["last_inference"].as_u64().unwrap() > 1_700_000_000_000);
    let sizes: Vec<(u64, u64)> = after["batch_stats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| (batch["batch_size"].as_u64().unwrap(), batch["compute_infer"]["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(sizes, [(3, 3), (5, 1)]);
    assert_eq!(app.get("/v2/models/stats").await.expect(200)["model_stats"][0], after);
    assert_eq!(app.get(&format!("/v2/models/{model}/versions/1/stats")).await.expect(200)["model_stats"][0], after);

    // Unloaded, it is refused here and answers elsewhere; loaded, it answers again.
    let unload = json!({"parameters": {"unload_dependents": false}});
    let unloaded = app.post(&format!("/v2/repository/models/{model}/unload"), &unload).await;
    assert_eq!((unloaded.status.as_u16(), unloaded.body.len()), (200, 0));
    refused(&app.get(&format!("/v2/models/{model}/ready")).await, 503, "was unloaded");
    refused(&app.post(&path(&model), &json!({"inputs": [input]})).await, 503, "was unloaded");
    assert_eq!(index("{\"ready\": true}").await, json!([]));
    let listed = index("").await;
    assert_eq!(listed[0]["state"], "UNAVAILABLE");
    app.post(&format!("/v1/models/{model}/encode"), &json!({"rows": matrix(&rows, 64)})).await.expect(200);
    assert_eq!(control("load").await, 200);
    app.post(&path(&model), &json!({"inputs": [input]})).await.expect(200);

    refused(&app.post("/v2/repository/index", &json!({"colour": 1})).await, 400, "/colour");
    let odd = app.post(&format!("/v2/repository/models/{model}/load"), &json!({"parameters": {"config": "{}"}})).await;
    refused(&odd, 400, "/parameters/config");
    assert_eq!(app.delete(&format!("/v1/models/{model}")).await.status, 204);
    refused(&app.post(&path(&model), &json!({"inputs": [input]})).await, 404, "there is no model");
    assert_eq!(control("load").await, 404);
    assert_eq!(index("").await, json!([]));
    app.stop().await;
}

#[tokio::test]
async fn names_versions_and_aliases_of_the_registry_are_names_here() {
    let app = TestApp::start().await;
    let (first, rows) = trained(&app).await;
    let dataset = app.get(&format!("/v1/models/{first}")).await.expect(200)["dataset_id"].as_str().unwrap().to_owned();
    let second = app.train(&short_job(&dataset)).await;
    for model in [&first, &second] {
        app.patch(&format!("/v1/models/{model}"), &json!({"name": "digits"})).await.expect(200);
    }
    let alias = Request::put("/v1/models/digits/aliases/live").header("content-type", "application/json");
    let alias = app.send(alias.body(json!({"version": 1}).to_string().into()).unwrap()).await;
    assert!(alias.status.is_success(), "{}", String::from_utf8_lossy(&alias.body));

    let request = json!({"inputs": [{"name": "rows", "shape": [3, 64], "datatype": "FP32", "data": rows}]});
    let asked = async |path: &str, name: &str, version: &str| {
        let answer = app.post(&format!("/v2/models/{path}/infer"), &request).await.expect(200);
        assert_eq!((&answer["model_name"], &answer["model_version"]), (&json!(name), &json!(version)));
        answer["outputs"][0].clone()
    };
    let (of_first, of_second) = (asked(&first, &first, "1").await, asked(&second, &second, "2").await);
    assert_eq!(asked("digits", "digits", "2").await, of_second);
    assert_eq!(asked("digits/versions/1", "digits", "1").await, of_first);
    assert_eq!(asked("digits:1", "digits:1", "1").await, of_first);
    assert_eq!(asked("digits%40live", "digits@live", "1").await, of_first);
    assert_eq!(app.get("/v2/models/digits").await.expect(200)["versions"], json!(["1", "2"]));
    assert_eq!(app.get("/v2/models/digits@live").await.expect(200)["versions"], json!(["1"]));
    let index = app.post_as("/v2/repository/index", "application/json", "").await.expect(200);
    let listed = |at: usize| (index[at]["name"].as_str().unwrap(), index[at]["version"].as_str().unwrap());
    assert_eq!([listed(0), listed(1)], [("digits", "1"), ("digits", "2")]);

    refused(&app.get("/v2/models/digits/versions/3").await, 404, "digits:3");
    refused(&app.get("/v2/models/digits@live/versions/2").await, 404, "has no version 2");
    refused(&app.get("/v2/models/other").await, 404, "other");
    app.stop().await;
}

#[tokio::test]
async fn bodies_may_be_compressed_both_ways_and_stay_within_bounds() {
    let app = TestApp::start().await;
    let (model, rows) = trained(&app).await;
    let request = json!({"inputs": [{"name": "rows", "shape": [3, 64], "datatype": "FP32"}], "parameters": {"binary_data_output": true}});
    let (length, body) = binary(request, &bytes_of(&rows));
    let length = length.to_string();
    let plain = send(&app, &model, &[(JSON_LENGTH, &length)], body.clone()).await;
    let (head, bytes) = parts(&plain);
    let closed = |kind: &str, body: &[u8]| -> Vec<u8> {
        if kind == "gzip" {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        } else {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
    };
    for kind in ["gzip", "deflate"] {
        let headers = [(JSON_LENGTH, &length[..]), ("content-encoding", kind), ("accept-encoding", kind)];
        let answer = send(&app, &model, &headers, closed(kind, &body)).await;
        assert_eq!((answer.status.as_u16(), answer.headers["content-encoding"].to_str().unwrap()), (200, kind));
        let mut opened = Vec::new();
        match kind {
            "gzip" => GzDecoder::new(&answer.body[..]).read_to_end(&mut opened).unwrap(),
            _ => ZlibDecoder::new(&answer.body[..]).read_to_end(&mut opened).unwrap(),
        };
        let answer = Answer { body: opened, ..answer };
        assert_eq!(parts(&answer), (head.clone(), bytes));
    }
    // A refusal is plain, whatever was wanted.
    let answer = send(&app, &model, &[("accept-encoding", "gzip")], "{}").await;
    refused(&answer, 400, "missing field `inputs`");
    assert!(answer.headers.get("content-encoding").is_none());

    refused(&send(&app, &model, &[("content-encoding", "br")], "x").await, 415, "compressed by `br`");
    refused(&send(&app, &model, &[("content-encoding", "gzip")], "x").await, 400, "cannot be decompressed");
    let bomb = closed("gzip", &vec![b' '; (64 << 20) + 1]);
    refused(&send(&app, &model, &[("content-encoding", "gzip")], bomb).await, 413, "once it is decompressed");
    app.stop().await;
}

#[tokio::test]
async fn each_bad_request_is_refused_where_it_is_wrong_and_the_next_is_answered() {
    let app = TestApp::start().await;
    let (model, rows) = trained(&app).await;
    let input = json!({"name": "rows", "shape": [3, 64], "datatype": "FP32", "data": rows});
    let with = |field: &str, value: Value| {
        let mut input = input.clone();
        input[field] = value;
        json!({"inputs": [input]})
    };
    let and = |field: &str, value: Value| {
        let mut request = json!({"inputs": [input]});
        request[field] = value;
        request
    };
    let codes = json!({"name": "codes", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]});
    let cases = [
        (json!([]), "invalid length 0"),
        (json!({}), "missing field `inputs`"),
        (json!({"inputs": []}), "only a sample takes no tensors"),
        (json!({"inputs": [input, input]}), "is `rows`, which is given alone"),
        (json!({"inputs": [input, codes]}), "is `rows`, which is given alone"),
        (with("name", json!("colour")), "/inputs/0/name is `colour`; allowed are `rows`, `codes`"),
        (with("shape", json!([3, 63])), "/inputs/0/shape is [3, 63]"),
        (with("shape", json!([0, 64])), "/inputs/0/shape is [0, 64]"),
        (with("shape", json!([65_537, 64])), "/inputs/0/shape is [65537, 64]"),
        (with("shape", json!([-1, 64])), "/inputs/0/shape"),
        (with("shape", json!([3, u64::MAX, 2])), "/inputs/0/shape"),
        (with("shape", json!(vec![1; 9])), "has more than the 8 elements"),
        (with("shape", json!([2, 64])), "/inputs/0/data has more than the 128 elements"),
        (with("shape", json!([4, 64])), "/inputs/0/data has 192 elements; its shape says 256"),
        (with("datatype", json!("FP8")), "unknown variant `FP8`"),
        (with("datatype", json!("UINT8")), ""),
        (with("data", json!({"a": 1})), "/inputs/0/data element 0 cannot be read"),
        (with("data", json!("text")), "/inputs/0/data element 0 is the text `text`"),
        (with("parameters", json!({"binary_data_size": 768})), "/inputs/0/data goes without `binary_data_size`"),
        (with("parameters", json!({"shared_memory_region": "a"})), "shared_memory_region"),
        (with("colour", json!(1)), "unknown field `colour`"),
        (and("colour", json!(1)), "unknown field `colour`"),
        (and("outputs", json!([{"name": "colour"}])), "/outputs/0/name is `colour`; this model has codes, spread"),
        (and("outputs", json!([{"name": "codes"}, {"name": "codes"}])), "/outputs/1/name is `codes` again"),
        (and("outputs", json!([{"name": "rows_spread"}])), "goes with the tensor `codes`"),
        (and("outputs", json!([{"name": "predictions"}])), "learned no labels"),
        (and("outputs", json!([{"name": "codes", "parameters": {"classification": 2}}])), "classification"),
        (and("parameters", json!({"question": "guess"})), "/parameters/question unknown variant `guess`"),
        (and("parameters", json!({"question": "decode"})), "goes with the tensor `codes`"),
        (and("parameters", json!({"question": "predict"})), "learned no labels"),
        (and("parameters", json!({"question": "score", "samples": 99_999})), "/parameters/samples"),
        (and("parameters", json!({"rounds": 3})), "/parameters/rounds goes with the question impute"),
        (and("parameters", json!({"colour": 3})), "unknown field `colour`"),
        (and("parameters", json!({"x": "y".repeat(70_000)})), "/parameters has 70"),
        (json!({"inputs": [codes], "outputs": [{"name": "errors"}]}), "it goes with rows"),
        (json!({"inputs": [codes], "parameters": {"question": "encode"}}), "/parameters/question goes with rows"),
        (json!({"inputs": [], "parameters": {"question": "sample", "n": 0}}), "/parameters/n is 0"),
        (json!({"inputs": [codes], "parameters": {"seed": 1}}), "/parameters/seed goes with `draw`"),
    ];
    for (request, part) in &cases {
        let answer = app.post(&path(&model), request).await;
        match part.is_empty() {
            true => assert_eq!(answer.status, 200),
            false => _ = refused(&answer, 400, part),
        }
    }
    refused(&app.post_as(&path(&model), "application/json", "{\"inputs\": [").await, 400, "is not JSON");
    refused(&app.post_as(&path(&model), "application/json", "{\"inputs\": []} x").await, 400, "is not JSON");
    let too_large = with("data", json!([1e300])).to_string().replace("[3,64]", "[1,64]");
    refused(&app.post_as(&path(&model), "application/json", too_large).await, 400, "has 1 elements");

    // Lengths that lie.
    let bare = json!({"inputs": [{"name": "rows", "shape": [3, 64], "datatype": "FP32"}]});
    let (length, body) = binary(bare.clone(), &bytes_of(&rows));
    let short = binary(bare.clone(), &bytes_of(&rows[..64]));
    let lies: [(String, Vec<u8>, &str); 7] = [
        (length.to_string(), body[..body.len() - 1].to_vec(), "binary_data_size is 768, and 767 bytes are left"),
        (length.to_string(), [&body[..], b"x"].concat(), "1 bytes behind the JSON belong to no tensor"),
        ((length - 1).to_string(), body.clone(), "is not JSON"),
        ((length + 9000).to_string(), body.clone(), "says that the JSON has"),
        ("many".to_owned(), body.clone(), "is `many`, not a number"),
        (short.0.to_string(), short.1, "has 256 bytes; 192 elements of FP32 are 4 bytes each"),
        ("0".to_owned(), body[..255].to_vec(), "the body has 255 bytes; rows of 64 FP32 have 256 each"),
    ];
    for (length, body, part) in lies {
        refused(&send(&app, &model, &[(JSON_LENGTH, &length)], body).await, 400, part);
    }
    let json = String::from_utf8(body[..length].to_vec()).unwrap();
    refused(&send(&app, &model, &[], json).await, 400, "goes with the header Inference-Header-Content-Length");
    app.post(&path(&model), &json!({"inputs": [input]})).await.expect(200);
    app.stop().await;
}
