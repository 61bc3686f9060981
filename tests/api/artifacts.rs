//! Models leave as files for other programs.

use std::process::Command;

use axum::http::header;
use serde_json::{Value, json};
use tch::{CModule, Tensor};

use crate::support::{EXECUTABLE, TestApp, short_job};

fn numbers(rows: &Value) -> Vec<f32> {
    rows.as_array().unwrap().iter().flat_map(|row| serde_json::from_value::<Vec<f32>>(row.clone()).unwrap()).collect()
}

#[tokio::test]
async fn parts_of_a_model_answer_elsewhere_as_they_do_here() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(200).await;
    let mut spec = short_job(&dataset);
    spec["model"] = json!({"family": "autoencoder", "settings": {"latent": 2}});
    let id = app.train(&spec).await;
    let artifacts = format!("/v1/models/{id}/artifacts");

    let file = app.get(&format!("{artifacts}/torchscript?part=decoder")).await;
    let disposition = file.headers[header::CONTENT_DISPOSITION].to_str().unwrap().to_owned();
    assert_eq!((file.status.as_u16(), disposition), (200, format!("attachment; filename=\"{id}-decoder.pt\"")));
    let decoder = CModule::load_data(&mut &file.body[..]).unwrap();
    let codes = json!([[0.5, -1.0], [2.0, 0.25]]);
    let x = Tensor::from_slice(&numbers(&codes)).view([2, 2]);
    let told = Vec::<f32>::try_from(tch::no_grad(|| decoder.forward_ts(&[x])).unwrap().reshape([-1])).unwrap();
    let served = app.post(&format!("/v1/models/{id}/decode"), &json!({"codes": codes})).await.expect(200);
    for (told, served) in told.iter().zip(numbers(&served["rows"])) {
        assert!((told - served).abs() < 1e-4, "{told} is not {served}");
    }

    // The encoder is what is given when nothing is said, and the command makes the same file.
    let file = app.get(&format!("{artifacts}/onnx")).await;
    assert_eq!(file.headers[header::CONTENT_DISPOSITION], format!("attachment; filename=\"{id}-encoder.onnx\""));
    assert_eq!(app.get(&format!("{artifacts}/onnx?part=encoder")).await.body, file.body);
    let own = app.get(&format!("{artifacts}/safetensors")).await.body;
    let directory = tempfile::tempdir().unwrap();
    let (model, made) = (directory.path().join("model.safetensors"), directory.path().join("made.onnx"));
    std::fs::write(&model, own).unwrap();
    let run = |arguments: &[&str]| {
        Command::new(EXECUTABLE).arg("export").arg(&model).args(arguments).arg("--output").arg(&made).output().unwrap()
    };
    assert!(run(&["--form", "onnx"]).status.success());
    assert_eq!(std::fs::read(&made).unwrap(), file.body);
    let refused = run(&["--part", "predictor"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("learned no labels"), "{words}");

    // A caller that has a file is not sent it again.
    let tag = file.headers[header::ETAG].to_str().unwrap();
    let again = axum::http::Request::get(format!("{artifacts}/onnx")).header(header::IF_NONE_MATCH, tag);
    assert_eq!(app.send(again.body(axum::body::Body::empty()).unwrap()).await.status, 304);
    app.stop().await;
}

#[tokio::test]
async fn parts_that_are_not_there_are_refused_with_those_that_are() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(60).await;
    let id = app.train(&short_job(&dataset)).await;
    for form in ["onnx", "torchscript"] {
        let address = format!("/v1/models/{id}/artifacts/{form}");
        let answer = app.get(&format!("{address}?part=head")).await;
        answer.refuses(422, "invalid_request", &["?part"]);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        for part in ["encoder", "decoder", "reconstructor", "scorer", "predictor"] {
            assert!(text.contains(part), "{text}");
        }
        app.get(&format!("{address}?part=predictor")).await.refuses(422, "invalid_request", &[]);
        app.get(&format!("{address}?parts=encoder")).await.refuses(422, "invalid_request", &["?parts"]);
        app.get(&format!("/v1/models/mdl_0198c5d2a1b37e6f9a1b2c3d4e5f6071/artifacts/{form}")).await.refuses(
            404,
            "not_found",
            &[],
        );
    }
    app.stop().await;
}
