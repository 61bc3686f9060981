//! Rows as the network has them, where that is asked for.

use serde_json::{Value, json};

use super::forms::of_a_table;
use super::{close, pixels, rows, trained};
use crate::support::TestApp;

fn times(matrix: &Value, factor: f64) -> Value {
    json!(
        rows(matrix)
            .into_iter()
            .map(|row| row.into_iter().map(|value| value * factor).collect())
            .collect::<Vec<Vec<f64>>>()
    )
}

#[tokio::test]
async fn prepared_rows_go_in_and_come_out_as_the_network_has_them() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let pixels = json!(pixels(&app, &dataset, 3).await);
    // Pixels go from 0 to 16, and share one scale.
    let prepared = times(&pixels, 1.0 / 16.0);
    let post = async |question: &str, body: Value| app.post(&format!("{model}/{question}"), &body).await.expect(200);
    let codes = post("encode", json!({"rows": pixels})).await;
    let told = post("encode?prepared=in", json!({"rows": prepared})).await;
    close(&told["codes"], &codes["codes"]);
    close(&told["spread"], &codes["spread"]);
    let decoded = post("decode", json!({"codes": codes["codes"], "spread": true})).await;
    let told = post("decode?prepared=out", json!({"codes": codes["codes"], "spread": true})).await;
    close(&told["rows"], &times(&decoded["rows"], 1.0 / 16.0));
    close(&told["spread"], &times(&decoded["spread"], 1.0 / 16.0));
    let whole = post("reconstruct?prepared=both", json!({"rows": prepared})).await;
    close(&whole["rows"], &told["rows"]);
    let out = app.get(&format!("{model}/reconstruct?dataset={dataset}&rows=0-2&prepared=out")).await.expect(200);
    close(&out["rows"], &told["rows"]);
    close(&json!([out["errors"]]), &json!([whole["errors"]]));
    close(&post("reconstruct?prepared=in", json!({"rows": prepared})).await["rows"], &decoded["rows"]);
    let scores = post("score", json!({"rows": pixels, "contributions": true})).await;
    let told = post("score?prepared=in", json!({"rows": prepared, "contributions": true})).await;
    close(&told["contributions"], &scores["contributions"]);
    let sampled = app.get(&format!("{model}/sample?n=2&seed=3")).await.expect(200);
    let told = app.get(&format!("{model}/sample?n=2&seed=3&prepared=out")).await.expect(200);
    close(&told["rows"], &times(&sampled["rows"], 1.0 / 16.0));
    let mut gap = prepared[0].clone();
    gap[20] = Value::Null;
    let filled = post("impute?prepared=both", json!({"rows": [gap]})).await;
    assert_eq!(filled["rows"][0][19], prepared[0][19]);
    assert!((-0.5..1.5).contains(&filled["rows"][0][20].as_f64().unwrap()), "{filled}");

    let get = async |question: &str| app.get(&format!("{model}/{question}")).await;
    get("encode?x=1&prepared=out").await.refuses(422, "invalid_request", &["?prepared"]);
    get("sample?prepared=in").await.refuses(422, "invalid_request", &["?prepared"]);
    get("sample?prepared=yes").await.refuses(422, "invalid_request", &["?prepared"]);
    get(&format!("encode?dataset={dataset}&prepared=in")).await.refuses(422, "invalid_request", &["?dataset"]);
    get("sample?prepared=out&format=png").await.refuses(406, "not_acceptable", &[]);
    app.stop().await;
}

#[tokio::test]
async fn a_category_is_a_number_for_each_level() {
    let app = TestApp::start().await;
    let model = of_a_table(&app).await;
    let csv = app.get(&format!("{model}/decode?x=0,0&x=1,-1&prepared=out&format=csv")).await;
    let told = csv.headers["content-type"].to_str().unwrap().to_owned();
    let text = String::from_utf8(csv.body.clone()).unwrap();
    assert!(text.starts_with("x,size=large,\"size=middle, \"\"so\"\"\",size=small,n\r\n"), "{text}");
    let decoded = app.get(&format!("{model}/decode?x=0,0&x=1,-1&prepared=out")).await.expect(200);
    for row in rows(&decoded["rows"]) {
        assert_eq!(row.len(), 5);
        assert!((row[1..4].iter().sum::<f64>() - 1.0).abs() < 1e-5, "{row:?}");
    }
    // By name, in any form, and without what is not known.
    let codes = app.post(&format!("{model}/encode?prepared=in"), &json!({"rows": decoded["rows"]})).await.expect(200);
    let by_name = app.post_as(&format!("{model}/encode?prepared=in"), &told, csv.body).await.expect(200);
    close(&by_name["codes"], &codes["codes"]);
    let gaps = json!({"rows": [{"x": 0.5, "n": 1.0}]});
    assert_eq!(rows(&app.post(&format!("{model}/impute?prepared=both"), &gaps).await.expect(200)["rows"])[0].len(), 5);
    app.post(&format!("{model}/encode?prepared=in"), &json!({"rows": [[0.5, "small", 1]]})).await.refuses(
        422,
        "invalid_request",
        &["/rows/0"],
    );
    app.stop().await;
}
