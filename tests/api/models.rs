//! Models are looked at, downloaded and deleted.

use latente::domain::treatment::Treatment;
use latente::training::artifact::TrainedModel;
use serde_json::json;

use crate::support::{TestApp, short_job};

#[tokio::test]
async fn a_model_is_described_downloaded_and_deleted() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(200).await;
    let id = app.train(&short_job(&dataset)).await;
    let model = app.get(&format!("/v1/models/{id}")).await.expect(200);
    assert_eq!(
        (model["family"].as_str(), model["latent"].as_u64(), model["dataset_id"].as_str()),
        (Some("vae"), Some(3), Some(dataset.as_str()))
    );
    assert_eq!(model["columns"].as_array().unwrap().len(), 64, "the label is no input");
    assert_eq!(app.get("/v1/models?family=vae").await.expect(200)["data"][0]["id"], json!(id));
    assert_eq!(app.get("/v1/models?family=denoising").await.expect(200)["data"], json!([]));

    let file = app.get(&format!("/v1/models/{id}/artifacts/safetensors")).await;
    assert_eq!(file.body.len() as u64, model["bytes"].as_u64().unwrap());
    let read = TrainedModel::read(&file.body, tch::Device::Cpu).unwrap();
    assert_eq!(serde_json::to_value(&read.header.spec).unwrap(), model["spec"]);
    let sixteenth = Treatment::Linear { shift: 0.0, scale: 16.0, unit: false };
    assert_eq!(read.header.preparation.columns, vec![sixteenth; 64]);

    // Its spec can be posted again, and gives the same weights.
    let spec = app.get(&format!("/v1/models/{id}/artifacts/spec")).await.expect(200);
    let again = app.train(&spec).await;
    assert_eq!(app.get(&format!("/v1/models/{again}/artifacts/safetensors")).await.body, file.body);

    assert_eq!(app.delete(&format!("/v1/models/{id}")).await.status, 204);
    for path in ["", "/artifacts/safetensors", "/artifacts/spec", "/sample"] {
        app.get(&format!("/v1/models/{id}{path}")).await.refuses(404, "not_found", &[]);
    }
    app.delete(&format!("/v1/models/{id}")).await.refuses(404, "not_found", &[]);
    app.stop().await;
}

#[tokio::test]
async fn the_file_is_the_answers_of_the_server() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(200).await;
    for family in ["autoencoder", "denoising", "vae"] {
        let mut spec = short_job(&dataset);
        spec["model"] = json!({"family": family, "settings": {"latent": 2}});
        let id = app.train(&spec).await;
        let file = app.get(&format!("/v1/models/{id}/artifacts/safetensors")).await;
        let read = TrainedModel::read(&file.body, tch::Device::Cpu).unwrap();
        let served = app.post(&format!("/v1/models/{id}/decode"), &json!({"codes": [[0.5, -1.0]]})).await.expect(200);
        let (own, _) = read.decode(&[0.5, -1.0], false);
        let served: Vec<f32> = serde_json::from_value(served["rows"][0].clone()).unwrap();
        assert_eq!(own, served, "{family}");
    }
    app.stop().await;
}
