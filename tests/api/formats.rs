//! Files of other formats than CSV come in through the same address, and are known by their content.

use serde_json::json;

use crate::support::TestApp;

#[tokio::test]
async fn every_format_is_known_by_its_content() {
    let app = TestApp::start().await;
    let idx = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2][..], &[1, 2, 3, 4, 5, 6, 7, 8]].concat();
    let tensor = r#"{"x":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]},"y":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}"#;
    let safetensors = [&(tensor.len() as u64).to_le_bytes()[..], tensor.as_bytes(), &[1, 2, 3, 4, 0, 1]].concat();
    let arff = "@relation r\n@attribute a real\n@attribute class {no,yes}\n@data\n1,no\n2,yes\n";
    let lines = "{\"a\": 1, \"b\": 2.5}\n{\"b\": 3.5}\n";
    for (format, file) in [("idx", idx), ("safetensors", safetensors), ("arff", arff.into()), ("jsonl", lines.into())] {
        let dataset = app.upload("", file).await;
        assert_eq!((&dataset["format"], &dataset["rows"]), (&json!(format), &json!(2)), "{dataset:#}");
        let id = dataset["id"].as_str().unwrap();
        assert_eq!(app.get(&format!("/v1/datasets/{id}")).await.expect(200)["format"], format);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_refused_file_is_told_by_row_and_leaves_nothing() {
    let app = TestApp::start().await;
    for (file, pointer) in [
        (&b"{\"a\": 1}\n{\"a\": [2]}\n"[..], "/columns/0"),
        (b"{\"a\": 1}\n{\"a\": 2,}\n", "/rows/1"),
        (b"@relation r\n@attribute a real\n@data\n1\n1,2\n", "/rows/1"),
        (b"\0\0\x08\x01\0\0\0\x09\x01\x02", "/rows/2"),
    ] {
        let problem = app.post_as("/v1/datasets", "application/octet-stream", file).await.expect(422);
        assert_eq!((&problem["code"], &problem["errors"][0]["pointer"]), (&json!("invalid_dataset"), &json!(pointer)));
    }
    assert_eq!(app.get("/v1/datasets").await.expect(200)["data"], json!([]));
    app.stop().await;
}
