//! Limits of single jobs, what is kept of them, and what was said of them.

use std::process::Command;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Answer, TestApp, npy, short_job, until};

fn long_job(dataset: &str) -> Value {
    let mut job = short_job(dataset);
    job["training"] = json!({"epochs": 100_000, "seed": 5, "early_stopping": {"patience": 0}});
    job
}

async fn submit(app: &TestApp, query: &str, spec: &Value) -> String {
    app.post(&format!("/v1/jobs{query}"), spec).await.expect(202)["id"].as_str().unwrap().to_owned()
}

async fn view(app: &TestApp, job: &str) -> Value {
    app.get(&format!("/v1/jobs/{job}")).await.expect(200)
}

async fn reaches(app: &TestApp, job: &str, epoch: u64) {
    until(async || (view(app, job).await["progress"]["epoch"].as_u64()? >= epoch).then_some(())).await;
}

async fn log(app: &TestApp, job: &str, query: &str) -> String {
    let answer = app.get(&format!("/v1/jobs/{job}/log{query}")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    String::from_utf8(answer.body).unwrap()
}

fn phases(view: &Value) -> Vec<(&str, u64)> {
    let phases = view["phases"].as_array().unwrap();
    phases.iter().map(|phase| (phase["name"].as_str().unwrap(), phase["attempt"].as_u64().unwrap())).collect()
}

async fn keyed(app: &TestApp, path: &str, key: &str, body: &Value) -> Answer {
    let request = Request::post(path).header("content-type", "application/json").header("idempotency-key", key);
    app.send(request.body(Body::from(body.to_string())).unwrap()).await
}

#[tokio::test]
async fn a_job_whose_time_is_over_ends_with_a_model_and_a_limit_that_is_not_reached_changes_no_byte() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(300).await;
    let limited = submit(&app, "?max_runtime_seconds=1", &long_job(&dataset)).await;
    let weights = async |query: &str| {
        let done = app.wait(&submit(&app, query, &short_job(&dataset)).await).await;
        app.get(&format!("/v1/models/{}/artifacts/safetensors", done["model_id"].as_str().unwrap())).await.body
    };
    assert_eq!(weights("").await, weights("?max_runtime_seconds=600&max_memory_mib=2048").await);
    let done = app.wait(&limited).await;
    assert_eq!((&done["status"], &done["stop_reason"]), (&json!("succeeded"), &json!("max_runtime")), "{done}");
    assert!(done["metrics"]["best_epoch"].as_f64().unwrap() >= 1.0, "{done}");
    assert_eq!(done["limits"]["max_runtime_seconds"], 1);
    assert!(done["runtime_seconds"].as_f64().unwrap() >= 1.0, "{done}");
    let model = done["model_id"].as_str().unwrap();
    app.get(&format!("/v1/models/{model}/encode?dataset={dataset}&rows=0-1")).await.expect(200);
    app.stop().await;
}

#[tokio::test]
async fn limits_that_are_not_allowed_are_named() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(100).await;
    let path = "/v1/jobs?max_runtime_seconds=0&max_memory_mib=1&keep_best=11&keep_latest=0&priority=200";
    let pointers = ["?priority", "?max_runtime_seconds", "?max_memory_mib", "?keep_best", "?keep_latest"];
    app.post(path, &short_job(&dataset)).await.refuses(422, "invalid_request", &pointers);
    let path = "/v1/jobs?max_runtime=5";
    app.post(path, &short_job(&dataset)).await.refuses(422, "invalid_request", &["?max_runtime"]);
    app.stop().await;
}

