//! Estimates of the gradient of log p(x), beside reconstructions.

use serde_json::{Value, json};

use super::{close, pixels, rows, trained, trained_by};
use crate::support::{TestApp, npy};

#[tokio::test]
async fn a_denoiser_points_to_likelier_rows() {
    let app = TestApp::start().await;
    let (dataset, model) = trained_by(&app, "denoising").await;
    let pixels = pixels(&app, &dataset, 2).await;
    let post = async |body: Value| app.post(&format!("{model}/reconstruct"), &body).await;
    let plain = post(json!({"rows": pixels})).await.expect(200);
    assert!(plain.get("score_estimates").is_none());
    let told = post(json!({"rows": pixels, "score_estimate": true})).await.expect(200);
    close(&told["rows"], &plain["rows"]);
    // With masking the estimate is what restoring changes, in prepared units: pixels go from 0 to 16.
    let expected: Vec<Vec<f64>> = rows(&told["rows"])
        .iter()
        .zip(&pixels)
        .map(|(restored, row)| restored.iter().zip(row).map(|(r, x)| (r - x) / 16.0).collect())
        .collect();
    close(&told["score_estimates"], &json!(expected));
    let query = format!("{model}/reconstruct?dataset={dataset}&rows=0-1&score_estimate=true");
    let by_query = app.get(&query).await.expect(200);
    close(&by_query["score_estimates"], &told["score_estimates"]);
    let values: Vec<f32> = pixels.concat().into_iter().map(|value| value as f32).collect();
    let path = format!("{model}/reconstruct?score_estimate=true");
    let by_matrix = app.post_as(&path, "application/x-npy", npy(2, 64, &values)).await.expect(200);
    close(&by_matrix["score_estimates"], &told["score_estimates"]);

    app.get(&format!("{query}&format=npy")).await.refuses(422, "invalid_request", &["?score_estimate"]);
    app.get(&format!("{query}&format=png")).await.refuses(422, "invalid_request", &["?score_estimate"]);
    post(json!({"rows": pixels, "score_estimate": "yes"})).await.refuses(422, "invalid_request", &["/score_estimate"]);
    post(json!({"rows": pixels, "scores": true})).await.refuses(422, "invalid_request", &["/scores"]);
    app.stop().await;
}

#[tokio::test]
async fn a_model_without_an_estimate_says_so() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let body = json!({"rows": pixels(&app, &dataset, 1).await, "score_estimate": true});
    let answer = app.post(&format!("{model}/reconstruct"), &body).await;
    let detail = answer.refuses(422, "invalid_request", &["/score_estimate"]);
    assert!(detail.contains("vae"), "{detail}");
    let query = format!("{model}/reconstruct?dataset={dataset}&score_estimate=true");
    app.get(&query).await.refuses(422, "invalid_request", &["?score_estimate"]);
    // The model is none the worse for it.
    app.get(&format!("{model}/reconstruct?dataset={dataset}&score_estimate=false")).await.expect(200);
    app.stop().await;
}
