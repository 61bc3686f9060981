//! Rows on the way from one to another.

use serde_json::{Value, json};

use super::{close, pixels, rows, trained};
use crate::support::TestApp;

#[tokio::test]
async fn a_way_begins_and_ends_at_the_reconstructions_of_its_rows() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let ends = app.get(&format!("{model}/reconstruct?dataset={dataset}&rows=3-5")).await.expect(200);
    let codes = app.get(&format!("{model}/encode?dataset={dataset}&rows=3-5")).await.expect(200);
    for way in ["linear", "spherical"] {
        let path = format!("{model}/interpolate?dataset={dataset}&rows=3-5&steps=5&way={way}");
        let found = app.get(&path).await.expect(200);
        assert_eq!((rows(&found["rows"]).len(), rows(&found["codes"]).len()), (10, 10));
        for (place, end) in [(0, 0), (4, 1), (5, 1), (9, 2)] {
            close(&json!([found["rows"][place]]), &json!([ends["rows"][end]]));
            close(&json!([found["codes"][place]]), &json!([codes["codes"][end]]));
        }
        let body = json!({"rows": &pixels(&app, &dataset, 6).await[3..], "steps": 5, "way": way});
        assert_eq!(app.post(&format!("{model}/interpolate"), &body).await.expect(200), found);
        if way == "linear" {
            let (codes, ends) = (rows(&found["codes"]), rows(&codes["codes"]));
            let middle: Vec<f64> = ends[0].iter().zip(&ends[1]).map(|(a, b)| (a + b) / 2.0).collect();
            close(&json!([codes[2]]), &json!([middle]));
        }
    }
    let picture = app.get_as(&format!("{model}/interpolate?dataset={dataset}&rows=0-1"), "image/png").await;
    assert_eq!((picture.status.as_u16(), picture.headers["content-type"].to_str().unwrap()), (200, "image/png"));
    let one = app.get(&format!("{model}/interpolate?dataset={dataset}&rows=0&steps=1")).await;
    one.refuses(422, "invalid_request", &["?rows", "?steps"]);
    let body = json!({"rows": pixels(&app, &dataset, 2).await, "way": "winding"});
    app.post(&format!("{model}/interpolate"), &body).await.refuses(422, "invalid_request", &["/way"]);
    app.stop().await;
}

#[tokio::test]
async fn a_way_between_codes_is_that_between_their_rows() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let codes = app.get(&format!("{model}/encode?dataset={dataset}&rows=3-4")).await.expect(200)["codes"].clone();
    let between_rows = app.get(&format!("{model}/interpolate?dataset={dataset}&rows=3-4&steps=4")).await.expect(200);
    let post = async |body: Value| app.post(&format!("{model}/interpolate"), &body).await;
    let between_codes = post(json!({"codes": codes, "steps": 4})).await.expect(200);
    close(&between_codes["rows"], &between_rows["rows"]);
    close(&between_codes["codes"], &between_rows["codes"]);
    let text = |code: &Value| rows(&json!([code]))[0].iter().map(f64::to_string).collect::<Vec<_>>().join(",");
    let query = format!("code={}&code={}", text(&codes[0]), text(&codes[1]));
    let found = app.get(&format!("{model}/interpolate?{query}&steps=4")).await.expect(200);
    close(&found["rows"], &between_rows["rows"]);

    post(json!({"codes": codes, "rows": []})).await.refuses(422, "invalid_request", &["/codes"]);
    post(json!({"codes": [codes[0]]})).await.refuses(422, "invalid_request", &["/codes"]);
    post(json!({"codes": [[1, 2], [1, 2]]})).await.refuses(422, "invalid_request", &["/codes/0", "/codes/1"]);
    post(json!({"steps": 4})).await.refuses(422, "invalid_request", &["/rows"]);
    let get = async |query: &str| app.get(&format!("{model}/interpolate?{query}")).await;
    get("code=1,2").await.refuses(422, "invalid_request", &["?code"]);
    get("code=1,2,3").await.refuses(422, "invalid_request", &["?code"]);
    get(&format!("{query}&dataset={dataset}")).await.refuses(422, "invalid_request", &["?code"]);
    app.stop().await;
}
