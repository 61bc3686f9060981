//! Bad input gets one answer that names every fault, and leaves nothing behind.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::support::{TestApp, npy, short_job};

#[tokio::test]
async fn each_bad_file_is_refused_and_leaves_nothing() {
    let app = TestApp::start().await;
    let check = async |query: &str, body: Vec<u8>, pointer: &str| -> String {
        let answer = app.post_as(&format!("/v1/datasets{query}"), "application/octet-stream", body).await;
        let problem = answer.expect(422);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    };
    check("", b"".to_vec(), "").await;
    check("", b"a,b\n".to_vec(), "").await;
    let ragged = check("", b"a,b\n1,2\n3\n".to_vec(), "/rows/1").await;
    assert!(ragged.contains("line 3"), "{ragged}");
    let slip = [b"a,b\n".as_slice(), &b"1,2\n".repeat(20), b"3,blue\n"].concat();
    let text = check("", slip, "/rows/20/columns/1").await;
    assert!(text.contains("`b`") && text.contains("`blue`"), "{text}");
    check("", b"a\n1\ninf\n".to_vec(), "/rows/1/columns/0").await;
    check("?format=npy", b"a,b\n1,2\n".to_vec(), "/").await;
    let mut lie = npy(1, 2, &[1.0, 2.0]);
    lie.truncate(lie.len() - 4);
    check("", lie, "/").await;
    check("", npy(1_000_000_000, 60_000, &[1.0]), "/").await;
    let object = String::from_utf8_lossy(&npy(1, 1, &[])).replace("<f4", "|O").into_bytes();
    check("?format=npy", object, "/").await;
    check("?label=z", b"a,b\n1,2\n".to_vec(), "?label").await;
    check("?shape=3x3", b"a,b\n1,2\n".to_vec(), "?shape").await;
    check("?shape=big", b"a,b\n1,2\n".to_vec(), "?shape").await;
    check("?header=perhaps", b"a,b\n1,2\n".to_vec(), "?header").await;
    check("?format=xlsx", b"a,b\n1,2\n".to_vec(), "?format").await;
    check("?colour=red", b"a,b\n1,2\n".to_vec(), "?colour").await;
    check("?name=", b"a,b\n1,2\n".to_vec(), "?name").await;
    assert_eq!(app.get("/v1/datasets").await.expect(200)["data"], json!([]));
    assert_eq!(app.files("datasets"), Vec::<String>::new());
    app.upload("", "a,b\n1,2\n").await;
    app.stop().await;
}

#[tokio::test]
async fn every_fault_of_a_spec_is_reported_at_once() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(50).await;
    let check = async |change: Value, pointers: &[&str]| {
        let mut spec = short_job(&dataset);
        merge(&mut spec, &change);
        let problem = app.post("/v1/jobs", &spec).await.expect(422);
        let mut found: Vec<&str> =
            problem["errors"].as_array().unwrap().iter().map(|fault| fault["pointer"].as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, pointers, "{problem}");
    };
    check(json!({"model": {"family": "vea"}}), &["/model/family"]).await;
    check(json!({"colour": 1}), &["/colour"]).await;
    check(json!({"model": {"settings": {"latent": 0}}}), &["/model/settings/latent"]).await;
    check(json!({"network": {"hidden": [1_000_000_000]}}), &["/network/hidden/0"]).await;
    check(json!({"network": {"hidden": [65_536, 65_536]}}), &["/network/hidden"]).await;
    check(json!({"training": {"batch_size": 0}}), &["/training/batch_size"]).await;
    check(json!({"training": {"optimizer": {"lr": "NaN"}}}), &["/training/optimizer/lr"]).await;
    check(json!({"training": {"device": "tpu"}}), &["/training/device"]).await;
    check(json!({"dataset": "job_0198c5d2a1b37e6f9a1b2c3d4e5f6071"}), &["/dataset"]).await;
    check(json!({"dataset": "ds_0198c5d2a1b37e6f9a1b2c3d4e5f6071"}), &["/dataset"]).await;
    check(
        json!({"name": "", "model": {"settings": {"latent": 0, "beta": -1, "depth": 2}}, "training": {"epochs": 0, "batch_size": 0}, "likelihood": {"kind": "weibull"}}),
        &["/likelihood/kind", "/model/settings/beta", "/model/settings/depth", "/model/settings/latent", "/name", "/training/batch_size", "/training/epochs"],
    )
    .await;
    app.post_as("/v1/jobs", "application/json", "{\"dataset\": NaN}").await.refuses(400, "invalid_json", &[]);
    app.post_as("/v1/jobs", "text/plain", "{}").await.refuses(415, "unsupported_media_type", &[]);
    app.post_as("/v1/jobs", "application/json", vec![b' '; 2 << 20]).await.refuses(413, "too_large", &[]);
    assert_eq!(app.get("/v1/jobs").await.expect(200)["data"], json!([]));
    app.stop().await;
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

#[tokio::test]
async fn cuda_without_a_gpu_is_refused_clearly() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(50).await;
    let mut spec = short_job(&dataset);
    spec["training"]["device"] = json!("cuda");
    let answer = app.post("/v1/jobs", &spec).await;
    if app.app.jobs.devices().cuda > 0 {
        app.wait(answer.expect(202)["id"].as_str().unwrap()).await;
    } else {
        let detail = answer.refuses(422, "device_unavailable", &["/training/device"]);
        assert!(detail.contains("auto and cpu"), "{detail}");
    }
    app.stop().await;
}

#[tokio::test]
async fn columns_without_any_value_are_refused_by_their_names() {
    let app = TestApp::start().await;
    let dataset = app.upload("", "a,b,c\n1,,\n4,,\n7,,\n").await["id"].as_str().unwrap().to_owned();
    let detail =
        app.post("/v1/jobs", &short_job(&dataset)).await.refuses(422, "missing_values", &["/dataset", "/dataset"]);
    assert!(detail.contains("`b`"), "{detail}");
    app.stop().await;
}

#[tokio::test]
async fn ids_of_the_wrong_kind_and_addresses_that_are_not_there() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(20).await;
    for path in [
        format!("/v1/jobs/{dataset}"),
        format!("/v1/models/{dataset}"),
        "/v1/datasets/1".to_owned(),
        "/v1/jobs/..%2f..%2fetc".to_owned(),
    ] {
        app.get(&path).await.refuses(404, "not_found", &["{id}"]);
    }
    app.get("/v1/jobs/job_0198c5d2a1b37e6f9a1b2c3d4e5f6071").await.refuses(404, "not_found", &[]);
    app.get("/v1/nothing").await.refuses(404, "not_found", &[]);
    let answer = app.send(Request::put("/v1/jobs").body(Body::empty()).unwrap()).await;
    answer.refuses(405, "method_not_allowed", &[]);
    assert!(answer.headers.contains_key("allow"));
    for query in ["limit=0", "limit=101", "limit=-1"] {
        app.get(&format!("/v1/jobs?{query}")).await.refuses(422, "invalid_request", &["?limit"]);
    }
    app.post("/v1/jobs?dry=true", &short_job(&dataset)).await.refuses(422, "invalid_request", &["?dry"]);
    app.get(&format!("/v1/datasets/{dataset}?verbose=1")).await.refuses(422, "invalid_request", &["?verbose"]);
    app.get("/v1/jobs?status=lost").await.refuses(422, "invalid_request", &["?status"]);
    app.get(&format!("/v1/jobs?after={dataset}")).await.refuses(422, "invalid_request", &["?after"]);
    app.stop().await;
}
