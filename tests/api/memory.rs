//! Trainers with little memory: what does not fit fails at once and says so, and rows need not fit.

use serde_json::json;

use crate::support::TestApp;

const MIB: u64 = 1 << 20;
/// What a trainer may have here, the least that can be set; more than half of it is libtorch's own.
const LIMIT: u64 = 128 * MIB;
const WIDTH: usize = 300;

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
    let large = app.wait(&app.submit(&job(60_000)).await).await;
    assert_eq!((&large["status"], &large["error"]["code"]), (&json!("failed"), &json!("out_of_memory")), "{large}");
    assert_eq!((&large["error"]["category"], &large["attempt"]), (&json!("capacity"), &json!(1)), "{large}");
    assert!(large["error"]["detail"].as_str().unwrap().contains("batch_size"), "{large}");
    app.train(&job(256)).await;
    app.stop().await;
}
