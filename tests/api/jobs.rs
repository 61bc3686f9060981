//! Jobs are asked for, followed, stopped, and end with a model or with a reason.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::support::{TestApp, short_job, until};

fn long_job(dataset: &str) -> Value {
    let mut job = short_job(dataset);
    job["training"] = json!({"epochs": 100_000, "early_stopping": {"patience": 0}});
    job
}

#[tokio::test]
async fn a_job_goes_from_the_queue_to_a_model() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(300).await;
    let answer = app.post("/v1/jobs", &short_job(&dataset)).await;
    let queued = answer.expect(202);
    let id = queued["id"].as_str().unwrap();
    assert_eq!(answer.headers["location"], format!("/v1/jobs/{id}").as_str());
    assert_eq!(queued["spec"]["likelihood"], json!({"kind": "gaussian", "variance": "shared"}), "autos are resolved");
    assert!(queued["spec"]["training"]["batch_size"].is_u64());
    let done = app.wait(id).await;
    assert_eq!(
        (done["status"].as_str(), done["phase"].as_str(), done["stop_reason"].as_str()),
        (Some("succeeded"), Some("done"), Some("completed"))
    );
    assert_eq!(done["progress"]["epoch"], 3);
    assert!(done["metrics"]["validation/loss"].is_f64() && done["model_id"].as_str().unwrap().starts_with("mdl_"));

    let metrics = app.get(&format!("/v1/jobs/{id}/metrics")).await.expect(200);
    let loss = metrics["series"].as_array().unwrap().iter().find(|series| series["name"] == "validation/loss").unwrap();
    assert_eq!(loss["steps"], json!([1, 2, 3]));
    let thin = app.get(&format!("/v1/jobs/{id}/metrics?max_points=2")).await.expect(200);
    assert_eq!(thin["series"][0]["steps"], json!([1, 3]));

    let events = app.get(&format!("/v1/jobs/{id}/events")).await.expect(200);
    let kinds: Vec<&str> =
        events["data"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["queued", "started", "epoch", "epoch", "epoch", "succeeded"]);
    let seqs: Vec<u64> =
        events["data"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
    app.stop().await;
}

#[tokio::test]
async fn an_event_stream_tells_all_and_goes_on_where_it_broke() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(300).await;
    let id = app.submit(&short_job(&dataset)).await;
    let path = format!("/v1/jobs/{id}/events");
    // The stream ends by itself once the job has.
    let whole = app.get_as(&path, "text/event-stream").await;
    let text = String::from_utf8(whole.body).unwrap();
    let numbers =
        |text: &str| text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect::<Vec<u64>>();
    assert_eq!(numbers(&text), [1, 2, 3, 4, 5, 6], "{text}");
    assert!(text.contains("event: succeeded"));
    let resume = |seen: &str| {
        Request::get(&path)
            .header("accept", "text/event-stream")
            .header("last-event-id", seen)
            .body(Body::empty())
            .unwrap()
    };
    let rest = app.send(resume("4")).await;
    assert_eq!(numbers(&String::from_utf8(rest.body).unwrap()), [5, 6]);
    assert_eq!(app.send(resume("6")).await.status, 204, "nothing more to say: do not come back");
    app.stop().await;
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_a_running_one_at_its_next_step() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(300).await;
    // Two workers: the third job has to wait.
    let running = [app.submit(&long_job(&dataset)).await, app.submit(&long_job(&dataset)).await];
    let waiting = app.submit(&short_job(&dataset)).await;
    for job in &running {
        until(async || {
            (app.get(&format!("/v1/jobs/{job}")).await.expect(200)["progress"]["epoch"].as_u64()? > 2).then_some(())
        })
        .await;
    }
    let cancelled = app.post(&format!("/v1/jobs/{waiting}/cancel"), &json!({})).await.expect(202);
    assert_eq!((cancelled["status"].as_str(), cancelled["stop_reason"].as_str()), (Some("cancelled"), Some("user")));
    for job in &running {
        let view = app.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await.expect(202);
        assert!(["cancelling", "cancelled"].contains(&view["status"].as_str().unwrap()));
        let view = app.wait(job).await;
        assert_eq!((view["status"].as_str(), &view["model_id"]), (Some("cancelled"), &Value::Null));
    }
    app.post(&format!("/v1/jobs/{waiting}/cancel"), &json!({})).await.refuses(409, "job_ended", &[]);
    app.stop().await;
}

#[tokio::test]
async fn lists_are_filtered() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(100).await;
    let first = app.submit(&short_job(&dataset)).await;
    app.wait(&first).await;
    let mut plain = short_job(&dataset);
    plain["model"] = json!({"family": "autoencoder"});
    let second = app.submit(&plain).await;
    app.wait(&second).await;
    let ids = async |query: &str| -> Vec<String> {
        let list = app.get(&format!("/v1/jobs{query}")).await.expect(200);
        list["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("").await, [second.clone(), first.clone()]);
    assert_eq!(ids("?family=vae&status=succeeded").await, [first]);
    assert_eq!(ids(&format!("?dataset={dataset}&limit=1")).await, [second]);
    assert_eq!(ids("?status=failed").await, Vec::<String>::new());
    app.stop().await;
}

#[tokio::test]
async fn one_idempotency_key_makes_one_job() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(100).await;
    let request = |spec: &Value| {
        let request =
            Request::post("/v1/jobs").header("content-type", "application/json").header("idempotency-key", "k-1");
        request.body(Body::from(spec.to_string())).unwrap()
    };
    let spec = short_job(&dataset);
    let answers = futures_util::future::join_all((0..20).map(|_| app.send(request(&spec)))).await;
    let mut ids: Vec<Value> = answers.iter().map(|answer| answer.expect(202)["id"].clone()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let mut other = spec.clone();
    other["training"]["seed"] = json!(99);
    app.send(request(&other)).await.refuses(422, "invalid_request", &["Idempotency-Key"]);
    app.wait(ids[0].as_str().unwrap()).await;
    app.stop().await;
}

#[tokio::test]
async fn a_job_that_diverges_fails_with_a_reason_and_what_to_do() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(200).await;
    let spec = json!({
        "dataset": dataset, "model": {"family": "autoencoder"}, "likelihood": "gaussian", "network": {"hidden": vec![64; 12]},
        "training": {"epochs": 50, "optimizer": {"lr": 100.0, "epsilon": 1e-300}}, "split": {"validation": 0.0},
    });
    let job = app.wait(&app.submit(&spec).await).await;
    assert_eq!(
        (job["status"].as_str(), job["error"]["code"].as_str(), job["error"]["category"].as_str()),
        (Some("failed"), Some("diverged"), Some("user"))
    );
    assert!(job["error"]["detail"].as_str().unwrap().contains("training.optimizer.lr"), "{job}");
    app.stop().await;
}

#[tokio::test]
async fn a_constant_column_and_a_binary_table_train_without_a_setting() {
    let app = TestApp::start().await;
    let text: String = (0..60).map(|row| format!("{},{},7\n", row % 2, (row / 2) % 2)).collect();
    let dataset = app.upload("", format!("a,b,c\n{text}")).await["id"].as_str().unwrap().to_owned();
    let job = app
        .wait(&app.submit(&json!({"dataset": dataset, "model": {"family": "vae"}, "training": {"epochs": 2}})).await)
        .await;
    assert_eq!(job["status"], "succeeded", "{job}");
    app.stop().await;
}
