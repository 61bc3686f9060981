//! One number of a code after the other is changed, and the rows follow.

use serde_json::{Value, json};

use super::{close, pixels, rows, trained};
use crate::support::TestApp;

#[tokio::test]
async fn each_unit_goes_over_its_range_while_the_others_stay() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let get = async |query: &str| app.get(&format!("{model}/traverse?{query}")).await;
    let whole = get("").await.expect(200);
    let (codes, values) = (rows(&whole["codes"]), rows(&whole["values"]));
    assert_eq!((whole["units"].clone(), codes.len(), rows(&whole["rows"])[0].len()), (json!([0, 1, 2]), 24, 64));
    for (unit, range) in values.iter().enumerate() {
        // The prior is a standard normal.
        assert!((range[0] + 3.0).abs() < 0.2 && (range[7] - 3.0).abs() < 0.2, "{range:?}");
        for (step, value) in range.iter().enumerate() {
            let code = &codes[unit * 8 + step];
            assert!((code[unit] - value).abs() < 1e-5, "{code:?}");
            assert_eq!(code[(unit + 1) % 3], codes[unit * 8][(unit + 1) % 3]);
            assert!(code[(unit + 1) % 3].abs() < 0.1, "{code:?}");
        }
    }
    let decoded = app.post(&format!("{model}/decode"), &json!({"codes": whole["codes"]})).await.expect(200);
    close(&whole["rows"], &decoded["rows"]);

    // From a row, by reference or in a body, or from a code.
    let pixels = pixels(&app, &dataset, 3).await;
    let of_row = get(&format!("dataset={dataset}&rows=2&unit=1&steps=3&from=-1&to=1")).await.expect(200);
    assert_eq!((of_row["units"].clone(), rows(&of_row["values"])), (json!([1]), vec![vec![-1.0, 0.0, 1.0]]));
    let way = json!({"unit": 1, "steps": 3, "from": -1, "to": 1});
    let body = |name: &str, value: Value| {
        let mut body = way.clone();
        body[name] = value;
        body
    };
    let post = async |body: Value| app.post(&format!("{model}/traverse"), &body).await;
    close(&post(body("rows", json!([pixels[2]]))).await.expect(200)["rows"], &of_row["rows"]);
    let code = app.get(&format!("{model}/encode?dataset={dataset}&rows=2")).await.expect(200)["codes"][0].clone();
    close(&post(body("codes", json!([code]))).await.expect(200)["rows"], &of_row["rows"]);
    let inline: Vec<String> = code.as_array().unwrap().iter().map(Value::to_string).collect();
    let of_code = get(&format!("code={}&unit=1&steps=3&from=-1&to=1", inline.join(","))).await.expect(200);
    close(&of_code["rows"], &of_row["rows"]);

    // A line of the picture for each unit.
    let picture = image::load_from_memory(&get("steps=6&format=png").await.body).unwrap();
    assert_eq!((picture.width(), picture.height()), (6 * 50 + 2, 3 * 50 + 2));
    app.stop().await;
}

#[tokio::test]
async fn each_bad_traversal_is_refused_where_it_is_wrong() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app).await;
    let refuses = async |query: String, pointer: &str| {
        app.get(&format!("{model}/traverse?{query}")).await.refuses(422, "invalid_request", &[pointer]);
    };
    refuses("unit=3".into(), "?unit").await;
    refuses("unit=-1".into(), "?unit").await;
    refuses("steps=1".into(), "?steps").await;
    refuses("steps=1000000000".into(), "?steps").await;
    refuses("from=nan".into(), "?from").await;
    refuses("to=inf".into(), "?to").await;
    refuses("code=1,2".into(), "?code").await;
    refuses(format!("code=1,2,3&dataset={dataset}"), "?code").await;
    refuses(format!("dataset={dataset}&rows=0-1"), "?rows").await;
    refuses("x=1,2".into(), "?x").await;
    let post = async |body: Value| app.post(&format!("{model}/traverse"), &body).await;
    post(json!({"codes": [[0, 0]]})).await.refuses(422, "invalid_request", &["/codes/0"]);
    post(json!({"codes": [[0, 0, 0]], "rows": [[1]]})).await.refuses(422, "invalid_request", &["/codes"]);
    post(json!({"codes": [[0, 0, 0], [0, 0, 1]]})).await.refuses(422, "invalid_request", &["/codes"]);
    post(json!({"codes": [], "unit": 0})).await.refuses(422, "invalid_request", &["/codes"]);
    post(json!({"unit": 9})).await.refuses(422, "invalid_request", &["/unit"]);
    post(json!({"units": [1]})).await.refuses(422, "invalid_request", &["/units"]);
    post(json!({"unit": 0, "steps": 2})).await.expect(200);
    app.stop().await;
}
