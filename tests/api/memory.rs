//! Trainers with little memory: what does not fit fails at once and says so, and rows need not fit.

use serde_json::json;

use crate::support::TestApp;

const MIB: u64 = 1 << 20;
/// What a trainer may have here, the least that can be set; more than half of it is libtorch's own.
const LIMIT: u64 = 128 * MIB;
const WIDTH: usize = 300;
/// Rows of a batch that may fit by what is known before, and does not.
const LARGE: usize = 32_000;

/// The batch that a refusal says would fit.
fn fitting(detail: &str) -> usize {
    let words: Vec<&str> = detail.split_whitespace().collect();
    let place = words.windows(2).position(|two| two == ["would", "fit."]).unwrap_or_else(|| panic!("{detail}"));
    words[place - 1].parse().unwrap()
}

#[tokio::test]
async fn a_file_three_times_the_memory_is_trained_on_and_a_batch_beyond_it_is_not() {
    let app = TestApp::start_with(|config| {
        config.jobs.trainer.memory_bytes = Some(LIMIT);
        (config.http.upload_bytes, config.http.dataset_bytes) = (256 * MIB, 1024 * MIB);
    })
    .await;
    let rows = (3 * LIMIT as usize).div_ceil(WIDTH * 4) + 1;
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, {WIDTH}), }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend((0..rows * WIDTH).map(|cell| (cell / WIDTH * 7 + cell % WIDTH * 3) as u8 % 11));
    let dataset = app.upload("", file).await;
    assert_eq!(dataset["rows"], rows);
    let job = |batch: usize| {
        json!({
            "dataset": dataset["id"],
            "model": {"family": "autoencoder", "settings": {"latent": 2}},
            "network": {"hidden": [4]},
            "likelihood": "gaussian",
            "training": {"epochs": 1, "batch_size": batch},
        })
    };
    // What cannot fit is refused at once, and what does not fits is told with a batch that does.
    let detail = app.post("/v1/jobs", &job(60_000)).await.refuses(422, "out_of_memory", &["/training/batch_size"]);
    assert!(detail.contains("a trainer may have 128"), "{detail}");
    let sweep = json!({
        "base": job(32),
        "search": {"kind": "grid"},
        "space": {"/training/batch_size": {"values": [32, 60_000]}},
    });
    let place = "/space/~1training~1batch_size/values/1";
    app.post("/v1/sweeps", &sweep).await.refuses(422, "out_of_memory", &[place]);
    let large = app.wait(&app.submit(&job(LARGE)).await).await;
    assert_eq!((&large["status"], &large["error"]["code"]), (&json!("failed"), &json!("out_of_memory")), "{large}");
    assert_eq!((&large["error"]["category"], &large["attempt"]), (&json!("capacity"), &json!(1)), "{large}");
    assert_eq!(large["error"]["errors"][0]["pointer"], "/training/batch_size", "{large}");
    let fits = fitting(large["error"]["detail"].as_str().unwrap());
    let dry = app.post("/v1/jobs?dry_run=true", &job(LARGE)).await;
    assert_eq!(fitting(&dry.refuses(422, "out_of_memory", &["/training/batch_size"])), fits);
    let estimate = app.post("/v1/jobs?dry_run=true", &job(fits)).await.expect(200);
    assert_eq!(estimate["memory"]["limit_bytes"], LIMIT);
    assert!(estimate["memory"]["measured_bytes"].as_u64().unwrap() < LIMIT, "{estimate}");
    app.train(&job(fits)).await;
    app.train(&job(256)).await;
    app.stop().await;
}
