//! A whole dataset goes through a model into a new dataset, whatever happens on the way.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{TestApp, short_job, until};

/// Uploads digits and trains a model of them; gives both.
async fn trained(app: &TestApp, rows: usize) -> (String, String) {
    let dataset = app.upload_digits(rows).await;
    let model = app.train(&short_job(&dataset)).await;
    (dataset, model)
}

async fn view(app: &TestApp, job: &str) -> Value {
    app.get(&format!("/v1/jobs/{job}")).await.expect(200)
}

/// Asks and waits; gives the dataset that was made.
async fn asked(app: &TestApp, spec: &Value) -> Value {
    let job = app.wait(&app.submit(spec).await).await;
    result(app, &job).await
}

async fn result(app: &TestApp, job: &Value) -> Value {
    assert_eq!((job["status"].as_str(), job["stop_reason"].as_str()), (Some("succeeded"), Some("completed")), "{job}");
    app.get(&format!("/v1/datasets/{}", job["result_dataset_id"].as_str().unwrap())).await.expect(200)
}

fn rows_file(app: &TestApp, dataset: &Value) -> Vec<u8> {
    let id = dataset["id"].as_str().unwrap();
    std::fs::read(app.data().join("datasets").join(id).join("rows.f32")).unwrap()
}

fn names(dataset: &Value) -> Vec<&str> {
    dataset["columns"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

#[track_caller]
fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{found} {expected}");
    }
}

#[tokio::test]
async fn every_question_is_answered_about_every_row_as_it_is_one_by_one() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app, 150).await;
    app.patch(&format!("/v1/models/{model}"), &json!({"name": "digits"})).await.expect(200);
    let base =
        |question: &str| json!({"kind": "inference", "model": "digits:1", "dataset": dataset, "question": question});
    let online = async |question: &str, field: &str| -> Vec<f32> {
        let answer = app.get(&format!("/v1/models/{model}/{question}dataset={dataset}&rows=0-149")).await.expect(200);
        let rows: Vec<Vec<f32>> = serde_json::from_value(answer[field].clone()).unwrap();
        rows.concat()
    };

    let mut spec = base("encode");
    spec["keep"] = json!(["digit"]);
    let job = app.post("/v1/jobs", &spec).await.expect(202);
    assert_eq!(
        (job["kind"].as_str(), &job["spec"]["model"]),
        (Some("inference"), &json!(model)),
        "the name is settled"
    );
    let job = app.wait(job["id"].as_str().unwrap()).await;
    assert_eq!((job["progress"]["step"].as_u64(), job["progress"]["steps"].as_u64()), (Some(150), Some(150)));
    let codes = result(&app, &job).await;
    assert_eq!(names(&codes), ["z0", "z1", "z2", "digit"]);
    assert_eq!((codes["name"].as_str(), codes["rows"].as_u64()), (Some("digits, encode by digits:1"), Some(150)));
    assert_eq!((&codes["job_id"], codes["format"].as_str()), (&job["id"], Some("computed")));
    assert_eq!(
        (codes["columns"][0]["role"].as_str(), codes["columns"][3]["role"].as_str()),
        (Some("feature"), Some("label"))
    );
    let values = floats(&rows_file(&app, &codes));
    let own: Vec<f32> = values.chunks(4).flat_map(|row| row[..3].to_vec()).collect();
    close(&own, &online("encode?", "codes").await);
    // What was made can be trained on.
    let mut again = short_job(codes["id"].as_str().unwrap());
    again["model"]["settings"]["latent"] = json!(1);
    app.train(&again).await;
    let mut spread = base("encode");
    spread["spread"] = json!(true);
    assert_eq!(names(&asked(&app, &spread).await), ["z0", "z1", "z2", "z0_spread", "z1_spread", "z2_spread"]);

    let restored = asked(&app, &base("reconstruct")).await;
    assert_eq!((names(&restored).len(), names(&restored)[64]), (65, "error"));
    assert_eq!(
        (&restored["image"], restored["columns"][64]["role"].as_str()),
        (&json!({"channels": 1, "height": 8, "width": 8}), Some("ignore"))
    );
    let values = floats(&rows_file(&app, &restored));
    let own: Vec<f32> = values.chunks(65).flat_map(|row| row[..64].to_vec()).collect();
    close(&own, &online("reconstruct?", "rows").await);

    let mut score = base("score");
    (score["seed"], score["samples"]) = (json!(4), json!(16));
    let scores = asked(&app, &score).await;
    assert_eq!(
        names(&scores),
        [
            "score",
            "anomaly",
            "is_anomaly",
            "reconstruction",
            "error",
            "log_likelihood",
            "elbo",
            "standard_error",
            "effective_samples"
        ]
    );
    let one =
        app.get(&format!("/v1/models/{model}/score?dataset={dataset}&rows=0-149&seed=4&samples=16")).await.expect(200);
    let found = floats(&rows_file(&app, &scores));
    for (row, one) in found.chunks(9).zip(one["scores"].as_array().unwrap()) {
        close(
            &[row[0], row[1], row[5]],
            &["score", "anomaly", "log_likelihood"].map(|name| one[name].as_f64().unwrap() as f32),
        );
    }
    let filled = asked(&app, &base("impute")).await;
    assert_eq!(names(&filled).len(), 64);
    let listed = app.get("/v1/jobs?kind=inference").await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 5);
    assert_eq!(app.get("/v1/jobs?kind=training").await.expect(200)["data"].as_array().unwrap().len(), 2);
    let mut named = short_job(&dataset);
    named["kind"] = json!("training");
    app.train(&named).await;
    assert_eq!(app.files("results"), Vec::<String>::new());
    app.stop().await;
}