#[tokio::test]
async fn phases_and_the_log_tell_of_a_trainer_that_was_killed() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(300).await;
    let mut spec = short_job(&dataset);
    spec["model"] = json!({"family": "autoencoder", "settings": {"latent": 3}});
    spec["training"] = json!({"epochs": 4000, "pretraining": {"epochs": 1}, "early_stopping": {"patience": 0}});
    let job = submit(&app, "", &spec).await;
    reaches(&app, &job, 5).await;
    let words = until(async || Some(log(&app, &job, "").await).filter(|words| words.contains("process "))).await;
    let process = words.split("process ").nth(1).unwrap().split(';').next().unwrap().to_owned();
    assert!(Command::new("kill").args(["-KILL", &process]).status().unwrap().success());
    let done = app.wait(&job).await;
    assert_eq!((&done["status"], &done["attempt"], &done["phase"]), (&json!("succeeded"), &json!(2), &json!("done")));

    let told = phases(&done);
    let first =
        [("waiting", 0), ("starting", 1), ("preparing", 1), ("pretraining", 1), ("training", 1), ("waiting", 1)];
    assert_eq!(told[..6], first);
    let last = ["evaluating", "fitting_sampler", "calibrating", "storing", "done"].map(|name| (name, 2));
    assert_eq!(told[told.len() - 5..], last);
    assert!(app.get("/v1/jobs").await.expect(200)["data"][0].get("phases").is_none(), "lists leave them out");

    let words = log(&app, &job, "").await;
    for said in ["worker: Attempt 1 begins", "signal: 9", "worker: Attempt 2 begins", "the job is succeeded", "stored."]
    {
        assert!(words.contains(said), "{said} is not in:\n{words}");
    }
    let tail = log(&app, &job, "?tail=2").await;
    let lines = words.lines().count();
    assert_eq!(tail.lines().next().unwrap(), format!("({} lines before these)", lines - 2));
    assert_eq!(tail.lines().last(), words.lines().last());
    app.get(&format!("/v1/jobs/{job}/log?tail=0")).await.refuses(422, "invalid_request", &["?tail"]);
    app.get("/v1/jobs/job_00000000000000000000000000000000/log").await.refuses(404, "not_found", &[]);
    app.stop().await;
}

#[tokio::test]
async fn checkpoints_are_listed_and_given_out_and_stay_after_success_where_that_is_asked_for() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(300).await;
    let cancelled = submit(&app, "?keep_latest=3&keep_best=0", &long_job(&dataset)).await;
    let list = async |job: &str| -> Vec<Value> {
        let list = app.get(&format!("/v1/jobs/{job}/checkpoints")).await.expect(200);
        list["data"].as_array().unwrap().clone()
    };
    until(async || (list(&cancelled).await.len() == 3).then_some(())).await;
    app.post(&format!("/v1/jobs/{cancelled}/cancel"), &json!({})).await.expect(202);
    assert_eq!(app.wait(&cancelled).await["limits"]["keep"], json!({"best": 0, "latest": 3, "after_success": false}));
    let kept = list(&cancelled).await;
    let place = |checkpoint: &Value| (checkpoint["epoch"].as_u64().unwrap(), checkpoint["step"].as_u64().unwrap());
    assert!(kept.len() == 3 && kept.windows(2).all(|two| place(&two[0]) > place(&two[1])), "{kept:?}");
    let path = format!("/v1/jobs/{cancelled}/checkpoints/{}", kept[0]["name"].as_str().unwrap());
    let file = app.get(&path).await;
    assert_eq!((file.status.as_u16(), Some(file.body.len() as u64)), (200, kept[0]["bytes"].as_u64()));
    let sum: String = Sha256::digest(&file.body).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(kept[0]["sha256"], sum.as_str());
    app.get(&format!("/v1/jobs/{cancelled}/checkpoints/0-99")).await.refuses(404, "not_found", &[]);

    let gone = submit(&app, "", &short_job(&dataset)).await;
    let stays = submit(&app, "?keep_after_success=true", &short_job(&dataset)).await;
    assert_eq!((&app.wait(&gone).await["status"], list(&gone).await.len()), (&json!("succeeded"), 0));
    assert_eq!(app.wait(&stays).await["status"], "succeeded");
    let kept = list(&stays).await;
    assert!((1..=2).contains(&kept.len()), "{kept:?}");
    assert!(kept.iter().filter(|checkpoint| checkpoint["is_best"] == true).count() == 1, "{kept:?}");
    app.stop().await;
}

