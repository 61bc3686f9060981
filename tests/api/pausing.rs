//! Jobs pause, go on, are tried again, and change their place in the queue.

use serde_json::{Value, json};

use crate::support::{TestApp, short_job, until};

fn long_job(dataset: &str, epochs: u32) -> Value {
    let mut job = short_job(dataset);
    job["training"] = json!({"epochs": epochs, "seed": 5, "early_stopping": {"patience": 0}});
    job
}

async fn view(app: &TestApp, job: &str) -> Value {
    app.get(&format!("/v1/jobs/{job}")).await.expect(200)
}

async fn ask(app: &TestApp, job: &str, what: &str) -> Value {
    app.post(&format!("/v1/jobs/{job}/{what}"), &json!({})).await.expect(202)
}

async fn reaches(app: &TestApp, job: &str, epoch: u64) {
    until(async || (view(app, job).await["progress"]["epoch"].as_u64()? >= epoch).then_some(())).await;
}

async fn becomes(app: &TestApp, job: &str, status: &str) {
    until(async || (view(app, job).await["status"] == status).then_some(())).await;
}

async fn weights(app: &TestApp, done: &Value) -> Vec<u8> {
    assert_eq!(done["status"], "succeeded", "{done}");
    let model = done["model_id"].as_str().unwrap();
    app.get(&format!("/v1/models/{model}/artifacts/safetensors")).await.body
}

#[tokio::test]
async fn a_job_that_was_paused_or_cancelled_and_tried_again_ends_with_the_bytes_of_one_that_was_not() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(300).await;
    let spec = long_job(&dataset, 150);
    let expected = weights(&app, &app.wait(&app.submit(&spec).await).await).await;

    let paused = app.submit(&spec).await;
    reaches(&app, &paused, 10).await;
    for _ in 0..2 {
        let answer = ask(&app, &paused, "pause").await;
        assert!(answer["status"] == "paused" || answer["phase"] == "pausing", "{answer}");
    }
    becomes(&app, &paused, "paused").await;
    assert_eq!(view(&app, &paused).await["waiting_for"]["code"], "resume");
    assert_eq!(ask(&app, &paused, "pause").await["status"], "paused");
    ask(&app, &paused, "resume").await;
    assert_eq!(weights(&app, &app.wait(&paused).await).await, expected);
    let events = app.get(&format!("/v1/jobs/{paused}/events")).await.expect(200);
    let events = events["data"].as_array().unwrap();
    assert_eq!(events.iter().filter(|event| event["kind"] == "pausing").count(), 1);
    let resumed = events.iter().find(|event| event["kind"] == "paused").unwrap();
    assert!(resumed["data"]["attempt"] == 1, "{resumed}");

    let parent = app.submit(&spec).await;
    reaches(&app, &parent, 10).await;
    app.post(&format!("/v1/jobs/{parent}/retry"), &json!({})).await.refuses(409, "job_status", &[]);
    ask(&app, &parent, "cancel").await;
    assert_eq!(app.wait(&parent).await["status"], "cancelled");
    app.post(&format!("/v1/jobs/{parent}/pause"), &json!({})).await.refuses(409, "job_ended", &[]);
    app.post(&format!("/v1/jobs/{parent}/resume"), &json!({})).await.refuses(409, "job_ended", &[]);
    // Twice, because the bytes of the checkpoint are shared: the first child must not take them away.
    for _ in 0..2 {
        let child = ask(&app, &parent, "retry").await;
        assert_eq!(child["parent_job_id"], parent.as_str());
        let child = child["id"].as_str().unwrap();
        assert_eq!(weights(&app, &app.wait(child).await).await, expected);
        let events = app.get(&format!("/v1/jobs/{child}/events")).await.expect(200);
        assert_eq!(events["data"][1]["kind"], "resumed", "it goes on from the checkpoint");
        let metrics = app.get(&format!("/v1/jobs/{child}/metrics")).await.expect(200);
        assert_eq!(metrics["series"][0]["steps"].as_array().unwrap().len(), 150, "the curve is whole");
    }
    let anew = app.post(&format!("/v1/jobs/{parent}/retry"), &json!({"from": "start"})).await.expect(202);
    let anew = anew["id"].as_str().unwrap();
    assert_eq!(weights(&app, &app.wait(anew).await).await, expected);
    let events = app.get(&format!("/v1/jobs/{anew}/events")).await.expect(200);
    assert_eq!(events["data"][1]["kind"], "started");
    app.stop().await;
}

