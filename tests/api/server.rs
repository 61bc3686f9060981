//! Stories of the executable: what is killed goes on, and what is stopped stops in order.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};

use crate::support::{EXECUTABLE, digits, until};

/// A running server.
pub struct Server {
    pub process: Child,
    pub base: String,
    pub client: Client,
}

impl Server {
    fn start(data: &Path, workers: u32) -> Self {
        Self::start_with(data, workers, &[])
    }

    /// With more arguments on its command line.
    pub fn start_with(data: &Path, workers: u32, more: &[&str]) -> Self {
        let mut process = Command::new(EXECUTABLE)
            .args(["serve", "--listen", "127.0.0.1:0", "--workers", &workers.to_string(), "--threads", "1", "--data"])
            .arg(data)
            .args(more)
            .env("LATENTE_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let base =
            line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("the server said `{line}`")).to_owned();
        Self { process, base, client: Client::new() }
    }

    async fn get(&self, path: &str) -> Value {
        self.client.get(format!("{}{path}", self.base)).send().await.unwrap().json().await.unwrap()
    }

    async fn bytes(&self, path: &str) -> Vec<u8> {
        self.client.get(format!("{}{path}", self.base)).send().await.unwrap().bytes().await.unwrap().to_vec()
    }

    async fn upload(&self) -> String {
        let answer = self
            .client
            .post(format!("{}/v1/datasets?label=digit&shape=8x8", self.base))
            .body(digits(600))
            .send()
            .await
            .unwrap();
        answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
    }

    async fn submit(&self, spec: &Value) -> String {
        let answer = self.client.post(format!("{}/v1/jobs", self.base)).json(spec).send().await.unwrap();
        let view: Value = answer.json().await.unwrap();
        view["id"].as_str().unwrap_or_else(|| panic!("{view}")).to_owned()
    }

    async fn wait(&self, job: &str) -> Value {
        until(async || {
            let view = self.get(&format!("/v1/jobs/{job}?wait=20s")).await;
            ["succeeded", "failed", "cancelled"].contains(&view["status"].as_str().unwrap()).then_some(view)
        })
        .await
    }

    /// The weights of a job that succeeded.
    async fn weights(&self, job: &str) -> Vec<u8> {
        let view = self.wait(job).await;
        assert_eq!(view["status"], "succeeded", "{view}");
        self.bytes(&format!("/v1/models/{}/artifacts/safetensors", view["model_id"].as_str().unwrap())).await
    }

    async fn train(&self, spec: &Value) -> (String, Vec<u8>) {
        let job = self.submit(spec).await;
        let weights = self.weights(&job).await;
        (job, weights)
    }

    async fn curve(&self, job: &str) -> Value {
        self.get(&format!("/v1/jobs/{job}/metrics?max_points=10000")).await["series"].clone()
    }

    /// Waits until a job has recorded so many epochs.
    async fn reaches(&self, job: &str, epochs: usize) {
        until(async || (self.curve(job).await[0]["steps"].as_array().map_or(0, Vec::len) >= epochs).then_some(()))
            .await;
    }

    fn signal(&self, name: &str) {
        signal(name, self.process.id());
    }

    fn kill(mut self) {
        self.signal("-KILL");
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// Processes and their parents.
fn processes() -> Vec<(u32, u32)> {
    let numbers =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let parent = |process: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    numbers.filter_map(|process| Some((process, parent(process)?))).collect()
}

/// Processes that `pid` started: the one that trainers are copies of.
fn children(pid: u32) -> Vec<u32> {
    processes().into_iter().filter(|(_, parent)| *parent == pid).map(|(process, _)| process).collect()
}

/// Trainers of the server `pid`: copies of its child.
fn trainers(pid: u32) -> Vec<u32> {
    children(pid).into_iter().flat_map(children).collect()
}

fn is_alive(pid: u32) -> bool {
    // One that nobody has waited for yet has ended all the same.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

/// A job of a few seconds.
fn job(dataset: &str, seed: u64) -> Value {
    json!({
        "dataset": dataset,
        "model": {"family": "vae", "settings": {"latent": 4}},
        "training": {"epochs": 150, "seed": seed, "early_stopping": {"patience": 0}},
    })
}

fn kinds(events: &Value) -> Vec<&str> {
    events["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .filter(|kind| *kind != "epoch")
        .collect()
}

#[tokio::test]
async fn a_killed_server_goes_on_where_it_was_and_ends_with_the_same_bytes() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), 1);
    let dataset = server.upload().await;
    let (whole, expected) = server.train(&job(&dataset, 1)).await;
    let interrupted = server.submit(&job(&dataset, 1)).await;
    for epochs in [20, 70] {
        server.reaches(&interrupted, epochs).await;
        let template = children(server.process.id());
        let all = [template.clone(), trainers(server.process.id())].concat();
        assert_eq!((template.len(), all.len()), (1, 2));
        server.kill();
        // A trainer whose server is gone ends by itself, and so does what it is a copy of.
        until(async || (!all.iter().any(|pid| is_alive(*pid))).then_some(())).await;
        server = Server::start(data.path(), 1);
    }
    assert_eq!(server.weights(&interrupted).await, expected);
    assert_eq!(server.curve(&interrupted).await, server.curve(&whole).await, "the curve has a gap or a double");
    let view = server.get(&format!("/v1/jobs/{interrupted}")).await;
    assert_eq!(view["attempt"], 3);
    let events = server.get(&format!("/v1/jobs/{interrupted}/events?after=0&limit=100")).await;
    assert_eq!(kinds(&events)[..3], ["queued", "started", "interrupted"]);
}

#[tokio::test]
async fn a_killed_trainer_goes_on_without_a_restart_and_ends_with_the_same_bytes() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), 1);
    let dataset = server.upload().await;
    let (whole, expected) = server.train(&job(&dataset, 2)).await;
    let interrupted = server.submit(&job(&dataset, 2)).await;
    for epochs in [10, 50, 100] {
        server.reaches(&interrupted, epochs).await;
        for trainer in trainers(server.process.id()) {
            signal("-KILL", trainer);
        }
    }
    assert_eq!(server.weights(&interrupted).await, expected);
    assert_eq!(server.curve(&interrupted).await, server.curve(&whole).await);
    assert!(server.get(&format!("/v1/jobs/{interrupted}")).await["attempt"].as_u64().unwrap() >= 2);
}

