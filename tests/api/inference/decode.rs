//! Codes to rows: means, their spread, and draws.

use latente::data::npy::matrix;
use serde_json::{Value, json};

use super::{close, rows, trained};
use crate::support::{TestApp, npy};

#[tokio::test]
async fn the_decoder_tells_how_sure_it_is() {
    let app = TestApp::start().await;
    let (_, model) = trained(&app).await;
    let codes = json!([[0.5, -1.0, 0.0], [0.0, 0.0, 0.0]]);
    let decode = async |body: Value| app.post(&format!("{model}/decode"), &body).await;
    let means = decode(json!({"codes": codes})).await.expect(200);
    assert!(means.get("spread").is_none());
    let both = decode(json!({"codes": codes, "spread": true})).await.expect(200);
    close(&both["rows"], &means["rows"]);
    let spread = rows(&both["spread"]);
    assert_eq!((spread.len(), spread[0].len()), (2, 64));
    // A shared variance: the same deviation for every pixel of every row, in the user's units.
    assert!(spread.concat().iter().all(|value| *value > 0.0 && (value - spread[0][0]).abs() < 1e-5), "{spread:?}");
    let inline = app.get(&format!("{model}/decode?x=0.5,-1,0&x=0,0,0&spread=true")).await.expect(200);
    close(&inline["rows"], &both["rows"]);
    close(&inline["spread"], &both["spread"]);

    // Draws scatter around the means by that deviation.
    let many = json!(vec![[0.0, 0.0, 0.0]; 2000]);
    let drawn = decode(json!({"codes": many, "draw": true, "seed": 7})).await.expect(200);
    assert_eq!(drawn, decode(json!({"codes": many, "draw": true, "seed": 7})).await.expect(200));
    assert_ne!(drawn, decode(json!({"codes": many, "draw": true, "seed": 8})).await.expect(200));
    let column: Vec<f64> = rows(&drawn["rows"]).iter().map(|row| row[20]).collect();
    let mean = column.iter().sum::<f64>() / 2000.0;
    let deviation = (column.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 2000.0).sqrt();
    assert!((deviation / spread[0][20] - 1.0).abs() < 0.1, "{deviation} is not {}", spread[0][20]);
    assert!((mean - rows(&means["rows"])[1][20]).abs() < 0.1 * deviation, "draws are not around the mean");
    let unseeded = app.get(&format!("{model}/decode?x=0,0,0&draw=true")).await.expect(200);
    assert_eq!(unseeded, app.get(&format!("{model}/decode?x=0,0,0&draw=true&seed=0")).await.expect(200));
    app.stop().await;
}

#[tokio::test]
async fn options_stand_beside_the_codes_or_in_the_query_of_a_matrix() {
    let app = TestApp::start().await;
    let (_, model) = trained(&app).await;
    let code = npy(1, 3, &[0.5, -1.0, 0.0]);
    let post = async |query: &str, body: Vec<u8>| {
        app.post_as(&format!("{model}/decode?{query}"), "application/x-npy", body).await
    };
    let told = post("spread=true", code.clone()).await.expect(200);
    let body = json!({"codes": [[0.5, -1.0, 0.0]], "spread": true});
    assert_eq!(told, app.post(&format!("{model}/decode"), &body).await.expect(200));
    let drawn = post("draw=true&seed=3&format=npy", code.clone()).await;
    let (count, width, values) = matrix(&drawn.body, 100).unwrap();
    assert_eq!((count, width), (1, 64));
    let same = json!({"codes": [[0.5, -1.0, 0.0]], "draw": true, "seed": 3});
    close(&json!([values]), &app.post(&format!("{model}/decode"), &same).await.expect(200)["rows"]);

    post("spread=true&draw=true", code.clone()).await.refuses(422, "invalid_request", &["?draw"]);
    post("spread=true&format=npy", code.clone()).await.refuses(422, "invalid_request", &["?spread"]);
    post("temperature=1", code.clone()).await.refuses(422, "invalid_request", &["?temperature"]);
    post("", npy(1, 3, &[0.0, f32::NAN, 0.0])).await.refuses(422, "invalid_request", &["/codes/0/1"]);
    post("", npy(1, 3, &[0.0, f32::INFINITY, 0.0])).await.refuses(422, "invalid_request", &["/codes/0/1"]);
    app.post(&format!("{model}/decode?spread=true"), &same).await.refuses(422, "invalid_request", &["?spread"]);
    app.stop().await;
}

#[tokio::test]
async fn what_cannot_be_told_together_is_refused() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let codes = json!([[0.5, -1.0, 0.0]]);
    let post = async |query: &str, more: Value| {
        let mut body = json!({"codes": codes});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        app.post(&format!("{model}/decode{query}"), &body).await
    };
    let check = async |more: Value, pointer: &str| post("", more).await.refuses(422, "invalid_request", &[pointer]);
    check(json!({"spread": true, "draw": true}), "/draw").await;
    check(json!({"seed": 7}), "/seed").await;
    check(json!({"spread": "yes"}), "/spread").await;
    check(json!({"draw": 1}), "/draw").await;
    check(json!({"draw": true, "seed": -1}), "/seed").await;
    check(json!({"draw": true, "steps": 3}), "/steps").await;
    let detail = post("?format=npy", json!({"spread": true})).await.refuses(422, "invalid_request", &["/spread"]);
    assert!(detail.contains("application/json"), "{detail}");
    post("?format=png", json!({"spread": true})).await.refuses(422, "invalid_request", &["/spread"]);
    let get = async |query: &str| app.get(&format!("{model}/decode?{query}")).await;
    get("x=0,0,0&spread=true&draw=true").await.refuses(422, "invalid_request", &["?draw"]);
    get("x=0,0,0&seed=1").await.refuses(422, "invalid_request", &["?seed"]);
    get("x=0,0,0&spread=2").await.refuses(422, "invalid_request", &["?spread"]);
    get("spread=true").await.refuses(422, "invalid_request", &["?x"]);
    get(&format!("dataset={dataset}")).await.refuses(422, "invalid_request", &["?dataset"]);
    assert_eq!(get("x=0,0,0&draw=true&format=png").await.headers["content-type"], "image/png");
    app.stop().await;
}
