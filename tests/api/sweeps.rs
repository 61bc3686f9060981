//! Sweeps: many jobs from one description, the best model first.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::server::Server;
use crate::support::{TestApp, digits, short_job, until};

async fn finished(app: &TestApp, sweep: &str) -> Value {
    until(async || {
        let view = app.get(&format!("/v1/sweeps/{sweep}?wait=20s")).await.expect(200);
        ["succeeded", "failed", "cancelled"].contains(&view["status"].as_str().unwrap()).then_some(view)
    })
    .await
}

async fn submitted(app: &TestApp, sweep: &Value) -> String {
    app.post("/v1/sweeps", sweep).await.expect(202)["id"].as_str().unwrap().to_owned()
}

fn trials(view: &Value) -> &Vec<Value> {
    view["trials"].as_array().unwrap()
}

#[tokio::test]
async fn a_grid_trains_every_combination_and_lists_the_best_model_first() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(100).await;
    let mut sweep = json!({
        "name": "latents",
        "base": short_job(&dataset),
        "search": {"kind": "grid"},
        "space": {
            "/model/settings/latent": {"values": [2, 3]},
            "/training/optimizer/lr": {"log_uniform": [1e-5, 1e-1], "steps": 2},
        },
    });
    let answer = app.post("/v1/sweeps", &sweep).await;
    let queued = answer.expect(202);
    let id = queued["id"].as_str().unwrap();
    assert_eq!(answer.headers["location"], format!("/v1/sweeps/{id}").as_str());
    assert_eq!(queued["counts"]["total"], 4);
    assert_eq!((&queued["spec"]["metric"], &queued["spec"]["goal"]), (&json!("validation/loss"), &json!("minimize")));
    let done = finished(&app, id).await;
    assert_eq!(
        (&done["status"], &done["counts"]["succeeded"], &done["rungs"]),
        (&json!("succeeded"), &json!(4), &json!([]))
    );
    let values: Vec<f64> = trials(&done).iter().map(|trial| trial["value"].as_f64().unwrap()).collect();
    assert!(values.is_sorted() && values[0] < values[3], "{values:?}");
    assert_eq!(done["best"], done["trials"][0]);
    assert_eq!(done["best"]["values"]["/training/optimizer/lr"], 0.1, "steps of a hundred-thousandth train nothing");
    for trial in trials(&done) {
        let job = app.get(&format!("/v1/jobs/{}", trial["job_id"].as_str().unwrap())).await.expect(200);
        assert_eq!((&job["sweep_id"], &job["model_id"]), (&json!(id), &trial["model_id"]));
        assert_eq!(job["name"], format!("latents {}", trial["number"]).as_str());
        assert_eq!(job["spec"]["model"]["settings"]["latent"], trial["values"]["/model/settings/latent"]);
        assert_eq!(job["spec"]["training"]["optimizer"]["lr"], trial["values"]["/training/optimizer/lr"]);
        assert_eq!(job["metrics"]["validation/loss"], trial["value"]);
    }
    // The highest first, by another figure; and what a list shows.
    sweep["metric"] = json!("validation/mse");
    sweep["goal"] = json!("maximize");
    let other = submitted(&app, &sweep).await;
    let done = finished(&app, &other).await;
    let values: Vec<f64> = trials(&done).iter().map(|trial| trial["value"].as_f64().unwrap()).collect();
    assert!(values.iter().rev().is_sorted(), "{values:?}");
    let list = app.get("/v1/sweeps?limit=1").await.expect(200);
    assert_eq!((&list["data"][0]["id"], &list["has_more"]), (&json!(other), &json!(true)));
    assert!(list["data"][0].get("trials").is_none());
    let list = app.get(&format!("/v1/sweeps?after={other}")).await.expect(200);
    assert_eq!((&list["data"][0]["id"], &list["has_more"]), (&json!(id), &json!(false)));
    let jobs = app.get(&format!("/v1/jobs?sweep={id}&limit=3")).await.expect(200);
    assert_eq!((jobs["data"].as_array().unwrap().len(), &jobs["has_more"]), (3, &json!(true)));
    app.post(&format!("/v1/sweeps/{id}/cancel"), &json!({})).await.refuses(409, "sweep_ended", &[]);
    app.stop().await;
}