#[tokio::test]
async fn a_trainer_outlives_the_process_that_it_is_a_copy_of_and_the_next_job_has_another() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with(data.path(), 1, &["--trainer-copies", "false"]);
    let dataset = server.upload().await;
    let (_, expected) = server.train(&job(&dataset, 7)).await;
    assert_eq!(children(server.process.id()), Vec::<u32>::new(), "one that is started by itself leaves nothing behind");
    drop(server);

    let server = Server::start(data.path(), 1);
    let running = server.submit(&job(&dataset, 7)).await;
    server.reaches(&running, 10).await;
    let template = children(server.process.id());
    signal("-KILL", template[0]);
    assert_eq!(server.weights(&running).await, expected);
    assert_eq!(server.get(&format!("/v1/jobs/{running}")).await["attempt"], 1, "nothing happened to the job");
    assert_eq!(server.train(&job(&dataset, 7)).await.1, expected);
    let other = children(server.process.id());
    assert!(other.len() == 1 && other != template, "{other:?} instead of {template:?}");

    // An orderly end takes it along.
    let ended = other[0];
    let mut server = server;
    server.signal("-TERM");
    until(async || server.process.try_wait().unwrap()).await;
    assert!(!is_alive(ended));
}

#[tokio::test]
async fn two_jobs_at_once_give_the_bytes_of_one_after_the_other() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), 2);
    let dataset = server.upload().await;
    let together = [server.submit(&job(&dataset, 3)).await, server.submit(&job(&dataset, 4)).await];
    server.reaches(&together[0], 5).await;
    server.reaches(&together[1], 5).await;
    assert_eq!(server.get("/readyz").await["running"], 2);
    let together = [server.weights(&together[0]).await, server.weights(&together[1]).await];
    assert_ne!(together[0], together[1]);
    for (seed, weights) in [3, 4].into_iter().zip(together) {
        assert_eq!(server.train(&job(&dataset, seed)).await.1, weights);
    }
}

#[tokio::test]
async fn ctrl_c_drains_keeps_a_checkpoint_requeues_and_exits_in_order() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), 1);
    let dataset = server.upload().await;
    let (_, expected) = server.train(&job(&dataset, 5)).await;
    let interrupted = server.submit(&job(&dataset, 5)).await;
    server.reaches(&interrupted, 30).await;
    // Streams must not hold the server up.
    let events = format!("{}/v1/jobs/{interrupted}/events", server.base);
    let mut streams = Vec::new();
    for _ in 0..20 {
        let stream = server.client.get(&events).header("accept", "text/event-stream").send().await.unwrap();
        assert_eq!(stream.status(), 200);
        streams.push(tokio::spawn(stream.bytes()));
    }
    server.signal("-INT");
    let status =
        tokio::time::timeout(Duration::from_secs(10), until(async || server.process.try_wait().unwrap())).await;
    assert!(status.expect("it takes more than ten seconds").success());
    for stream in streams {
        let text = stream.await.unwrap().expect("a stream is ended, not broken");
        assert!(String::from_utf8_lossy(&text).contains("event: started"));
    }
    server = Server::start(data.path(), 1);
    let view = server.get(&format!("/v1/jobs/{interrupted}")).await;
    assert!(["queued", "running"].contains(&view["status"].as_str().unwrap()), "{view}");
    assert_eq!(server.weights(&interrupted).await, expected);
    let all = server.get(&format!("/v1/jobs/{interrupted}/events?limit=100")).await;
    let resumed = all["data"].as_array().unwrap().iter().find(|event| event["kind"] == "resumed").unwrap();
    assert!(resumed["data"]["from_epoch"].as_u64().unwrap() >= 30, "{resumed}");
}

