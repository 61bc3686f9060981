//! Models answer: rows to codes and back, in every form. What is particular to a question is in a file of its own.

mod decode;
mod forms;
mod gaps;
mod impute;
mod interpolate;
mod predict;
mod prepared;
mod reconstruct;
mod sample;
mod score;
mod traverse;

use axum::body::Body;
use axum::http::Request;
use latente::data::npy::matrix;
use serde_json::{Value, json};

use crate::support::{TestApp, npy, short_job};

/// A VAE of the first digits: the dataset, and the address of the model.
async fn trained(app: &TestApp) -> (String, String) {
    let dataset = app.upload_digits(200).await;
    let model = app.train(&short_job(&dataset)).await;
    (dataset, format!("/v1/models/{model}"))
}

/// A model of another family, by its default settings.
async fn trained_by(app: &TestApp, family: &str) -> (String, String) {
    let dataset = app.upload_digits(200).await;
    let mut spec = short_job(&dataset);
    spec["model"] = json!({"family": family});
    let model = app.train(&spec).await;
    (dataset, format!("/v1/models/{model}"))
}

/// The first rows of a dataset of digits, without their label.
async fn pixels(app: &TestApp, dataset: &str, count: usize) -> Vec<Vec<f64>> {
    let stored = app.get(&format!("/v1/datasets/{dataset}/rows?limit={count}")).await.expect(200);
    rows(&stored["rows"]).into_iter().map(|row| row[..64].to_vec()).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn close(one: &Value, other: &Value) {
    for (a, b) in rows(one).concat().iter().zip(rows(other).concat()) {
        assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{a} is not {b}");
    }
}

#[tokio::test]
async fn get_and_post_answer_the_same() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let pixels = pixels(&app, &dataset, 3).await;

    let by_reference = app.get(&format!("{model}/encode?dataset={dataset}&rows=0-2")).await.expect(200);
    let by_body = app.post(&format!("{model}/encode"), &json!({"rows": pixels})).await.expect(200);
    assert_eq!(by_reference, by_body);
    assert_eq!((rows(&by_body["codes"]).len(), rows(&by_body["codes"])[0].len()), (3, 3));
    assert!(rows(&by_body["spread"]).concat().iter().all(|value| *value > 0.0));

    let inline = pixels[1].iter().map(f64::to_string).collect::<Vec<_>>().join(",");
    let one = app.get(&format!("{model}/encode?x={inline}")).await.expect(200);
    close(&one["codes"], &json!([by_body["codes"][1]]));

    let names = app.get(&model).await.expect(200)["columns"].clone();
    let named: serde_json::Map<String, Value> = names
        .as_array()
        .unwrap()
        .iter()
        .zip(&pixels[1])
        .map(|(column, value)| (column["name"].as_str().unwrap().to_owned(), json!(value)))
        .collect();
    let by_name = app.post(&format!("{model}/encode"), &json!({"rows": [named]})).await.expect(200);
    assert_eq!(by_name, one);

    let decoded = app.post(&format!("{model}/decode"), &json!({"codes": by_body["codes"]})).await.expect(200);
    let rebuilt = app.get(&format!("{model}/reconstruct?dataset={dataset}&rows=0-2")).await.expect(200);
    close(&decoded["rows"], &rebuilt["rows"]);
    // The error is the mean square in scaled units: pixels go from 0 to 16.
    let expected: f64 =
        rows(&rebuilt["rows"])[0].iter().zip(&pixels[0]).map(|(a, b)| ((a - b) / 16.0).powi(2)).sum::<f64>() / 64.0;
    assert!((rebuilt["errors"][0].as_f64().unwrap() - expected).abs() < 1e-5);
    app.stop().await;
}

