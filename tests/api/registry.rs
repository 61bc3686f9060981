//! Models have names with versions, aliases move among them, and what is deleted gives its bytes back.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::support::{TestApp, short_job};

/// Trains a model that is registered under a name; gives its id.
async fn registered(app: &TestApp, dataset: &str, name: &str) -> String {
    let job = app.post(&format!("/v1/jobs?register={name}"), &short_job(dataset)).await.expect(202);
    assert_eq!(job["register"], name);
    let done = app.wait(job["id"].as_str().unwrap()).await;
    done["model_id"].as_str().unwrap().to_owned()
}

async fn put(app: &TestApp, path: &str, body: Value) -> crate::support::Answer {
    let request = Request::put(path).header("content-type", "application/json");
    app.send(request.body(body.to_string().into()).unwrap()).await
}

#[tokio::test]
async fn a_name_has_versions_and_every_address_takes_them() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(100).await;
    let first = registered(&app, &dataset, "fraud").await;
    let plain = app.train(&short_job(&dataset)).await;
    let other = app.get(&format!("/v1/models/{plain}")).await.expect(200);
    assert_eq!((other["name"].as_str(), other["version"].as_u64()), (Some("vae"), None));
    let named = app.patch(&format!("/v1/models/{plain}"), &json!({"name": "fraud"})).await.expect(200);
    assert_eq!((named["name"].as_str(), named["version"].as_u64()), (Some("fraud"), Some(2)));
    // Again is no other version, and a model keeps its name.
    let again = app.patch("/v1/models/fraud", &json!({"name": "fraud"})).await.expect(200);
    assert_eq!(again, named);
    app.patch("/v1/models/fraud:1", &json!({"name": "risk"})).await.refuses(409, "model_registered", &[]);

    for (reference, id) in [("fraud", &plain), ("fraud:2", &plain), ("fraud:1", &first), (plain.as_str(), &plain)] {
        assert_eq!(app.get(&format!("/v1/models/{reference}")).await.expect(200)["id"], json!(id), "{reference}");
    }
    let listed = app.get("/v1/models?name=fraud").await.expect(200);
    let versions: Vec<u64> =
        listed["data"].as_array().unwrap().iter().filter_map(|one| one["version"].as_u64()).collect();
    assert_eq!(versions, [2, 1]);
    assert_eq!(app.get("/v1/models?name=risk").await.expect(200)["data"], json!([]));
    let query = format!("encode?dataset={dataset}&rows=0-3");
    let by_id = app.get(&format!("/v1/models/{first}/{query}")).await.expect(200);
    assert_eq!(app.get(&format!("/v1/models/fraud:1/{query}")).await.expect(200), by_id);
    let posted = app.post("/v1/models/fraud:1/decode", &json!({"codes": [[0, 1, 2]]})).await.expect(200);
    assert_eq!(
        posted,
        app.post(&format!("/v1/models/{first}/decode"), &json!({"codes": [[0, 1, 2]]})).await.expect(200)
    );
    let file = app.get("/v1/models/fraud:2/artifacts/safetensors").await;
    assert_eq!(file.headers["content-disposition"], format!("attachment; filename=\"{plain}.safetensors\"").as_str());

    for (reference, words) in
        [("risk", "no model is registered"), ("fraud:3", "no such version"), ("fraud@production", "no such alias")]
    {
        let detail = app.get(&format!("/v1/models/{reference}/sample")).await.refuses(404, "not_found", &[]);
        assert!(detail.contains(words), "{detail}");
    }
    for reference in ["Fraud", "fraud:x", "fraud@2", "mdl_1"] {
        app.get(&format!("/v1/models/{reference}")).await.refuses(404, "not_found", &["{id}"]);
    }
    app.post("/v1/jobs?register=No%20Name", &short_job(&dataset)).await.refuses(422, "invalid_request", &["?register"]);
    app.patch("/v1/models/fraud", &json!({"name": "mdl_x"})).await.refuses(422, "invalid_request", &["/name"]);
    app.patch("/v1/models/fraud", &json!({"label": "x"})).await.refuses(422, "invalid_request", &["/label"]);
    app.stop().await;
}