#[tokio::test]
async fn the_command_line_trains_without_a_server_and_gives_the_same_weights() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(&data.path().join("data"), 1);
    let dataset = server.upload().await;
    let mut spec = job(&dataset, 6);
    spec["training"]["epochs"] = json!(5);
    let (_, expected) = server.train(&spec).await;
    let file = data.path().join("digits.csv");
    std::fs::write(&file, digits(600)).unwrap();
    let output = data.path().join("model.safetensors");
    let run = Command::new(EXECUTABLE)
        .args([
            "train",
            "--label",
            "digit",
            "--shape",
            "8x8",
            "--threads",
            "1",
            "--quiet",
            "--spec",
            &spec.to_string(),
            "-o",
        ])
        .args([&output, &file])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(String::from_utf8_lossy(&run.stdout).contains("validation/loss"));
    assert_eq!(std::fs::read(output).unwrap(), expected);
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.csv");
    std::fs::write(&file, "a,b\n1,2\n3\n").unwrap();
    let check = |arguments: &[&str], expected: &str| {
        let run = Command::new(EXECUTABLE).args(arguments).current_dir(directory.path()).output().unwrap();
        let words = String::from_utf8_lossy(&run.stderr);
        assert!(!run.status.success() && words.contains(expected), "{arguments:?}: {words}");
    };
    check(&["train", "bad.csv"], "line 3");
    check(&["train", "none.csv"], "none.csv");
    std::fs::write(&file, "a,b\n1,2\n3,4\n").unwrap();
    check(&["train", "bad.csv", "--latent", "0"], "/model/settings/latent");
    check(&["train", "bad.csv", "--family", "vea"], "vae");
    check(&["serve", "--listen", "0.0.0.0:0"], "--insecure");
    check(&["serve", "--workers", "many"], "--workers");
    assert!(!directory.path().join("model.safetensors").exists());
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused_and_the_doctor_says_what_works() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), 1);
    let second = Command::new(EXECUTABLE)
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data.path())
        .output()
        .unwrap();
    assert!(!second.status.success() && String::from_utf8_lossy(&second.stderr).contains("in use"));
    drop(server);
    let doctor = Command::new(EXECUTABLE).args(["doctor", "--data"]).arg(data.path()).output().unwrap();
    let words = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.status.success(), "{words}");
    for line in ["libtorch", "cuda", "data directory", "database"] {
        assert!(words.lines().any(|one| one.starts_with("ok ") && one.contains(line)), "{words}");
    }
}

#[tokio::test]
async fn an_upload_goes_on_after_its_server_was_killed() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path(), 1);
    let file = digits(600).into_bytes();
    let request = |server: &Server, method: &str, path: &str| {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        server.client.request(method, format!("{}{path}", server.base)).header("Tus-Resumable", "1.0.0")
    };
    let part = |server: &Server, upload: &str, offset: usize| {
        request(server, "PATCH", upload)
            .header("Content-Type", "application/offset+octet-stream")
            .header("Upload-Offset", offset.to_string())
    };
    let begun = request(&server, "POST", "/v1/uploads").header("Upload-Length", file.len()).send().await.unwrap();
    let upload = begun.headers()["location"].to_str().unwrap().to_owned();
    let id = upload.rsplit('/').next().unwrap().to_owned();
    let third = file.len() / 3;
    let mut acknowledged = 0;
    for end in [third, 2 * third] {
        // One part is acknowledged; the next is under way when the server dies.
        let sent = part(&server, &upload, acknowledged).body(file[acknowledged..end].to_vec()).send().await.unwrap();
        assert_eq!(sent.status(), 204);
        acknowledged = end;
        let (send, receive) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
        let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(receive));
        let under_way = tokio::spawn(part(&server, &upload, end).body(body).send());
        send.send(Ok(b"not what comes next".to_vec())).await.unwrap();
        let path = data.path().join("uploads").join(&id);
        until(async || (std::fs::metadata(&path).unwrap().len() > end as u64).then_some(())).await;
        server.kill();
        assert!(under_way.await.unwrap().is_err());
        server = Server::start(data.path(), 1);
        let look = request(&server, "HEAD", &upload).send().await.unwrap();
        assert_eq!(look.headers()["upload-offset"].to_str().unwrap(), end.to_string());
    }
    let last = part(&server, &upload, acknowledged).body(file[acknowledged..].to_vec()).send().await.unwrap();
    assert_eq!(last.status(), 204);
    let taken = server
        .client
        .post(format!("{}/v1/datasets?upload={id}&label=digit&shape=8x8", server.base))
        .send()
        .await
        .unwrap()
        .json::<Value>()
        .await
        .unwrap();
    let ordinary = server.upload().await;
    let rows = async |id: &str| server.get(&format!("/v1/datasets/{id}/rows?limit=600")).await;
    assert_eq!(rows(taken["id"].as_str().unwrap()).await, rows(&ordinary).await);
}
