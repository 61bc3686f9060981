//! Which rows a job trained on can be asked.

use serde_json::{Value, json};

use crate::support::{TestApp, short_job};

async fn table(app: &TestApp) -> String {
    let lines: Vec<String> =
        (0..40).map(|row| format!("{},{},{},{}", row * 3 % 17, row % 5, [0, 0, 1, 2][row % 4], 1000 - row)).collect();
    let file = format!("a,b,part,time\n{}\n", lines.join("\n"));
    app.upload("?label=part&label=time", file).await["id"].as_str().unwrap().to_owned()
}

async fn trained(app: &TestApp, dataset: &str, split: Value) -> String {
    let mut spec = short_job(dataset);
    spec["split"] = split;
    let job = app.submit(&spec).await;
    assert_eq!(app.wait(&job).await["status"], "succeeded");
    format!("/v1/jobs/{job}/split")
}

#[tokio::test]
async fn a_job_tells_which_rows_it_trained_on() {
    let app = TestApp::start().await;
    let dataset = table(&app).await;
    let split = trained(&app, &dataset, json!({"column": "part"})).await;
    assert_eq!(app.get(&split).await.expect(200), json!({"train": 20, "validation": 10, "test": 10}));
    let page = app.get(&format!("{split}?part=test&limit=4&offset=2")).await.expect(200);
    assert_eq!((&page["rows"], &page["has_more"]), (&json!([11, 15, 19, 23]), &json!(true)));
    let end = app.get(&format!("{split}?part=validation&offset=9")).await.expect(200);
    assert_eq!((&end["rows"], &end["has_more"]), (&json!([38]), &json!(false)));

    let split = trained(&app, &dataset, json!({"order_by": "time", "test": 0.1, "validation": 0.2})).await;
    let rows = async |part: &str| app.get(&format!("{split}?part={part}")).await.expect(200)["rows"].clone();
    // Time runs backwards through the file.
    assert_eq!(rows("test").await, json!([0, 1, 2, 3]));
    assert_eq!(rows("validation").await, json!([4, 5, 6, 7, 8, 9, 10, 11]));

    let split = trained(&app, &dataset, json!({"stratify_by": "b", "validation": 0.25})).await;
    let drawn: Vec<u64> =
        serde_json::from_value(app.get(&format!("{split}?part=validation")).await.expect(200)["rows"].clone()).unwrap();
    for value in 0..5 {
        assert_eq!(drawn.iter().filter(|row| *row % 5 == value).count(), 2, "{drawn:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn splits_that_cannot_be_are_refused_where_they_stand() {
    let app = TestApp::start().await;
    let dataset = table(&app).await;
    let check = async |split: Value, pointers: &[&str]| {
        let mut spec = short_job(&dataset);
        spec["split"] = split;
        app.post("/v1/jobs", &spec).await.refuses(422, "invalid_request", pointers);
    };
    check(json!({"column": "b"}), &["/split/column"]).await;
    check(json!({"column": "no_such_column"}), &["/split/column"]).await;
    check(json!({"column": "part", "validation": 0.3}), &["/split/column"]).await;
    check(json!({"order_by": "time", "stratify": true}), &["/split/order_by"]).await;
    check(json!({"stratify_by": "c"}), &["/split/stratify_by"]).await;
    check(json!({"stratify_by": "a", "stratify": true}), &["/split/stratify_by"]).await;
    check(json!({"colum": "part"}), &["/split/colum"]).await;
    app.get("/v1/jobs/job_0198c5d2a1b37e6f9a1b2c3d4e5f6071/split").await.refuses(404, "not_found", &[]);
    let split = trained(&app, &dataset, json!({})).await;
    app.get(&format!("{split}?part=all")).await.refuses(422, "invalid_request", &["?part"]);
    app.get(&format!("{split}?part=test&limit=0")).await.refuses(422, "invalid_request", &["?limit"]);
    app.stop().await;
}