#[tokio::test]
async fn one_idempotency_key_makes_one_retry() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(100).await;
    let job = submit(&app, "?max_runtime_seconds=600", &long_job(&dataset)).await;
    reaches(&app, &job, 1).await;
    let retry = format!("/v1/jobs/{job}/retry");
    keyed(&app, &retry, "k", &json!({})).await.refuses(409, "job_status", &[]);
    app.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await.expect(202);
    app.wait(&job).await;
    let child = keyed(&app, &retry, "k", &json!({})).await.expect(202);
    assert_eq!(child["limits"]["max_runtime_seconds"], 600, "limits go along");
    let again = keyed(&app, &retry, "k", &json!({"from": "checkpoint"})).await.expect(202);
    assert_eq!(child["id"], again["id"]);
    keyed(&app, &retry, "k", &json!({"from": "start"})).await.refuses(422, "invalid_request", &["Idempotency-Key"]);
    keyed(&app, &retry, "", &json!({})).await.refuses(422, "invalid_request", &["Idempotency-Key"]);
    let spec = long_job(&dataset);
    keyed(&app, "/v1/jobs", "k", &spec).await.refuses(422, "invalid_request", &["Idempotency-Key"]);
    let child = child["id"].as_str().unwrap();
    app.post(&format!("/v1/jobs/{child}/cancel"), &json!({})).await.expect(202);
    app.wait(child).await;
    app.stop().await;
}

#[tokio::test]
async fn a_dry_run_tells_what_a_job_would_take_and_leaves_nothing() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(300).await;
    let mut spec = short_job(&dataset);
    spec["training"]["epochs"] = json!(1_000);
    let path = "/v1/jobs?dry_run=true&max_memory_mib=1024";
    // A key means nothing here: the request makes nothing.
    let told = keyed(&app, path, "k", &spec).await.expect(200);
    assert_eq!(told["spec"]["training"]["batch_size"], 8, "autos are resolved: {told}");
    // An encoder of 64, 16 and twice 3 numbers, a decoder that mirrors it, and a variance.
    let parameters = (64 * 16 + 16) + (16 * 6 + 6) + (3 * 16 + 16) + (16 * 64 + 64) + 1;
    assert_eq!(told["parameters"], parameters);
    assert!(told["model_bytes"].as_u64().unwrap() > 4 * parameters, "{told}");
    assert_eq!((&told["time"]["epochs"], &told["limits"]["max_memory_mib"]), (&json!(1_000), &json!(1_024)));
    let rows = ["train", "validation", "test"].map(|part| told["time"]["rows"][part].as_u64().unwrap());
    assert_eq!(rows, [270, 30, 0]);
    let figure = |name: &str| told["time"][name].as_f64().unwrap();
    let epochs = 1_000.0 * figure("seconds_per_epoch");
    let all = epochs + figure("preparing_seconds") + figure("finishing_seconds");
    assert!((figure("seconds") / all - 1.0).abs() < 1e-9 && figure("seconds_per_epoch") > 0.0, "{told}");
    assert!(270.0 / figure("rows_per_second") <= figure("seconds_per_epoch"), "{told}");
    assert!(told["time"]["measured"]["steps"].as_u64().unwrap() >= 1, "{told}");
    let limited = app.post("/v1/jobs?dry_run=true&max_runtime_seconds=1", &spec).await.expect(200);
    assert!(limited["time"]["seconds"].as_f64().unwrap() <= 1.0, "{limited}");

    let both = futures_util::future::join_all((0..6).map(|_| app.post("/v1/jobs?dry_run=true", &spec))).await;
    assert!(both.iter().all(|answer| [200, 503].contains(&answer.status.as_u16())));
    let refused: Vec<&Answer> = both.iter().filter(|answer| answer.status == 503).collect();
    assert_eq!(refused.len(), 4, "two are looked at at once");
    refused[0].refuses(503, "overloaded", &[]);
    assert_eq!(app.get("/v1/jobs").await.expect(200)["data"], json!([]), "no job appears");
    spec["training"]["epochs"] = json!(0);
    app.post("/v1/jobs?dry_run=true", &spec).await.refuses(422, "invalid_request", &["/training/epochs"]);
    app.stop().await;
}

#[tokio::test]
async fn a_network_that_cannot_fit_is_refused_before_it_is_queued() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(100).await;
    let mut spec = short_job(&dataset);
    spec["network"] = json!({"hidden": [4_096, 4_096]});
    for path in ["/v1/jobs?max_memory_mib=256", "/v1/jobs?max_memory_mib=256&dry_run=true"] {
        let detail = app.post(path, &spec).await.refuses(422, "out_of_memory", &["/network/hidden"]);
        assert!(detail.contains("a trainer may have 256"), "{detail}");
    }
    app.stop().await;
}

