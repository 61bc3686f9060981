//! Models that were trained on rows with gaps take rows with gaps.

use serde_json::{Value, json};

use super::{close, rows};
use crate::support::{TestApp, npy};

#[tokio::test]
async fn a_model_of_rows_with_gaps_answers_rows_with_gaps() {
    let app = TestApp::start().await;
    let cell = |row: usize, column: usize| match (row * 7 + column * 3) % 5 {
        0 => String::new(),
        _ => format!("{}", (row * (column + 2)) % 23),
    };
    let lines: Vec<String> =
        (0..80).map(|row| format!("{},{},{},{}", cell(row, 0), cell(row, 1), cell(row, 2), row % 2)).collect();
    let file = format!("a,b,c,y\n{}\n", lines.join("\n"));
    let dataset = app.upload("?label=y", file).await["id"].as_str().unwrap().to_owned();
    let job = json!({
        "dataset": dataset,
        "model": {"family": "feed_forward", "settings": {"latent": 3}},
        "likelihood": "gaussian",
        "training": {"epochs": 3},
    });
    let model = format!("/v1/models/{}", app.train(&job).await);
    let body = json!({"rows": [[1, null, 3], {"a": null, "b": 2, "c": 4}, {"c": 5}, [null, null, null]]});
    for (what, answer) in [("encode", "codes"), ("reconstruct", "rows"), ("predict", "predictions"), ("impute", "rows")]
    {
        let whole = app.post(&format!("{model}/{what}"), &body).await.expect(200);
        assert!(rows(&whole[answer]).concat().iter().all(|value| value.is_finite()), "{what}: {whole}");
        let values = [1.0, f32::NAN, 3.0, f32::NAN, 2.0, 4.0, f32::NAN, f32::NAN, 5.0, f32::NAN, f32::NAN, f32::NAN];
        let path = format!("{model}/{what}");
        let by_matrix = app.post_as(&path, "application/x-npy", npy(4, 3, &values)).await.expect(200);
        close(&by_matrix[answer], &whole[answer]);
        let one = app.get(&format!("{model}/{what}?x=1,,3")).await.expect(200);
        close(&one[answer], &json!([whole[answer][0]]));
        app.get(&format!("{model}/{what}?dataset={dataset}&rows=0-9")).await.expect(200);
    }
    let told = app.post(&format!("{model}/reconstruct"), &body).await.expect(200);
    assert_eq!(told["errors"][3], json!(0.0), "nothing is known of that row, so nothing is wrong: {told}");
    // The error is over the two values that are there, in prepared units; the third says what those are.
    let single = |row: Value| json!({"rows": [row]});
    let error = |answer: &Value| answer["errors"][0].as_f64().unwrap();
    let both = app.post(&format!("{model}/reconstruct"), &single(json!([1, null, 3]))).await.expect(200);
    assert!(error(&both) > 0.0);
    app.post(&format!("{model}/decode"), &json!({"codes": [[1, null, 3]]})).await.refuses(
        422,
        "invalid_request",
        &["/codes/0/1"],
    );
    app.stop().await;
}
