//! How strange rows are: measures, densities, and what share of ordinary rows is less strange.

use latente::data::npy::matrix;
use serde_json::{Value, json};

use super::{close, pixels, rows, trained, trained_by};
use crate::support::{TestApp, npy};

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_else(|| panic!("{name} of {row}"))
}

fn scores(answer: &Value) -> &Vec<Value> {
    answer["scores"].as_array().unwrap()
}

/// A row of pixels that is no digit.
fn noise() -> Vec<f64> {
    (0_u32..64).map(|pixel| f64::from(pixel.wrapping_mul(2_654_435_761) >> 28)).collect()
}

#[tokio::test]
async fn what_is_no_digit_is_an_anomaly_and_digits_are_not() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let stored = app.get(&format!("{model}/score?dataset={dataset}&rows=0-99")).await.expect(200);
    let ordinary = scores(&stored).iter().filter(|row| row["is_anomaly"] == false).count();
    assert!(ordinary >= 90, "{ordinary} of 100 digits are ordinary");
    let mean = scores(&stored).iter().map(|row| number(row, "anomaly")).sum::<f64>() / 100.0;
    assert!((0.2..0.8).contains(&mean), "digits are strange in the mean by {mean}");

    for measure in ["reconstruction", "log_likelihood"] {
        let body = json!({"rows": [noise()], "measure": measure});
        let strange = &scores(&app.post(&format!("{model}/score"), &body).await.expect(200))[0].clone();
        assert_eq!(strange["is_anomaly"], true, "{measure}: {strange}");
        assert!(number(strange, "anomaly") > 0.9 && number(strange, "anomaly") < 1.0, "{strange}");
        let judged = if measure == "reconstruction" { "reconstruction" } else { "log_likelihood" };
        assert_eq!(number(strange, "score").abs(), number(strange, judged).abs());
    }
    // With a lower threshold more rows are anomalies.
    let median = app.get(&format!("{model}/score?dataset={dataset}&rows=0-99&threshold=0.5")).await.expect(200);
    let above = scores(&median).iter().filter(|row| row["is_anomaly"] == true).count();
    assert!((15..=85).contains(&above), "{above} of 100 digits are stranger than half of them");
    app.stop().await;
}

#[tokio::test]
async fn get_and_post_score_the_same_and_agree_with_the_other_questions() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let pixels = pixels(&app, &dataset, 3).await;
    let by_body = app
        .post(&format!("{model}/score"), &json!({"rows": pixels, "contributions": true, "seed": 5}))
        .await
        .expect(200);
    let query = format!("dataset={dataset}&rows=0-2&contributions=true&seed=5");
    assert_eq!(app.get(&format!("{model}/score?{query}")).await.expect(200), by_body);
    let rebuilt = app.get(&format!("{model}/reconstruct?dataset={dataset}&rows=0-2")).await.expect(200);
    let shares = rows(&by_body["contributions"]);
    assert_eq!((shares.len(), shares[0].len(), by_body["columns"].as_array().unwrap().len()), (3, 64, 64));
    for (index, row) in scores(&by_body).iter().enumerate() {
        let error = rebuilt["errors"][index].as_f64().unwrap();
        assert!((number(row, "error") - error).abs() < 1e-5, "{row}");
        let sum: f64 = shares[index].iter().sum();
        assert!((number(row, "reconstruction") - sum).abs() < 1e-3 * sum.abs().max(1.0), "{row}: {sum}");
        // The mean of a concave function lies below the function of the mean.
        assert!(number(row, "log_likelihood") >= number(row, "elbo"), "{row}");
        let effective = number(row, "effective_samples");
        assert!((1.0..=64.001).contains(&effective) && number(row, "standard_error") >= 0.0, "{row}");
    }

    let plain = app.post(&format!("{model}/score"), &json!({"rows": pixels, "samples": 0})).await.expect(200);
    assert!(plain["scores"][0].get("log_likelihood").is_none() && plain.get("contributions").is_none(), "{plain}");
    let values: Vec<f32> = pixels.concat().into_iter().map(|value| value as f32).collect();
    let asked = format!("{model}/score?samples=0&format=npy");
    let answer = app.post_as(&asked, "application/x-npy", npy(3, 64, &values)).await;
    let (count, width, numbers) = matrix(&answer.body, 100).unwrap();
    assert_eq!((count, width), (3, 2));
    let expected: Vec<[f64; 2]> =
        scores(&plain).iter().map(|row| [number(row, "score"), number(row, "anomaly")]).collect();
    close(&json!(numbers.chunks(2).collect::<Vec<_>>()), &json!(expected));
    app.stop().await;
}

#[tokio::test]
async fn other_draws_agree_within_their_standard_errors() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let with = async |seed: u32, samples: u32| {
        let path = format!("{model}/score?dataset={dataset}&rows=0-19&seed={seed}&samples={samples}");
        scores(&app.get(&path).await.expect(200)).clone()
    };
    let (one, again, other, many) = (with(1, 200).await, with(1, 200).await, with(2, 200).await, with(3, 4000).await);
    assert_eq!(one, again);
    assert_ne!(one, other);
    let mut apart = 0;
    for (one, many) in one.iter().zip(&many) {
        let error = number(one, "standard_error").hypot(number(many, "standard_error"));
        let off = (number(one, "log_likelihood") - number(many, "log_likelihood")).abs();
        apart += u32::from(off > 3.0 * error.max(1e-4));
    }
    // Estimates of skewed weights are off by more than three of their errors now and then.
    assert!(apart <= 3, "{apart} of 20 estimates disagree");
    app.stop().await;
}

#[tokio::test]
async fn what_cannot_be_scored_is_refused_by_name() {
    let app = TestApp::start().await;
    let (dataset, model) = trained_by(&app, "autoencoder").await;
    let row = pixels(&app, &dataset, 1).await;
    let post = async |more: Value| {
        let mut body = json!({"rows": row});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        app.post(&format!("{model}/score"), &body).await
    };
    let told = post(json!({})).await.expect(200);
    assert!(told["scores"][0].get("log_likelihood").is_none() && told["scores"][0]["anomaly"].is_number(), "{told}");
    let refusal = post(json!({"samples": 10})).await.refuses(422, "invalid_request", &["/samples"]);
    assert!(refusal.contains("vae"), "{refusal}");
    post(json!({"measure": "log_likelihood"})).await.refuses(422, "invalid_request", &["/measure"]);
    post(json!({"threshold": 1.0})).await.refuses(422, "invalid_request", &["/threshold"]);
    post(json!({"samples": 20_000})).await.refuses(422, "invalid_request", &["/samples", "/samples"]);
    post(json!({"rows": [[1, 2]]})).await.refuses(422, "invalid_request", &["/rows/0"]);
    post(json!({"rows": []})).await.refuses(422, "invalid_request", &["/rows"]);
    app.get(&format!("{model}/score?x=1,2")).await.refuses(422, "invalid_request", &["?x"]);
    app.get_as(&format!("{model}/score?dataset={dataset}"), "image/png").await.refuses(406, "not_acceptable", &[]);

    let (dataset, model) = trained(&app).await;
    let query = format!("{model}/score?dataset={dataset}&samples=0&measure=log_likelihood");
    app.get(&query).await.refuses(422, "invalid_request", &["?samples"]);
    let query = format!("{model}/score?dataset={dataset}&contributions=true&format=npy");
    app.get(&query).await.refuses(422, "invalid_request", &["?contributions"]);
    app.stop().await;
}
