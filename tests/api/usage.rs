//! The disk holds the same rows once, and gives back what is deleted.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::support::{TestApp, change, digits, short_job};

fn id(dataset: &Value) -> &str {
    dataset["id"].as_str().unwrap()
}

/// Number and length of the file of rows, and how many names it has.
fn file(app: &TestApp, dataset: &Value) -> (u64, u64, u64) {
    let path = app.data().join("datasets").join(id(dataset)).join("rows.f32");
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.ino(), metadata.len(), metadata.nlink())
}

#[tokio::test]
async fn the_same_file_read_in_the_same_way_is_stored_once() {
    let app = TestApp::start().await;
    let first = app.upload("?name=first&label=digit", digits(100)).await;
    let bytes = first["bytes"].as_u64().unwrap();
    assert_eq!((bytes, &first["stored_bytes"]), (100 * 65 * 4, &json!(bytes)));
    let sum = latente::store::artifacts::checksum(digits(100).as_bytes());
    assert_eq!(first["sha256"], sum.as_str());

    let second = app.upload("?name=second&label=digit", digits(100)).await;
    assert_eq!((&second["sha256"], &second["columns"]), (&first["sha256"], &first["columns"]));
    assert_eq!((file(&app, &first), file(&app, &second).2), (file(&app, &second), 2), "one file under two names");
    for other in ["?label=p00", "?label=digit&shape=8x8", "?label=digit&format=csv"] {
        let other = app.upload(other, digits(100)).await;
        assert_ne!(file(&app, &other).0, file(&app, &first).0, "another reading is read");
        assert_eq!(app.delete(&format!("/v1/datasets/{}", id(&other))).await.status, 204);
    }
    let usage = app.get("/v1/usage").await.expect(200);
    assert_eq!((&usage["dataset_bytes"], usage["datasets"].as_array().unwrap().len()), (&json!(bytes), 2));
    for dataset in usage["datasets"].as_array().unwrap() {
        let shown = (&dataset["bytes"], &dataset["stored_bytes"], &dataset["shared"]);
        assert_eq!(shown, (&json!(bytes), &json!(0), &json!(true)));
    }

    let rows = app.get(&format!("/v1/datasets/{}/rows?limit=100", id(&second))).await.expect(200);
    assert_eq!(app.delete(&format!("/v1/datasets/{}", id(&first))).await.status, 204);
    assert_eq!(app.get(&format!("/v1/datasets/{}/rows?limit=100", id(&second))).await.expect(200), rows);
    assert_eq!(app.get(&format!("/v1/datasets/{}", id(&second))).await.expect(200)["stored_bytes"], bytes);
    app.train(&short_job(id(&second))).await;
    assert_eq!(app.delete(&format!("/v1/datasets/{}", id(&second))).await.status, 204);
    let usage = app.get("/v1/usage").await.expect(200);
    assert_eq!((&usage["dataset_bytes"], &usage["datasets"]), (&json!(0), &json!([])));
    assert_eq!(app.files("datasets"), Vec::<String>::new(), "the room is free again");

    let third = app.upload("?label=digit", digits(100)).await;
    assert_eq!(file(&app, &third).2, 1, "what is deleted is no source");
    app.stop().await;
}

#[tokio::test]
async fn rows_that_are_damaged_or_columns_that_were_changed_are_not_taken_over() {
    let app = TestApp::start().await;
    let first = app.upload("", "a,b\n1,2\n3,4\n").await;
    let changed = "UPDATE datasets SET schema = replace(schema, '\"b\"', '\"other\"')";
    assert_eq!(change(&app.data().join("latente.db"), changed).await, 1);
    let second = app.upload("", "a,b\n1,2\n3,4\n").await;
    assert_eq!((&second["columns"][1]["name"], file(&app, &second).2), (&json!("b"), 1));
    for dataset in [&first, &second] {
        let path = app.data().join("datasets").join(id(dataset)).join("rows.f32");
        std::fs::write(path, [0; 4]).unwrap();
    }
    let third = app.upload("", "a,b\n1,2\n3,4\n").await;
    let rows = app.get(&format!("/v1/datasets/{}/rows", id(&third))).await.expect(200);
    assert_eq!(rows["rows"], json!([[1.0, 2.0], [3.0, 4.0]]));
    app.stop().await;
}

#[tokio::test]
async fn models_and_the_database_are_counted() {
    let app = TestApp::start().await;
    let before = app.get("/v1/usage").await.expect(200);
    assert_eq!((&before["model_bytes"], &before["uploads"]), (&json!(0), &json!([])));
    let dataset = app.upload_digits(100).await;
    let model = app.train(&short_job(&dataset)).await;
    let file = app.get(&format!("/v1/models/{model}/artifacts/safetensors")).await;
    let usage = app.get("/v1/usage").await.expect(200);
    assert_eq!(usage["model_bytes"], file.body.len());
    assert!(usage["database_bytes"].as_u64() > before["database_bytes"].as_u64(), "{usage}");
    assert!(usage["free_bytes"].as_u64().unwrap() > 0);
    app.delete(&format!("/v1/models/{model}")).await;
    assert_eq!(app.get("/v1/usage").await.expect(200)["model_bytes"], 0);
    app.stop().await;
}