#[tokio::test]
async fn numpy_goes_in_and_comes_out() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let json = app.get(&format!("{model}/encode?dataset={dataset}&rows=0-1")).await.expect(200);
    let values: Vec<f32> = pixels(&app, &dataset, 2).await.concat().into_iter().map(|value| value as f32).collect();
    let answer = app.post_as(&format!("{model}/encode?format=npy"), "application/x-npy", npy(2, 64, &values)).await;
    assert_eq!(answer.headers["content-type"], "application/x-npy");
    let (count, width, codes) = matrix(&answer.body, 100).unwrap();
    assert_eq!((count, width), (2, 3));
    close(&json!(codes.chunks(3).collect::<Vec<_>>()), &json["codes"]);
    app.post_as(&format!("{model}/encode"), "application/x-npy", npy(1, 3, &[1.0; 3])).await.refuses(
        422,
        "invalid_request",
        &["/"],
    );
    app.post_as(
        &format!("{model}/encode"),
        "application/x-npy",
        npy(1, 64, &[[0.0; 63].as_slice(), &[f32::NAN]].concat()),
    )
    .await
    .refuses(422, "invalid_request", &["/rows/0/63"]);
    app.stop().await;
}

#[tokio::test]
async fn images_come_as_pictures() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    for path in
        ["sample?n=9&seed=1".to_owned(), format!("reconstruct?dataset={dataset}&rows=0-4"), "decode?x=0,0,0".to_owned()]
    {
        let answer = app.get_as(&format!("{model}/{path}"), "image/png").await;
        assert_eq!(
            (answer.status.as_u16(), answer.headers["content-type"].to_str().unwrap()),
            (200, "image/png"),
            "{path}"
        );
        let picture = image::load_from_memory(&answer.body).unwrap().to_rgb8();
        let shades: std::collections::BTreeSet<u8> = picture.pixels().map(|pixel| pixel.0[0]).collect();
        assert!(shades.len() > 4, "{path} is blank");
    }
    app.get_as(&format!("{model}/encode?dataset={dataset}"), "image/png").await.refuses(406, "not_acceptable", &[]);
    let table = app.upload("", "a,b\n1,2\n3,4\n5,7\n8,1\n").await["id"].as_str().unwrap().to_owned();
    let plain = app.train(&json!({"dataset": table, "model": {"family": "autoencoder", "settings": {"latent": 1}}, "training": {"epochs": 1}})).await;
    app.get_as(&format!("/v1/models/{plain}/sample"), "image/png").await.refuses(406, "not_acceptable", &[]);
    app.stop().await;
}

#[tokio::test]
async fn each_bad_question_is_refused_where_it_is_wrong_and_the_next_is_answered() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let post = async |what: &str, body: Value| app.post(&format!("{model}/{what}"), &body).await;
    post("encode", json!({"rows": [[1, 2]]})).await.refuses(422, "invalid_request", &["/rows/0"]);
    post("encode", json!({"rows": []})).await.refuses(422, "invalid_request", &["/rows"]);
    post("encode", json!({"rows": [vec![Value::Null; 2]]})).await.refuses(422, "invalid_request", &["/rows/0"]);
    post("encode", json!({"rows": "many"})).await.refuses(422, "invalid_request", &["/rows"]);
    post("encode", json!({"row": []})).await.refuses(422, "invalid_request", &["/row"]);
    post("decode", json!({"codes": [[1, 2, 3, 4]]})).await.refuses(422, "invalid_request", &["/codes/0"]);
    post("decode", json!({"codes": [[1, 2, 1e300]]})).await.refuses(422, "invalid_request", &["/codes/0/2"]);
    let get = async |query: &str| app.get(&format!("{model}/{query}")).await;
    get("encode").await.refuses(422, "invalid_request", &["?dataset"]);
    get("encode?x=1,2").await.refuses(422, "invalid_request", &["?x"]);
    get(&format!("encode?dataset={dataset}&rows=0-200")).await.refuses(422, "invalid_request", &["?rows"]);
    get("encode?format=xml").await.refuses(422, "invalid_request", &["?format"]);
    get("decode?x=nan,1,2").await.refuses(422, "invalid_request", &["?x"]);
    let other = app.upload("", "a,b\n1,2\n3,4\n").await["id"].as_str().unwrap().to_owned();
    get(&format!("encode?dataset={other}")).await.refuses(422, "invalid_request", &["?dataset"]);
    let deep = format!("{{\"rows\": {}", "[".repeat(100_000));
    app.post_as(&format!("{model}/encode"), "application/json", deep).await.refuses(
        422,
        "invalid_request",
        &["/rows/0/0"],
    );
    app.post_as(&format!("{model}/encode"), "application/json", "{\"rows\": [[1,").await.refuses(
        400,
        "invalid_json",
        &[],
    );
    app.post_as(&format!("{model}/encode"), "text/plain", "1").await.refuses(415, "unsupported_media_type", &[]);
    app.get_as(&format!("{model}/sample"), "text/html").await.refuses(406, "not_acceptable", &[]);
    get("sample?n=1").await.expect(200);
    app.stop().await;
}