#[tokio::test]
async fn columns_are_found_by_name_texts_by_level_and_labels_are_told() {
    let app = TestApp::start().await;
    let row = |n: usize| (n % 13, ["red", "green", "blue"][n % 3], ["no", "yes"][n % 2]);
    let table = (0..90).map(row).fold("size,colour,sick\n".to_owned(), |text, (size, colour, sick)| {
        text + &format!("{size}.5,{colour},{sick}\n")
    });
    let dataset = app.upload("?label=sick", table).await["id"].as_str().unwrap().to_owned();
    let mut spec = short_job(&dataset);
    spec["model"] = json!({"family": "feed_forward", "settings": {"latent": 2}});
    let model = app.train(&spec).await;
    // Other levels in another order, other columns, gaps.
    let other = (0..50).map(row).enumerate().fold("who,colour,size\n".to_owned(), |text, (n, (size, colour, _))| {
        let colour = if n == 7 { "" } else { colour };
        text + &format!("{},{colour},{size}.5\n", n + 100)
    });
    let other = app.upload("?id=who&levels=colour:blue,green,red", other).await["id"].as_str().unwrap().to_owned();
    let ask = |question: &str, dataset: &str| json!({"kind": "inference", "model": model, "dataset": dataset, "question": question});
    let refused = app.post("/v1/jobs", &ask("predict", &other)).await.refuses(422, "invalid_request", &["/dataset"]);
    assert!(refused.contains("colour"), "{refused}");
    let mut impute = ask("impute", &other);
    impute["keep"] = json!(["who"]);
    let filled = asked(&app, &impute).await;
    assert_eq!(names(&filled), ["size", "colour", "who"]);
    assert_eq!(filled["columns"][1]["levels"], json!(["blue", "green", "red"]), "levels are those of the model");
    let rows = app.get(&format!("/v1/datasets/{}/rows?limit=10", filled["id"].as_str().unwrap())).await.expect(200);
    assert_eq!((&rows["rows"][0], &rows["rows"][4]), (&json!([0.5, "red", 100.0]), &json!([4.5, "green", 104.0])));
    assert!(rows["rows"][7][1].is_string(), "{rows}");

    let told = asked(&app, &ask("predict", &dataset)).await;
    assert_eq!(names(&told), ["sick", "sick_spread"]);
    assert_eq!(told["columns"][0]["levels"], json!(["no", "yes"]));
    app.stop().await;
}

#[tokio::test]
async fn a_job_that_was_paused_killed_and_cancelled_gives_the_bytes_of_one_that_was_not() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app, 400).await;
    // Many draws, so that it takes its time.
    let slow = json!({"kind": "inference", "model": model, "dataset": dataset, "question": "score", "samples": 10_000, "seed": 3});
    let straight = asked(&app, &slow).await;
    let expected = rows_file(&app, &straight);

    let id = app.submit(&slow).await;
    let counted = async |least: u64| {
        until(async || (view(&app, &id).await["progress"]["step"].as_u64()? >= least).then_some(())).await
    };
    counted(20).await;
    assert_eq!(view(&app, &id).await["phase"], "inference");
    app.delete(&format!("/v1/models/{model}?force=true")).await.refuses(409, "model_in_use", &[]);
    app.delete(&format!("/v1/datasets/{dataset}")).await.refuses(409, "dataset_in_use", &[]);
    app.post(&format!("/v1/jobs/{id}/pause"), &json!({})).await.expect(202);
    until(async || (view(&app, &id).await["status"] == "paused").then_some(())).await;
    assert_eq!(app.files("results"), std::slice::from_ref(&id));
    app.post(&format!("/v1/jobs/{id}/resume"), &json!({})).await.expect(202);
    // Further than it was, and then its process is killed.
    let at = view(&app, &id).await["progress"]["step"].as_u64().unwrap();
    counted(at + 20).await;
    kill_child(&app, &id);
    let done = app.wait(&id).await;
    let whole = result(&app, &done).await;
    assert!(rows_file(&app, &whole) == expected, "the same bytes");
    assert_eq!(whole["columns"], straight["columns"]);
    let events = app.get(&format!("/v1/jobs/{id}/events")).await.expect(200);
    let kinds: Vec<&str> =
        events["data"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"resumed") && kinds.contains(&"interrupted"), "{kinds:?}");

    let cancelled = app.submit(&slow).await;
    until(async || (view(&app, &cancelled).await["progress"]["step"].as_u64()? >= 1).then_some(())).await;
    app.post(&format!("/v1/jobs/{cancelled}/cancel"), &json!({})).await.expect(202);
    assert_eq!(app.wait(&cancelled).await["status"], "cancelled");
    until(async || app.files("results").is_empty().then_some(())).await;
    let again = app.post(&format!("/v1/jobs/{cancelled}/retry"), &json!({})).await.expect(202);
    let again = app.wait(again["id"].as_str().unwrap()).await;
    assert!(rows_file(&app, &result(&app, &again).await) == expected);
    app.stop().await;
}