#[tokio::test]
async fn the_same_seed_gives_the_same_trials_and_a_key_the_same_sweep() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(50).await;
    let sweep = |seed: u64, trials: u32| {
        json!({
            "base": {"dataset": dataset, "model": {"family": "autoencoder"}, "training": {"epochs": 100_000, "early_stopping": {"patience": 0}}},
            "search": {"kind": "random", "trials": trials, "seed": seed},
            "space": {
                "/training/optimizer/lr": {"log_uniform": [1e-4, 1e-2]},
                "/network/hidden": {"values": [[8], [16, 8]]},
                "/model/settings/latent": {"int": [2, 30]},
            },
        })
    };
    let values = async |sweep: Value| -> Vec<Value> {
        let id = submitted(&app, &sweep).await;
        app.post(&format!("/v1/sweeps/{id}/cancel"), &json!({})).await.expect(202);
        let view = finished(&app, &id).await;
        assert_eq!((&view["status"], &view["best"]), (&json!("cancelled"), &Value::Null));
        let mut trials = trials(&view).clone();
        trials.sort_by_key(|trial| trial["number"].as_u64());
        trials.into_iter().map(|trial| trial["values"].clone()).collect()
    };
    let first = values(sweep(7, 6)).await;
    assert_eq!(first, values(sweep(7, 6)).await);
    assert_eq!(first[..4], values(sweep(7, 4)).await);
    assert_ne!(first, values(sweep(8, 6)).await);
    let keyed = async |sweep: Value| {
        let request =
            Request::post("/v1/sweeps").header("content-type", "application/json").header("idempotency-key", "s-1");
        app.send(request.body(Body::from(sweep.to_string())).unwrap()).await
    };
    let id = keyed(sweep(1, 2)).await.expect(202)["id"].clone();
    assert_eq!(keyed(sweep(1, 2)).await.expect(202)["id"], id);
    keyed(sweep(2, 2)).await.refuses(422, "invalid_request", &["Idempotency-Key"]);
    app.post(&format!("/v1/sweeps/{}/cancel", id.as_str().unwrap()), &json!({})).await.expect(202);
    finished(&app, id.as_str().unwrap()).await;
    app.stop().await;
}

fn asha(dataset: &str) -> Value {
    let mut base = short_job(dataset);
    base["training"] = json!({"epochs": 6, "seed": 5, "optimizer": {"schedule": "cosine"}});
    json!({
        "base": base,
        "search": {"kind": "asha", "trials": 6, "seed": 3, "min_epochs": 1, "reduction": 2},
        "space": {"/training/optimizer/lr": {"values": [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]}},
    })
}

#[tokio::test]
async fn halving_promotes_the_better_ones_which_go_on_from_their_checkpoints() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(200).await;
    let sweep = asha(&dataset);
    let id = submitted(&app, &sweep).await;
    let done = finished(&app, &id).await;
    assert_eq!((&done["status"], &done["rungs"]), (&json!("succeeded"), &json!([1, 2, 4])));
    let best = &done["best"];
    assert_eq!(
        (&best["values"]["/training/optimizer/lr"], &best["rung"], &best["epochs"]),
        (&json!(1e-2), &json!(3), &json!(6))
    );
    let dropped: Vec<&Value> = trials(&done).iter().filter(|trial| trial["status"] == "cancelled").collect();
    assert_eq!(done["counts"]["not_promoted"], dropped.len());
    assert!(dropped.len() >= 3, "{done}");
    for trial in &dropped {
        assert_eq!((&trial["stop_reason"], &trial["model_id"]), (&json!("not_promoted"), &Value::Null));
        let rung = trial["rung"].as_u64().unwrap() as usize;
        assert_eq!(trial["epochs"], done["rungs"][rung], "it stopped exactly at its rung");
    }
    // The best was stopped three times, and is to the byte what it would have been without.
    let job = best["job_id"].as_str().unwrap();
    let events = app.get(&format!("/v1/jobs/{job}/events")).await.expect(200);
    let count = |kind: &str| events["data"].as_array().unwrap().iter().filter(|event| event["kind"] == kind).count();
    assert_eq!((count("promoted"), count("resumed"), count("started"), count("epoch")), (3, 3, 1, 6), "{events}");
    let weights = async |model: &str| app.get(&format!("/v1/models/{model}/artifacts/safetensors")).await.body;
    let mut alone = app.get(&format!("/v1/jobs/{job}")).await.expect(200)["spec"].clone();
    alone["name"] = Value::Null;
    let expected = app.train(&alone).await;
    let figures = async |model: &str| app.get(&format!("/v1/models/{model}")).await.expect(200)["metrics"].clone();
    let model = best["model_id"].as_str().unwrap();
    assert_eq!(figures(model).await, figures(&expected).await);
    assert_eq!(weights(model).await, weights(&expected).await);
    // Who was not promoted can be tried again, outside of the sweep, and then trains to its end.
    let again =
        app.post(&format!("/v1/jobs/{}/retry", dropped[0]["job_id"].as_str().unwrap()), &json!({})).await.expect(202);
    assert_eq!(again["sweep_id"], Value::Null);
    let again = app.wait(again["id"].as_str().unwrap()).await;
    assert_eq!((&again["status"], &again["progress"]["epoch"]), (&json!("succeeded"), &json!(6)));
    app.stop().await;
}

