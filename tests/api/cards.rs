//! The card of a model says what it is, what it was made of, and how good it is.

use serde_json::json;

use crate::support::{TestApp, short_job};

#[tokio::test]
async fn a_card_says_what_a_model_is_made_of_in_three_forms() {
    let app = TestApp::start().await;
    let rows: String = (0..100).map(|n| format!("{n}.5,{},{}\n", n % 5, if n % 4 == 0 { "" } else { "2" })).collect();
    let upload = app
        .upload(
            "?name=odd%20%3Cb%3E%7Cname&feature=a&feature=b%7C%3Cscript%3E&feature=c",
            format!("a,b|<script>,c\n{rows}"),
        )
        .await;
    let dataset = upload["id"].as_str().unwrap();
    let mut spec = short_job(dataset);
    spec["name"] = json!("<script>alert(1)</script>");
    spec["split"] = json!({"validation": 0.2, "test": 0.1});
    let id = app.train(&spec).await;
    let card = app.get(&format!("/v1/models/{id}/card")).await.expect(200);
    assert_eq!((card["data"]["dataset"].as_str(), card["data"]["rows"].as_u64()), (Some("odd <b>|name"), Some(100)));
    assert_eq!(card["data"]["split"], json!({"train": 70, "validation": 20, "test": 10}));
    let missing = card["data"]["columns"][2]["missing"].as_f64().unwrap();
    assert!((missing - 0.25).abs() < 1e-9, "{missing}");
    assert_eq!((card["family"]["family"].as_str(), card["training"]["epochs"].as_u64()), (Some("vae"), Some(3)));
    assert_eq!((card["training"]["device"].as_str(), card["training"]["seed"].as_u64()), (Some("cpu"), Some(5)));
    assert!(card["family"]["paper"].as_str().unwrap().len() > 5 && card["family"]["parameters"].as_u64().unwrap() > 10);
    let model = app.get(&format!("/v1/models/{id}")).await.expect(200);
    assert_eq!(card["figures"]["test"]["loss"], model["metrics"]["test/loss"]);
    assert_eq!((&card["spec"], &card["lineage"]["job_id"]), (&model["spec"], &model["job_id"]));
    assert_eq!(card["calibration"]["reconstruction"].as_array().unwrap().len(), 3);
    let file = app.get(&format!("/v1/models/{id}/artifacts/safetensors")).await.body;
    assert_eq!(card["artifact"]["sha256"], latente::store::artifacts::checksum(&file));
    let questions: Vec<&str> =
        card["questions"].as_array().unwrap().iter().map(|one| one["question"].as_str().unwrap()).collect();
    assert!(questions.contains(&"score") && !questions.contains(&"predict"), "{questions:?}");
    // Each line works as it stands.
    for question in card["questions"].as_array().unwrap() {
        let line = question["curl"].as_str().unwrap();
        let path = line.trim_start_matches("curl -s \"$LATENTE").trim_end_matches('"');
        assert_eq!(app.get(path).await.status, 200, "{line}");
    }

    let text = app.get_as(&format!("/v1/models/{id}/card"), "text/markdown").await;
    assert_eq!(
        (text.status.as_u16(), &text.headers["content-type"]),
        (200, &"text/markdown; charset=utf-8".parse().unwrap())
    );
    let text = String::from_utf8(text.body).unwrap();
    assert!(text.contains("| b\\|\\<script\\> | count | feature | 0 % | 0 to 4 |"), "{text}");
    assert!(text.contains("70 rows trained, 20 validated, 10 tested."), "{text}");
    let page = app.get(&format!("/v1/models/{id}/card?format=html")).await;
    let page = String::from_utf8(page.body).unwrap();
    assert!(page.contains("<td>b|&lt;script&gt;</td>") && !page.contains("<script"), "{page}");
    app.get_as(&format!("/v1/models/{id}/card"), "image/png").await.refuses(406, "not_acceptable", &[]);

    // It is of what is true now.
    app.patch(&format!("/v1/models/{id}"), &json!({"name": "odd"})).await.expect(200);
    app.delete(&format!("/v1/datasets/{dataset}")).await;
    let card = app.get("/v1/models/odd/card").await.expect(200);
    assert_eq!((card["version"].as_u64(), card["lineage"]["dataset_deleted"].as_bool()), (Some(1), Some(true)));
    assert!(card["questions"][0]["curl"].as_str().unwrap().contains("/v1/models/odd:1/encode"));
    app.stop().await;
}