/// Kills the process that works on a job: the one beside this that has the file of its answers open.
fn kill_child(app: &TestApp, job: &str) {
    let path = app.data().join("results").join(job);
    let killed = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.unwrap().file_name().to_string_lossy().parse::<u32>().ok()?;
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let holds = files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to == path));
        (pid != std::process::id() && holds).then_some(pid)
    });
    let killed: Vec<u32> = killed.collect();
    assert_eq!(killed.len(), 1);
    assert!(Command::new("kill").args(["-9", &killed[0].to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_before_it_is_queued() {
    let app = TestApp::start().await;
    let (dataset, model) = trained(&app, 60).await;
    let check = async |change: Value, pointers: &[&str]| {
        let mut spec = json!({"kind": "inference", "model": model, "dataset": dataset, "question": "encode"});
        for (name, value) in change.as_object().unwrap() {
            spec[name] = value.clone();
        }
        app.post("/v1/jobs", &spec).await.refuses(422, "invalid_request", pointers)
    };
    check(json!({"kind": "guessing"}), &["/kind"]).await;
    check(json!({"question": "sample"}), &["/question"]).await;
    check(json!({"colour": 1}), &["/colour"]).await;
    check(json!({"model": "fraud@production"}), &["/model"]).await;
    check(json!({"model": "No Name"}), &["/model"]).await;
    check(json!({"model": "mdl_0198c5d2a1b37e6f9a1b2c3d4e5f6071"}), &["/model"]).await;
    check(json!({"dataset": "ds_0198c5d2a1b37e6f9a1b2c3d4e5f6071"}), &["/dataset"]).await;
    check(json!({"rounds": 3, "threshold": 0.5}), &["/rounds", "/threshold"]).await;
    check(json!({"question": "impute", "rounds": 0}), &["/rounds"]).await;
    check(json!({"question": "score", "samples": 0, "measure": "log_likelihood"}), &["/samples"]).await;
    check(json!({"question": "predict"}), &["/question"]).await;
    check(json!({"keep": ["digit", "none"]}), &["/keep/1"]).await;
    check(json!({"question": "impute", "keep": ["p00"]}), &["/keep/0"]).await;
    check(json!({"name": ""}), &["/name"]).await;
    let other = app.upload("", "a,b\n1,2\n3,4\n5,6\n").await["id"].as_str().unwrap().to_owned();
    assert_eq!(
        app.post("/v1/jobs", &json!({"kind": "inference", "model": model, "dataset": other, "question": "encode"}))
            .await
            .expect(422)["errors"]
            .as_array()
            .unwrap()
            .len(),
        20
    );
    let spec = json!({"kind": "inference", "model": model, "dataset": dataset, "question": "encode"});
    app.post("/v1/jobs?register=x", &spec).await.refuses(422, "invalid_request", &["?register"]);
    assert_eq!(app.get("/v1/jobs?kind=inference").await.expect(200)["data"], json!([]));

    // The same key is the same job.
    let request = |spec: &Value| {
        let request = axum::http::Request::post("/v1/jobs")
            .header("content-type", "application/json")
            .header("idempotency-key", "k");
        request.body(spec.to_string().into()).unwrap()
    };
    let first = app.send(request(&spec)).await.expect(202);
    assert_eq!(app.send(request(&spec)).await.expect(202)["id"], first["id"]);
    let mut changed = spec.clone();
    changed["question"] = json!("score");
    app.send(request(&changed)).await.refuses(422, "invalid_request", &["Idempotency-Key"]);
    app.send(request(&short_job(&dataset))).await.refuses(422, "invalid_request", &["Idempotency-Key"]);
    app.wait(first["id"].as_str().unwrap()).await;
    app.stop().await;
}