#[tokio::test]
async fn only_so_many_jobs_of_a_sweep_run_at_once_and_all_are_cancelled_together() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(100).await;
    let mut base = short_job(&dataset);
    base["training"] = json!({"epochs": 100_000, "early_stopping": {"patience": 0}});
    let sweep =
        json!({"base": base, "search": {"kind": "grid"}, "space": {"/training/seed": {"int": [1, 3]}}, "parallel": 1});
    let id = submitted(&app, &sweep).await;
    let view = async || app.get(&format!("/v1/sweeps/{id}")).await.expect(200);
    until(async || (view().await["counts"]["running"] == 1).then_some(())).await;
    // The other worker passes over the trials that wait, and takes what came later.
    let other = app.submit(&short_job(&dataset)).await;
    assert_eq!(app.wait(&other).await["status"], "succeeded");
    let now = view().await;
    assert_eq!(
        (&now["status"], &now["counts"]["running"], &now["counts"]["queued"]),
        (&json!("running"), &json!(1), &json!(2))
    );
    let waiting = trials(&now).iter().find(|trial| trial["status"] == "queued").unwrap();
    let waiting = waiting["job_id"].as_str().unwrap();
    let job = app.get(&format!("/v1/jobs/{waiting}")).await.expect(200);
    assert_eq!(job["waiting_for"]["code"], "sweep", "{job}");
    // One alone: the next takes its place.
    let running = trials(&now).iter().find(|trial| trial["status"] == "running").unwrap()["job_id"].as_str().unwrap();
    app.post(&format!("/v1/jobs/{running}/cancel"), &json!({})).await.expect(202);
    assert_eq!(app.wait(running).await["stop_reason"], "user");
    until(async || (view().await["counts"]["running"] == 1).then_some(())).await;
    app.post(&format!("/v1/sweeps/{id}/cancel"), &json!({})).await.expect(202);
    let done = finished(&app, &id).await;
    assert_eq!((&done["status"], &done["counts"]["cancelled"]), (&json!("cancelled"), &json!(3)));
    app.post(&format!("/v1/sweeps/{id}/cancel"), &json!({})).await.refuses(409, "sweep_ended", &[]);
    app.stop().await;
}

#[tokio::test]
async fn a_server_that_is_killed_in_mid_sweep_goes_on_and_comes_to_the_same_end() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(data.path(), 1, &[]);
    let get = async |server: &Server, path: String| -> Value {
        server.client.get(format!("{}{path}", server.base)).send().await.unwrap().json().await.unwrap()
    };
    let upload = server.client.post(format!("{}/v1/datasets?label=digit", server.base)).body(digits(200));
    let dataset = upload.send().await.unwrap().json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    let submit = async |server: &Server| {
        let answer = server.client.post(format!("{}/v1/sweeps", server.base)).json(&asha(&dataset)).send().await;
        answer.unwrap().json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
    };
    // With one worker the order of all that happens is given.
    let outcome = async |server: &Server, id: &str| -> Vec<Value> {
        let view = until(async || {
            let view = get(server, format!("/v1/sweeps/{id}?wait=20s")).await;
            (view["status"] == "succeeded").then_some(view)
        })
        .await;
        let facts =
            |trial: &Value| json!([trial["number"], trial["status"], trial["value"], trial["rung"], trial["epochs"]]);
        trials(&view).iter().map(facts).collect()
    };
    let whole = submit(&server).await;
    let expected = outcome(&server, &whole).await;
    let killed = submit(&server).await;
    for recorded in [1, 3, 6, 9] {
        until(async || {
            let view = get(&server, format!("/v1/sweeps/{killed}")).await;
            let epochs: u64 = trials(&view).iter().map(|trial| trial["epochs"].as_u64().unwrap()).sum();
            (epochs >= recorded).then_some(())
        })
        .await;
        server.process.kill().unwrap();
        server.process.wait().unwrap();
        server = Server::start_with(data.path(), 1, &[]);
    }
    assert_eq!(outcome(&server, &killed).await, expected);
}

