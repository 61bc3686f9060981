//! Jobs that begin with the weights of a model, and jobs that go on where another one ended.

use serde_json::{Value, json};

use crate::support::{TestApp, short_job};

fn job(dataset: &str, epochs: u32) -> Value {
    let mut job = short_job(dataset);
    job["training"] = json!({"epochs": epochs, "seed": 5, "early_stopping": {"patience": 0}});
    job
}

/// The losses of the training rows, epoch by epoch.
async fn curve(app: &TestApp, job: &str) -> Vec<f64> {
    let metrics = app.get(&format!("/v1/jobs/{job}/metrics")).await.expect(200);
    let series = metrics["series"].as_array().unwrap();
    let loss = series.iter().find(|one| one["name"] == "train/loss").unwrap();
    loss["values"].as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect()
}

async fn weights(app: &TestApp, done: &Value) -> Vec<u8> {
    assert_eq!(done["status"], "succeeded", "{done}");
    app.get(&format!("/v1/models/{}/artifacts/safetensors", done["model_id"].as_str().unwrap())).await.body
}

#[tokio::test]
async fn a_job_that_kept_its_checkpoint_goes_on_as_if_it_had_never_ended() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(200).await;
    let whole = app.wait(&app.submit(&job(&dataset, 9)).await).await;
    let parent = app.post("/v1/jobs?keep_after_success=true", &job(&dataset, 5)).await.expect(202);
    let parent = parent["id"].as_str().unwrap();
    assert_eq!(app.wait(parent).await["status"], "succeeded");
    let path = format!("/v1/jobs/{parent}/extend");
    let child = app.post(&path, &json!({"epochs": 4})).await.expect(202);
    assert_eq!((&child["parent_job_id"], &child["spec"]["training"]["epochs"]), (&json!(parent), &json!(9)));
    let done = app.wait(child["id"].as_str().unwrap()).await;
    assert_eq!(weights(&app, &done).await, weights(&app, &whole).await, "nine epochs are five and four");
    assert_eq!(
        curve(&app, child["id"].as_str().unwrap()).await,
        curve(&app, whole["id"].as_str().unwrap()).await,
        "the curve is whole"
    );
    app.post(&path, &json!({"epochs": 0})).await.refuses(422, "invalid_request", &["/epochs"]);
    app.stop().await;
}

#[tokio::test]
async fn training_begins_with_the_weights_of_a_model() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(200).await;
    let first = app.wait(&app.submit(&job(&dataset, 30)).await).await;
    let model = first["model_id"].as_str().unwrap();
    let cold = curve(&app, first["id"].as_str().unwrap()).await;

    let mut warm = job(&dataset, 2);
    warm["init_from"] = json!(model);
    let warm = app.wait(&app.submit(&warm).await).await;
    assert_eq!((&warm["status"], &warm["spec"]["init_from"]), (&json!("succeeded"), &json!(model)));
    let begun = curve(&app, warm["id"].as_str().unwrap()).await;
    // By a name of the registry it is the same model, whatever the name means later.
    app.patch(&format!("/v1/models/{model}"), &json!({"name": "digits"})).await.expect(200);
    let mut named = job(&dataset, 2);
    named["init_from"] = json!("digits:1");
    let named = app.post("/v1/jobs", &named).await.expect(202);
    assert_eq!(named["spec"]["init_from"], json!(model));
    app.wait(named["id"].as_str().unwrap()).await;
    assert_eq!(curve(&app, named["id"].as_str().unwrap()).await, begun);
    assert!(begun[0] < cold[10], "its first epoch {} is beyond what ten gave, {}", begun[0], cold[10]);

    // Without a checkpoint that was kept a job goes on from its model.
    let child = app.post(&format!("/v1/jobs/{}/extend", first["id"].as_str().unwrap()), &json!({"epochs": 2})).await;
    let child = child.expect(202);
    assert_eq!((&child["spec"]["init_from"], &child["spec"]["training"]["epochs"]), (&json!(model), &json!(2)));
    let child = app.wait(child["id"].as_str().unwrap()).await;
    assert_eq!(child["status"], "succeeded");
    assert!(curve(&app, child["id"].as_str().unwrap()).await[0] < cold[10]);
    app.stop().await;
}

#[tokio::test]
async fn weights_of_another_network_are_refused() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(60).await;
    let model = app.train(&job(&dataset, 1)).await;
    let asked = |change: &dyn Fn(&mut Value)| {
        let mut spec = job(&dataset, 1);
        spec["init_from"] = json!(model);
        change(&mut spec);
        spec
    };
    for change in [
        &(|spec: &mut Value| spec["model"]["settings"]["latent"] = json!(4)) as &dyn Fn(&mut Value),
        &|spec| spec["network"]["hidden"] = json!([17]),
        &|spec| spec["model"] = json!({"family": "autoencoder", "settings": {"latent": 3}}),
        &|spec| spec["init_from"] = json!("mdl_0198c5d2a1b37e6f9a1b2c3d4e5f6071"),
        &|spec| spec["init_from"] = json!("digits@best"),
        &|spec| spec["init_from"] = json!("Digits"),
    ] {
        app.post("/v1/jobs", &asked(change)).await.refuses(422, "invalid_request", &["/init_from"]);
    }
    let sweep = json!({
        "base": asked(&|spec| spec["network"]["hidden"] = json!([17])),
        "search": {"kind": "grid"},
        "space": {"/training/seed": {"int": [0, 1]}},
    });
    app.post("/v1/sweeps", &sweep).await.refuses(422, "invalid_request", &["/base/init_from"]);
    // Where the model is what is varied, it is told which value is at fault.
    let sweep = json!({
        "base": asked(&|_| ()),
        "search": {"kind": "grid"},
        "space": {"/init_from": {"values": [model, "digits@best"]}},
    });
    app.post("/v1/sweeps", &sweep).await.refuses(422, "invalid_request", &["/space/~1init_from/values/1"]);
    // Other columns become as many numbers only by chance: the trainer sees it.
    let other = app.upload("", "a,b,c\n1,2,3\n4,5,7\n8,9,9\n2,2,1\n").await["id"].as_str().unwrap().to_owned();
    let done = app.wait(&app.submit(&asked(&|spec| spec["dataset"] = json!(other))).await).await;
    assert_eq!((&done["status"], &done["error"]["errors"][0]["pointer"]), (&json!("failed"), &json!("/init_from")));
    let failed = done["id"].as_str().unwrap();
    app.post(&format!("/v1/jobs/{failed}/extend"), &json!({"epochs": 1})).await.refuses(409, "job_status", &[]);
    app.stop().await;
}
