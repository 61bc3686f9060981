//! Presets are jobs as they are, but for their dataset.

use latente::models::ModelSpec;
use serde_json::json;

use crate::support::TestApp;

#[tokio::test]
async fn each_preset_is_accepted_with_a_dataset_and_one_is_trained() {
    let app = TestApp::start().await;
    let tables = app.upload("?label=digit", crate::support::digits(60)).await["id"].as_str().unwrap().to_owned();
    let images = app.upload_digits(60).await;
    let presets = app.get("/v1/presets").await.expect(200)["data"].as_array().unwrap().clone();
    assert_eq!(presets.len(), 2 * ModelSpec::FAMILIES.len());
    let mut jobs = Vec::new();
    for preset in &presets {
        let mut spec = preset["spec"].clone();
        assert_eq!(spec["model"]["family"], preset["family"], "{preset}");
        let is_for = preset["for"].as_str().unwrap();
        assert_eq!(preset["name"], format!("{}-{is_for}", preset["family"].as_str().unwrap()));
        spec["dataset"] = json!(if is_for == "images" { &images } else { &tables });
        jobs.push(app.submit(&spec).await);
    }
    // The first one trains to its end; the others were taken, which is what matters here.
    for job in &jobs[1..] {
        app.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    }
    let ends: Vec<String> = {
        let mut ends = Vec::new();
        for job in &jobs {
            ends.push(app.wait(job).await["status"].as_str().unwrap().to_owned());
        }
        ends
    };
    assert_eq!(ends[0], "succeeded");
    assert!(ends.iter().all(|end| ["succeeded", "cancelled"].contains(&end.as_str())), "{ends:?}");
    app.get("/v1/presets?family=vae").await.refuses(422, "invalid_request", &["?family"]);
    app.stop().await;
}