#[tokio::test]
async fn every_fault_of_a_sweep_is_told_where_it_stands() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(50).await;
    let check = async |change: Value, pointers: &[&str]| {
        let mut sweep = json!({"base": short_job(&dataset), "search": {"kind": "random", "trials": 4}, "space": {"/training/seed": {"int": [0, 99]}}});
        for (key, value) in change.as_object().unwrap() {
            sweep[key] = value.clone();
        }
        let problem = app.post("/v1/sweeps", &sweep).await.expect(422);
        let mut found: Vec<&str> =
            problem["errors"].as_array().unwrap().iter().map(|fault| fault["pointer"].as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, pointers, "{problem}");
    };
    let space = |pointer: &str, choices: Value| json!({"space": {pointer: choices}});
    check(json!({"colour": 1, "search": {"kind": "guess"}}), &["/colour", "/search/kind"]).await;
    check(space("/training/seed", json!({"normal": [0, 1]})), &["/space/~1training~1seed/normal"]).await;
    check(space("/training/seed", json!({"int": [0.5, 1]})), &["/space/~1training~1seed/int/0"]).await;
    check(space("/training/seed", json!({"int": [9, 1]})), &["/space/~1training~1seed/int"]).await;
    check(space("lr", json!({"int": [1, 9]})), &["/space/lr"]).await;
    check(space("/training/seed", json!({"int": [1, 3]})), &["/search/trials"]).await;
    // Values that a job would not take, and fields that there are not. The ends of a range are tried, whatever is drawn.
    check(space("/model/settings/latent", json!({"int": [0, 1_000_000]})), &["/space/~1model~1settings~1latent/int"])
        .await;
    check(
        space("/network/hidden", json!({"values": [[8], [16, -1], "x", [7]]})),
        &["/space/~1network~1hidden/values/1/1", "/space/~1network~1hidden/values/2"],
    )
    .await;
    check(space("/model/settings/depth", json!({"int": [1, 4]})), &["/space/~1model~1settings~1depth/int"]).await;
    check(space("/model/family/x", json!({"int": [1, 4]})), &["/space/~1model~1family~1x/int"]).await;
    check(
        space("/training/batch_size", json!({"log_uniform": [1, 64]})),
        &["/space/~1training~1batch_size/log_uniform"],
    )
    .await;
    // What is at fault in the base is told once.
    let mut base = short_job(&dataset);
    base["training"]["optimizer"] = json!({"lr": -1});
    base["name"] = json!("x".repeat(200));
    check(json!({"base": base}), &["/base/name", "/base/training/optimizer/lr"]).await;
    check(
        json!({"base": {"dataset": "ds_0198c5d2a1b37e6f9a1b2c3d4e5f6071", "model": {"family": "vae"}}}),
        &["/base/dataset"],
    )
    .await;
    check(json!({"base": {"model": {}}}), &["/base/model/family"]).await;
    // Against the search.
    let asha = json!({"kind": "asha", "trials": 4, "min_epochs": 3});
    check(json!({"search": asha}), &["/search/min_epochs"]).await;
    check(
        json!({"search": {"kind": "asha", "trials": 2}, "space": {"/training/epochs": {"values": [2, 3]}}}),
        &["/space/~1training~1epochs"],
    )
    .await;
    let mut base = short_job(&dataset);
    base["split"] = json!({"validation": 0});
    check(json!({"base": base}), &["/metric"]).await;
    check(json!({"search": {"kind": "grid"}, "space": {"/training/seed": {"int": [0, 5000]}}}), &["/space"]).await;
    app.get("/v1/sweeps/swp_0198c5d2a1b37e6f9a1b2c3d4e5f6071").await.refuses(404, "not_found", &[]);
    app.get("/v1/jobs?sweep=3").await.refuses(422, "invalid_request", &["?sweep"]);
    assert_eq!(app.get("/v1/sweeps").await.expect(200)["data"], json!([]));
    assert_eq!(app.get("/v1/jobs").await.expect(200)["data"], json!([]));
    app.stop().await;
}
