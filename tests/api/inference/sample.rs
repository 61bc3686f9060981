//! New rows: by seed, by temperature, by the steps of a chain, as means and as draws.

use serde_json::{Value, json};

use super::{close, rows, trained, trained_by};
use crate::support::TestApp;

#[tokio::test]
async fn samples_depend_on_the_seed_and_nothing_else() {
    let app = TestApp::start().await;
    let (_, model) = trained(&app).await;
    let draw = async |query: &str| app.get(&format!("{model}/sample?{query}")).await.expect(200);
    let first = draw("n=4&seed=7").await;
    assert_eq!(rows(&first["rows"]).len(), 4);
    assert_eq!(first, draw("seed=7&n=4").await);
    assert_ne!(first, draw("n=4&seed=8").await);
    assert_eq!(first, app.post(&format!("{model}/sample"), &json!({"n": 4, "seed": 7})).await.expect(200));
    let calm = draw("n=2&seed=7&temperature=0").await;
    assert_eq!(calm["rows"][0], calm["rows"][1], "without spread every draw is the middle");
    // Callers who share a batch do not share draws.
    let together = futures_util::future::join_all((0..30).map(|seed| {
        let (app, model) = (&app, &model);
        async move { (seed, app.get(&format!("{model}/sample?n=2&seed={seed}")).await.expect(200)) }
    }))
    .await;
    for (seed, answer) in together {
        close(&answer["rows"], &draw(&format!("n=2&seed={seed}")).await["rows"]);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_chain_moves_by_its_steps_and_only_models_that_have_one_take_them() {
    let app = TestApp::start().await;
    let (_, chain) = trained_by(&app, "denoising").await;
    let draw = async |query: &str| app.get(&format!("{chain}/sample?n=3&seed=7{query}")).await.expect(200);
    let usual = draw("").await;
    assert_eq!(usual, draw("&steps=20").await, "twenty steps are the default");
    assert_eq!(usual, app.post(&format!("{chain}/sample"), &json!({"n": 3, "seed": 7})).await.expect(200));
    let (start, one, two) = (draw("&steps=0").await, draw("&steps=1").await, draw("&steps=2").await);
    assert!(start != one && one != two && two != usual, "every step moves the rows");
    let drawn = draw("&steps=0&draw=true").await;
    assert_ne!(drawn, start, "a draw is not the mean");
    assert_eq!(drawn, draw("&steps=0&draw=true").await);

    let post = async |body: Value| app.post(&format!("{chain}/sample"), &body).await;
    post(json!({"steps": 10_001})).await.refuses(422, "invalid_request", &["/steps"]);
    post(json!({"steps": -1})).await.refuses(422, "invalid_request", &["/steps"]);
    post(json!({"steps": 1.5})).await.refuses(422, "invalid_request", &["/steps"]);
    let detail = post(json!({"n": 60_000, "steps": 10_000})).await.refuses(422, "invalid_request", &["/steps"]);
    assert!(detail.contains("up to 33 for 60000 rows"), "{detail}");
    let detail = post(json!({"draw": true})).await.refuses(422, "invalid_request", &["/draw"]);
    assert!(detail.contains("`steps` 0"), "{detail}");
    app.stop().await;
}

#[tokio::test]
async fn a_prior_gives_means_or_draws_and_knows_no_steps() {
    let app = TestApp::start().await;
    let (_, model) = trained(&app).await;
    let draw = async |query: &str| app.get(&format!("{model}/sample?{query}")).await.expect(200);
    let (means, draws) = (draw("n=200&seed=7").await, draw("n=200&seed=7&draw=true").await);
    assert_eq!(draws, draw("n=200&seed=7&draw=true").await);
    assert_ne!(draws, draw("n=200&seed=8&draw=true").await);
    assert_eq!(
        draws,
        app.post(&format!("{model}/sample"), &json!({"n": 200, "seed": 7, "draw": true})).await.expect(200)
    );
    // Draws are around the means of the same codes, by the deviation that the decoder tells.
    let spread = app.get(&format!("{model}/decode?x=0,0,0&spread=true")).await.expect(200);
    let expected = rows(&spread["spread"])[0][0];
    let apart = rows(&draws["rows"]).concat().into_iter().zip(rows(&means["rows"]).concat());
    let squares: f64 = apart.map(|(draw, mean)| (draw - mean).powi(2)).sum();
    let deviation = (squares / (200.0 * 64.0)).sqrt();
    assert!((deviation / expected - 1.0).abs() < 0.05, "{deviation} is not {expected}");

    let detail = app.get(&format!("{model}/sample?steps=3")).await.refuses(422, "invalid_request", &["?steps"]);
    assert!(detail.contains("vae does not"), "{detail}");
    app.get(&format!("{model}/sample?steps=0")).await.refuses(422, "invalid_request", &["?steps"]);
    let post = async |body: Value| app.post(&format!("{model}/sample"), &body).await;
    post(json!({"steps": 0})).await.refuses(422, "invalid_request", &["/steps"]);
    post(json!({"n": 0, "temperature": 11, "steps": 3})).await.refuses(
        422,
        "invalid_request",
        &["/n", "/temperature", "/steps"],
    );
    post(json!({"n": 1_000_000_000})).await.refuses(422, "invalid_request", &["/n"]);
    post(json!({"n": -1})).await.refuses(422, "invalid_request", &["/n"]);
    post(json!({"draw": "yes"})).await.refuses(422, "invalid_request", &["/draw"]);
    post(json!({"seed": null})).await.refuses(422, "invalid_request", &["/seed"]);
    post(json!({"format": "npy"})).await.refuses(422, "invalid_request", &["/format"]);
    let get = async |query: &str| app.get(&format!("{model}/sample?{query}")).await;
    get("n=0").await.refuses(422, "invalid_request", &["?n"]);
    get("n=x").await.refuses(422, "invalid_request", &["?n"]);
    get("count=3").await.refuses(422, "invalid_request", &["?count"]);
    get("temperature=-1").await.refuses(422, "invalid_request", &["?temperature"]);
    get("temperature=nan").await.refuses(422, "invalid_request", &["?temperature"]);
    get("draw=maybe").await.refuses(422, "invalid_request", &["?draw"]);
    app.post_as(&format!("{model}/sample"), "application/x-npy", "1").await.refuses(415, "unsupported_media_type", &[]);
    app.stop().await;
}

#[tokio::test]
async fn a_chain_and_every_other_family_hold_given_pixels() {
    let app = TestApp::start().await;
    for family in ["gsn", "autoencoder", "helmholtz"] {
        let (_, model) = trained_by(&app, family).await;
        let columns = app.get(&model).await.expect(200)["columns"].clone();
        let (first, last) = (columns[10]["name"].as_str().unwrap(), columns[33]["name"].as_str().unwrap());
        let body = json!({"n": 5, "seed": 4, "given": {first: 16, last: 3.5}});
        let answer = app.post(&format!("{model}/sample"), &body).await.expect(200);
        let rows = rows(&answer["rows"]);
        assert!(rows.len() == 5 && rows.iter().all(|row| row[10] == 16.0 && row[33] == 3.5), "{family}: {rows:?}");
        assert!(rows.iter().any(|row| row[20] != rows[0][20]), "{family}: rows differ elsewhere");
        assert_eq!(answer, app.post(&format!("{model}/sample"), &body).await.expect(200));
        let told = app.post(&format!("{model}/sample?prepared=out"), &body).await.expect(200);
        let shade = told["rows"][0][10].as_f64().unwrap();
        assert!((shade - 1.0).abs() < 1e-6, "{family}: a prepared pixel goes from 0 to 1, not {shade}");
    }
    app.stop().await;
}