#[tokio::test]
async fn measured_memory_is_within_the_stated_factor_of_what_is_expected() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(1_000).await;
    let network = |hidden: Value| json!({"hidden": hidden});
    let conv = json!({"kind": "conv", "channels": [32, 64]});
    let cases = [
        ("autoencoder", json!({}), network(json!([2_048, 1_024])), 8),
        ("autoencoder", json!({}), network(json!([512, 256])), 900),
        ("vae", json!({"samples": 8}), network(json!([256])), 500),
        ("gsn", json!({"walkback": 5}), network(json!([512])), 500),
        ("helmholtz", json!({}), network(json!([256])), 500),
        ("adversarial", json!({}), network(json!([512, 256])), 500),
        ("contractive", json!({}), network(json!([256])), 500),
        ("denoising", json!({}), conv, 256),
    ];
    for (family, settings, network, batch) in cases {
        let spec = json!({
            "dataset": dataset, "model": {"family": family, "settings": settings}, "network": network,
            "training": {"batch_size": batch},
        });
        let told = app.post("/v1/jobs?dry_run=true", &spec).await.expect(200);
        let bytes = |name: &str| told["memory"][name].as_f64().unwrap();
        let times = bytes("measured_bytes") / bytes("expected_bytes");
        let factor = latente::training::memory::FACTOR;
        assert!((1.0 / factor..=factor).contains(&times), "{family}: {times} of {}", told["memory"]);
    }
    app.stop().await;
}

#[tokio::test]
async fn what_is_left_to_the_program_is_chosen_and_told() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(300).await;
    let mut spec = short_job(&dataset);
    spec["training"]["batch_size"] = json!("auto");
    spec["training"]["optimizer"] = json!({"lr": "auto"});
    let done = app.wait(&submit(&app, "", &spec).await).await;
    assert_eq!((&done["status"], &done["spec"]["training"]["batch_size"]), (&json!("succeeded"), &json!(8)), "{done}");
    let events = app.get(&format!("/v1/jobs/{}/events", done["id"].as_str().unwrap())).await.expect(200);
    let event = |kind: &str| events["data"].as_array().unwrap().iter().find(|event| event["kind"] == kind).unwrap();
    assert_eq!(event("started")["data"]["batch_size"], 8, "{events}");
    let rate = event("chosen")["data"]["learning_rate"].as_f64().unwrap();
    assert!((1e-5..1.0).contains(&rate) && event("chosen")["data"]["curve"].as_array().unwrap().len() > 5, "{events}");
    let metrics = app.get(&format!("/v1/jobs/{}/metrics", done["id"].as_str().unwrap())).await.expect(200);
    let curve = metrics["series"].as_array().unwrap().iter().find(|series| series["name"] == "train/learning_rate");
    assert_eq!(curve.unwrap()["values"], json!([rate, rate, rate]));

    for (value, pointer) in [(json!("fast"), "lr"), (json!(0), "lr"), (json!([1]), "lr")] {
        spec["training"]["optimizer"] = json!({"lr": value});
        app.post("/v1/jobs", &spec).await.refuses(422, "invalid_request", &[&format!("/training/optimizer/{pointer}")]);
    }
    spec["training"]["optimizer"] = json!({});
    for value in [json!("large"), json!(1.5), json!(0), json!(-3), json!(1e9)] {
        spec["training"]["batch_size"] = value;
        app.post("/v1/jobs", &spec).await.refuses(422, "invalid_request", &["/training/batch_size"]);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_batch_that_is_left_to_the_program_has_room() {
    let app = TestApp::start().await;
    let values: Vec<f32> = (0..5_200 * 4).map(|number| (number % 17) as f32).collect();
    let dataset = app.upload("", npy(5_200, 4, &values)).await["id"].clone();
    let mut spec = json!({
        "dataset": dataset,
        "model": {"family": "vae", "settings": {"latent": 2, "samples": 100}},
        "network": {"hidden": [2048]},
    });
    let batch = async |query: &str, spec: &Value| {
        let job = app.post(&format!("/v1/jobs?{query}"), spec).await.expect(202);
        let id = job["id"].as_str().unwrap();
        app.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await.expect(202);
        app.wait(id).await;
        job["spec"]["training"]["batch_size"].as_u64().unwrap()
    };
    assert_eq!(batch("", &spec).await, 256);
    let small = batch("max_memory_mib=512", &spec).await;
    assert!((8..256).contains(&small) && small.is_power_of_two(), "{small}");
    // Who says a number has it.
    spec["training"] = json!({"batch_size": 256});
    assert_eq!(batch("max_memory_mib=512", &spec).await, 256);
    app.stop().await;
}