#[tokio::test]
async fn places_in_the_queue_go_by_priority_and_waiting_jobs_pause_at_once() {
    let app = TestApp::start_with(|config| config.jobs.workers = 1).await;
    let dataset = app.upload_digits(100).await;
    let running = app.submit(&long_job(&dataset, 100_000)).await;
    reaches(&app, &running, 1).await;
    let first = app.submit(&short_job(&dataset)).await;
    let second = app.post("/v1/jobs?priority=5", &short_job(&dataset)).await.expect(202);
    assert_eq!((&second["queue_position"], &second["priority"]), (&json!(1), &json!(5)));
    assert_eq!(second["waiting_for"]["code"], "worker");
    let waiting = view(&app, &first).await;
    assert_eq!((&waiting["queue_position"], &waiting["waiting_for"]["code"]), (&json!(2), &json!("queue")));
    let path = format!("/v1/jobs/{first}");
    let changed = app.patch(&path, &json!({"priority": 6, "name": "urgent"})).await.expect(200);
    assert_eq!((&changed["queue_position"], &changed["name"]), (&json!(1), &json!("urgent")));
    app.patch(&path, &json!({"priority": 101})).await.refuses(422, "invalid_request", &["/priority"]);
    app.post("/v1/jobs?priority=-101", &short_job(&dataset)).await.refuses(422, "invalid_request", &["?priority"]);
    assert_eq!(ask(&app, &first, "pause").await["status"], "paused");
    assert_eq!(view(&app, second["id"].as_str().unwrap()).await["queue_position"], 1);
    // The wish to pause is taken back: whether its trainer heard of it or not, it goes on.
    ask(&app, &running, "pause").await;
    ask(&app, &running, "resume").await;
    until(async || (view(&app, &running).await["status"] != "paused").then_some(())).await;
    ask(&app, &running, "cancel").await;
    let late = app.post(&format!("/v1/jobs/{running}/pause"), &json!({})).await;
    assert_eq!(late.status, 409, "it is being cancelled, or already was");
    assert_eq!(app.wait(&running).await["status"], "cancelled");
    app.patch(&format!("/v1/jobs/{running}"), &json!({"priority": 1})).await.refuses(409, "job_ended", &[]);
    assert_eq!(app.wait(second["id"].as_str().unwrap()).await["status"], "succeeded");
    assert_eq!(view(&app, &first).await["status"], "paused");
    assert_eq!(ask(&app, &first, "cancel").await["status"], "cancelled");
    app.stop().await;
}

#[tokio::test]
async fn small_jobs_share_the_cores_and_a_large_one_has_them_to_itself() {
    let app = TestApp::start_with(|config| {
        (config.jobs.workers, config.jobs.cores, config.jobs.trainer.threads) = (2, Some(2), 2);
    })
    .await;
    let dataset = app.upload_digits(300).await;
    let small = [app.submit(&long_job(&dataset, 100_000)).await, app.submit(&long_job(&dataset, 100_000)).await];
    for job in &small {
        reaches(&app, job, 1).await;
    }
    // Ten million multiplications a step are worth two threads.
    let mut spec = long_job(&dataset, 100_000);
    spec["network"] = json!({"hidden": [1024, 256]});
    spec["training"]["batch_size"] = json!(64);
    let large = app.submit(&spec).await;
    let last = app.submit(&short_job(&dataset)).await;
    ask(&app, &small[0], "cancel").await;
    app.wait(&small[0]).await;
    assert_eq!(view(&app, &large).await["status"], "queued", "one core is not enough for it");
    assert_eq!(view(&app, &last).await["status"], "queued", "nobody goes by");
    ask(&app, &small[1], "cancel").await;
    reaches(&app, &large, 1).await;
    assert_eq!(view(&app, &last).await["waiting_for"]["code"], "worker", "no core is left");
    ask(&app, &large, "cancel").await;
    assert_eq!(app.wait(&last).await["status"], "succeeded");
    app.stop().await;
}