#[tokio::test]
async fn an_alias_moves_is_remembered_and_answers_for_its_model_alone() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(100).await;
    let first = registered(&app, &dataset, "fraud").await;
    let mut spec = short_job(&dataset);
    spec["training"]["seed"] = json!(6);
    let second = app.train(&spec).await;
    app.patch(&format!("/v1/models/{second}"), &json!({"name": "fraud"})).await.expect(200);
    let alias = "/v1/models/fraud/aliases/production";
    let set = put(&app, alias, json!({"version": 1})).await.expect(201);
    assert_eq!((set["model_id"].as_str(), set["version"].as_u64()), (Some(first.as_str()), Some(1)));

    let question = format!("/v1/models/fraud@production/encode?dataset={dataset}&rows=0-3");
    let before = app.get(&question).await;
    let tag = before.headers["etag"].clone();
    let ask =
        async || app.send(Request::get(&question).header("if-none-match", &tag).body(Body::empty()).unwrap()).await;
    assert_eq!(ask().await.status, 304);
    // Where it points already is no move.
    assert_eq!(put(&app, alias, json!({"model": first})).await.expect(200), set);
    put(&app, alias, json!({"model": "fraud"})).await.expect(200);
    let after = ask().await;
    assert_eq!(after.status, 200, "another model is another answer");
    assert_eq!(after.json(), app.get(&format!("/v1/models/{second}/encode?dataset={dataset}&rows=0-3")).await.json());
    assert_ne!((after.json(), &after.headers["etag"]), (before.json(), &tag));
    assert_eq!(app.get("/v1/models/fraud").await.expect(200)["aliases"], json!(["production"]));
    assert_eq!(app.get("/v1/models?name=fraud").await.expect(200)["data"][1]["aliases"], json!([]));

    put(&app, "/v1/models/fraud/aliases/staging", json!({"model": "fraud@production"})).await.expect(201);
    assert_eq!(app.delete("/v1/models/fraud/aliases/staging").await.status, 204);
    app.delete("/v1/models/fraud/aliases/staging").await.refuses(404, "not_found", &[]);
    let told = app.get("/v1/models/fraud/aliases").await.expect(200);
    assert_eq!((told["data"].as_array().unwrap().len(), told["data"][0]["version"].as_u64()), (1, Some(2)));
    let moves: Vec<(&str, Option<u64>, Option<u64>)> = (told["history"].as_array().unwrap().iter())
        .map(|one| (one["alias"].as_str().unwrap(), one["from"].as_u64(), one["to"].as_u64()))
        .collect();
    let expected = [
        ("staging", Some(2), None),
        ("staging", None, Some(2)),
        ("production", Some(1), Some(2)),
        ("production", None, Some(1)),
    ];
    assert_eq!(moves, expected);
    let last = told["history"][1]["seq"].as_u64().unwrap();
    let older = app.get(&format!("/v1/models/fraud/aliases?limit=1&after={last}")).await.expect(200);
    assert_eq!((&older["history"][0], older["has_more"].as_bool()), (&told["history"][2], Some(true)));

    let plain = app.train(&short_job(&dataset)).await;
    put(&app, alias, json!({"model": plain})).await.refuses(422, "invalid_request", &["/model"]);
    put(&app, alias, json!({"version": 9})).await.refuses(422, "invalid_request", &["/version"]);
    put(&app, alias, json!({"version": 1, "model": first})).await.refuses(422, "invalid_request", &["/model"]);
    put(&app, alias, json!({})).await.refuses(422, "invalid_request", &["/version"]);
    put(&app, "/v1/models/fraud/aliases/3", json!({"version": 1})).await.refuses(404, "not_found", &["{alias}"]);
    put(&app, "/v1/models/none/aliases/production", json!({"version": 1})).await.refuses(404, "not_found", &[]);
    app.get("/v1/models/none/aliases").await.refuses(404, "not_found", &[]);
    assert_eq!(
        app.get("/v1/models/fraud@production").await.expect(200)["id"],
        json!(second),
        "nothing of that moved it"
    );
    app.stop().await;
}

#[tokio::test]
async fn what_an_alias_points_to_is_not_deleted_and_what_is_deleted_frees_its_bytes() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(60).await;
    let mut spec = short_job(&dataset);
    // About four million bytes.
    spec["network"] = json!({"hidden": [1000, 400]});
    spec["training"] = json!({"epochs": 1});
    let wide = app.train(&spec).await;
    app.patch(&format!("/v1/models/{wide}"), &json!({"name": "wide"})).await.expect(200);
    let small = registered(&app, &dataset, "wide").await;
    put(&app, "/v1/models/wide/aliases/production", json!({"version": 1})).await.expect(201);
    let detail = app.delete("/v1/models/wide:1").await.refuses(409, "model_in_use", &[]);
    assert!(detail.contains("wide@production"), "{detail}");
    let bytes = app.get("/v1/models/wide:1").await.expect(200)["bytes"].as_u64().unwrap();
    assert!(bytes > 3_000_000, "{bytes}");
    let size = || std::fs::metadata(app.data().join("latente.db")).unwrap().len();
    let before = size();
    app.delete("/v1/models/wide:1?forced=true").await.refuses(422, "invalid_request", &["?forced"]);
    assert_eq!(app.delete("/v1/models/wide@production?force=true").await.status, 204);
    let after = size();
    assert!(after + bytes <= before + 64 * 1024, "{bytes} bytes went, and the file went from {before} to {after}");

    app.get("/v1/models/wide@production").await.refuses(404, "not_found", &[]);
    app.get("/v1/models/wide:1").await.refuses(404, "not_found", &[]);
    let told = app.get("/v1/models/wide/aliases").await.expect(200);
    assert_eq!(
        (&told["data"], &told["history"][0]["from"], &told["history"][0]["to"]),
        (&json!([]), &json!(1), &Value::Null)
    );
    // The newest goes, and its number is not given again.
    assert_eq!(app.delete(&format!("/v1/models/{small}")).await.status, 204);
    app.get("/v1/models/wide").await.refuses(404, "not_found", &[]);
    let third = registered(&app, &dataset, "wide").await;
    assert_eq!(app.get("/v1/models/wide").await.expect(200)["version"], 3);
    assert_eq!(app.get("/v1/models/wide:3").await.expect(200)["id"], json!(third));
    app.stop().await;
}