#[tokio::test]
async fn what_a_caller_has_already_is_not_worked_out_again() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let with = async |path: &str, tag: &str, accept: &str| {
        let request = Request::get(path).header("if-none-match", tag).header("accept", accept);
        app.send(request.body(Body::empty()).unwrap()).await
    };
    for question in ["encode", "reconstruct", "score"] {
        let path = format!("{model}/{question}?dataset={dataset}&rows=0-2");
        let first = app.get_as(&path, "application/json").await;
        let tag = first.headers["etag"].to_str().unwrap().to_owned();
        assert_eq!(first.headers["cache-control"], "private, no-cache");
        for held in [tag.clone(), format!("\"other\", W/{tag}"), "*".to_owned()] {
            let again = with(&path, &held, "application/json").await;
            assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{held}");
            assert_eq!(again.headers["etag"], tag);
        }
        assert_eq!(with(&path, &tag, "application/x-npy").await.status, 200, "another form is another answer");
        assert_eq!(with(&path.replace("0-2", "0-3"), &tag, "application/json").await.status, 200);
    }
    // A dataset that is described anew may mean other rows.
    let path = format!("{model}/encode?dataset={dataset}&rows=0-2");
    let before = app.get(&path).await.headers["etag"].clone();
    app.patch(&format!("/v1/datasets/{dataset}"), &json!({"columns": {"digit": {"role": "ignore"}}})).await.expect(200);
    assert_ne!(app.get(&path).await.headers["etag"], before);
    let encoded = path.replace("dataset=", "data%73et=");
    let before = app.get(&encoded).await.headers["etag"].clone();
    app.patch(&format!("/v1/datasets/{dataset}"), &json!({"columns": {"digit": {"role": "label"}}})).await.expect(200);
    assert_ne!(app.get(&encoded).await.headers["etag"], before);
    // A refusal has no tag, whatever the caller has, and a model that is gone is not said to be unchanged.
    let refused = with(&format!("{model}/encode?x=1"), "*", "*/*").await;
    assert!(refused.status == 422 && refused.headers.get("etag").is_none());
    assert_eq!(with(&format!("{model}/nothing"), "*", "*/*").await.status, 404);
    let held = app.get(&path).await.headers["etag"].to_str().unwrap().to_owned();
    app.delete(&model).await;
    assert_eq!(with(&path, &held, "*/*").await.status, 404);
    app.stop().await;
}

#[tokio::test]
async fn a_model_beyond_the_memory_of_the_server_is_refused_and_others_are_answered() {
    let app = TestApp::start_with(|config| config.serving.resident_bytes = 40_000).await;
    let dataset = app.upload_digits(200).await;
    let with = async |hidden: u32| {
        let mut spec = short_job(&dataset);
        spec["network"] = json!({"hidden": [hidden]});
        format!("/v1/models/{}", app.train(&spec).await)
    };
    let (small, large) = (with(8).await, with(200).await);
    let path = |model: &str| format!("{model}/encode?dataset={dataset}&rows=0-1");
    app.get(&path(&large)).await.refuses(507, "model_too_large", &[]);
    app.get(&path(&small)).await.expect(200);
    app.stop().await;
}

#[tokio::test]
async fn a_deleted_model_is_gone_from_memory_too() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let path = format!("{model}/encode?dataset={dataset}&rows=0-1");
    app.get(&path).await.expect(200);
    app.get(&path).await.expect(200);
    assert_eq!(app.delete(&model).await.status, 204);
    app.get(&path).await.refuses(404, "not_found", &[]);
    app.get(&model).await.refuses(404, "not_found", &[]);
    app.stop().await;
}
