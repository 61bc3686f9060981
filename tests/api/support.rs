//! What the stories need: an application of their own, requests, and files to upload.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use latente::config::{ServerConfig, Settings};
use latente::http::{App, router};
use serde_json::{Value, json};
use tower::ServiceExt;

/// The executable that was built with these tests.
pub const EXECUTABLE: &str = env!("CARGO_BIN_EXE_latente");

/// An application with a directory and a database of its own.
pub struct TestApp {
    pub app: App,
    router: Router,
    directory: tempfile::TempDir,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The JSON of an answer with this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// Checks a refusal: its form, its status and code, and the pointers of its faults. Gives the sentence.
    #[track_caller]
    pub fn refuses(&self, status: u16, code: &str, pointers: &[&str]) -> String {
        let problem = self.expect(status);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(
            (problem["code"].as_str(), problem["status"].as_u64()),
            (Some(code), Some(u64::from(status))),
            "{problem}"
        );
        assert!(problem["request_id"].is_string() && problem["retryable"].is_boolean(), "{problem}");
        let found: Vec<&str> =
            problem["errors"].as_array().unwrap().iter().map(|fault| fault["pointer"].as_str().unwrap()).collect();
        assert_eq!(found, pointers, "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// Settings for tests: two workers of one thread each.
pub fn config(data: &Path) -> ServerConfig {
    let mut config = Settings::default().resolve().unwrap();
    config.data = data.to_owned();
    (config.jobs.workers, config.jobs.cores) = (2, None);
    config.jobs.trainer.threads = 1;
    config.jobs.trainer.executable = PathBuf::from(EXECUTABLE);
    config.http.upload_bytes = 4 << 20;
    config.http.dataset_bytes = 16 << 20;
    config
}

impl TestApp {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same with other settings.
    pub async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(&directory.path().join("data"));
        change(&mut config);
        let app = latente::app::start(&config).await.unwrap();
        Self { router: router(app.clone()), app, directory }
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(Request::get(path).header(header::ACCEPT, accept).body(Body::empty()).unwrap()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_as(path, "application/json", body.to_string()).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        let request = Request::patch(path).header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(body.to_string().into()).unwrap()).await
    }

    pub async fn post_as(&self, path: &str, kind: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder().method(Method::POST).uri(path).header(header::CONTENT_TYPE, kind);
        self.send(request.body(body.into()).unwrap()).await
    }

    /// Uploads a file; gives the dataset.
    pub async fn upload(&self, query: &str, body: impl Into<Body>) -> Value {
        self.post_as(&format!("/v1/datasets{query}"), "application/octet-stream", body).await.expect(201)
    }

    /// Uploads the first digits, with their label.
    pub async fn upload_digits(&self, rows: usize) -> String {
        let dataset = self.upload("?name=digits&label=digit&shape=8x8", digits(rows)).await;
        dataset["id"].as_str().unwrap().to_owned()
    }

    /// Queues a job; gives its id.
    pub async fn submit(&self, spec: &Value) -> String {
        self.post("/v1/jobs", spec).await.expect(202)["id"].as_str().unwrap().to_owned()
    }

    /// Waits until a job has ended.
    pub async fn wait(&self, job: &str) -> Value {
        for _ in 0..10 {
            let view = self.get(&format!("/v1/jobs/{job}?wait=30s")).await.expect(200);
            if ["succeeded", "failed", "cancelled"].contains(&view["status"].as_str().unwrap()) {
                return view;
            }
        }
        panic!("job {job} does not end");
    }

    /// Trains a model; gives its id.
    pub async fn train(&self, spec: &Value) -> String {
        let job = self.wait(&self.submit(spec).await).await;
        assert_eq!(job["status"], "succeeded", "{job}");
        job["model_id"].as_str().unwrap().to_owned()
    }

    /// Everything ends in order, and nothing is left behind.
    pub async fn stop(self) {
        let unfinished = self.app.store.queue_length().await.unwrap();
        self.app.jobs.shut_down().await;
        self.app.store.close().await;
        assert_eq!(unfinished, (0, 0), "jobs were left behind");
        assert_eq!(self.files("tmp"), Vec::<String>::new(), "files were left behind");
    }

    /// Names of what is in a folder of the data directory.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.data().join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

/// The first digits of the repository as CSV text.
pub fn digits(rows: usize) -> String {
    let file = std::fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/digits.csv.gz")).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    text.lines().take(rows + 1).collect::<Vec<_>>().join("\n")
}

/// A short job on a dataset.
pub fn short_job(dataset: &str) -> Value {
    json!({
        "dataset": dataset,
        "model": {"family": "vae", "settings": {"latent": 3}},
        "network": {"hidden": [16]},
        "training": {"epochs": 3, "seed": 5},
    })
}

/// A NumPy array file of 32-bit floats.
pub fn npy(rows: usize, width: usize, values: &[f32]) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// Changes a database behind the back of its store; gives the number of rows.
pub async fn change(path: &Path, sql: &'static str) -> u64 {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    sqlx::query(sql).execute(&mut connection).await.unwrap().rows_affected()
}

/// Asks again and again until there is an answer.
pub async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "it did not happen within a minute");
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
