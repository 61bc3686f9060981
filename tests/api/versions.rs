//! Rows that are added make another version, and the one before stays.

use serde_json::{Value, json};

use crate::support::{TestApp, digits, npy, short_job};

fn id(dataset: &Value) -> &str {
    dataset["id"].as_str().unwrap()
}

impl TestApp {
    async fn add(&self, dataset: &Value, query: &str, file: impl Into<axum::body::Body>) -> crate::support::Answer {
        self.post_as(&format!("/v1/datasets/{}/rows{query}", id(dataset)), "application/octet-stream", file).await
    }

    async fn rows(&self, dataset: &Value) -> Value {
        self.get(&format!("/v1/datasets/{}/rows?limit=10000", id(dataset))).await.expect(200)["rows"].clone()
    }
}

#[tokio::test]
async fn added_rows_follow_the_others_and_the_old_version_stays() {
    let app = TestApp::start().await;
    let first = app.upload("?name=table&label=y&ignore=note", "a,note,b,y\n1,x,10,0\n2,y,20,1\n").await;
    assert_eq!((&first["version"], &first["parent"]), (&json!(1), &Value::Null));
    let answer = app.add(&first, "", "b,y,a\n30,1,3.5\n,0,-4\n").await;
    let second = answer.expect(201);
    assert_eq!(answer.headers["location"], format!("/v1/datasets/{}", id(&second)).as_str());
    assert_eq!((&second["version"], &second["parent"], &second["name"]), (&json!(2), &first["id"], &json!("table")));
    assert_eq!(
        app.rows(&second).await,
        json!([[1.0, 10.0, 0.0], [2.0, 20.0, 1.0], [3.5, 30.0, 1.0], [-4.0, null, 0.0]])
    );
    assert_eq!(app.rows(&first).await, json!([[1.0, 10.0, 0.0], [2.0, 20.0, 1.0]]));
    assert_eq!(app.get(&format!("/v1/datasets/{}", id(&first))).await.expect(200), first);

    // Without names, the columns stand in their order.
    let third = app.add(&second, "?name=more", npy(1, 3, &[7.0, 70.0, 1.0])).await.expect(201);
    assert_eq!((&third["version"], &third["rows"], &third["name"]), (&json!(3), &json!(5), &json!("more")));
    assert_eq!(app.rows(&third).await[4], json!([7.0, 70.0, 1.0]));

    // What is known of the columns is that of one file with all rows.
    let whole = app.upload("?label=y&ignore=note", "a,note,b,y\n1,,10,0\n2,,20,1\n3.5,,30,1\n-4,,,0\n7,,70,1\n").await;
    assert_eq!((&third["columns"], &third["bytes"]), (&whole["columns"], &whole["bytes"]));

    let listed = app.get(&format!("/v1/datasets/{}/versions", id(&second))).await.expect(200);
    let ids: Vec<&str> = listed["data"].as_array().unwrap().iter().map(id).collect();
    assert_eq!(ids, [id(&third), id(&second), id(&first)]);
    let page = app.get(&format!("/v1/datasets/{}/versions?limit=1&after={}", id(&first), id(&third))).await.expect(200);
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&second["id"], &json!(true)));
    assert_eq!(app.delete(&format!("/v1/datasets/{}", id(&first))).await.status, 204);
    assert_eq!(app.rows(&third).await.as_array().unwrap().len(), 5);
    let listed = app.get(&format!("/v1/datasets/{}/versions", id(&third))).await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    app.stop().await;
}

#[tokio::test]
async fn columns_that_do_not_fit_are_refused_by_name() {
    let app = TestApp::start().await;
    let dataset = app.upload("?label=y", "a,b,y\n1,2,0\n3,4,1\n").await;
    let told = app.add(&dataset, "", "a,c,y\n1,2,0\n").await;
    let told = told.refuses(422, "invalid_dataset", &["/columns", "/columns/1"]);
    assert!(told.contains("lack `b`"), "{told}");
    app.add(&dataset, "", "a,b,y\n1,blue,0\n").await.refuses(422, "invalid_dataset", &["/rows/0/columns/1"]);
    app.add(&dataset, "", npy(1, 2, &[1.0, 2.0])).await.expect(422);
    app.add(&dataset, "?format=pdf&header=no", "").await.refuses(422, "invalid_request", &["?format", "?header"]);
    app.add(&dataset, "?label=a", "a,b,y\n1,2,0\n").await.refuses(422, "invalid_request", &["?label"]);
    app.add(&dataset, "", "").await.refuses(422, "invalid_dataset", &[""]);
    // One row of 12 bytes fits a thousand times over; the whole must stay below what the operator allows.
    let most = 16 << 20;
    let large = app.upload("?name=large", npy(4, 100, &[0.5; 400])).await;
    assert!(large["bytes"].as_u64().unwrap() < most);
    assert_eq!(app.get("/v1/datasets").await.expect(200)["data"].as_array().unwrap().len(), 2);
    assert_eq!(app.files("datasets").len(), 2, "nothing is left of what was refused");
    app.stop().await;
}

#[tokio::test]
async fn a_version_of_images_is_of_images_and_can_be_trained_on() {
    let app = TestApp::start().await;
    let first = app.upload("?label=digit&shape=8x8", digits(60)).await;
    let text = digits(200);
    let (header, rest) = text.split_once('\n').unwrap();
    let more: Vec<&str> = rest.lines().skip(60).collect();
    let second = app.add(&first, "", format!("{header}\n{}", more.join("\n"))).await.expect(201);
    let whole = app.upload("?label=digit&shape=8x8", text).await;
    assert_eq!((&second["image"], &second["columns"]), (&whole["image"], &whole["columns"]));
    assert_eq!(app.rows(&second).await, app.rows(&whole).await);
    app.train(&short_job(id(&second))).await;
    app.stop().await;
}
