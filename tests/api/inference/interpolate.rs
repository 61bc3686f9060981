//! Rows on the way from one to another.

use serde_json::json;

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
