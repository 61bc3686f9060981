//! The API document: it is what the code is, and what the code takes fits it.

use latente::domain::id::DatasetId;
use latente::models::ModelSpec;
use latente::training::spec::TrainSpec;
use serde_json::{Value, json};

use crate::support::{TestApp, short_job};

fn document() -> Value {
    serde_json::to_value(latente::http::document()).unwrap()
}

/// A validator for one schema of the document.
fn validator(name: &str) -> jsonschema::Validator {
    let mut schema = document();
    schema["$ref"] = json!(format!("#/components/schemas/{name}"));
    jsonschema::validator_for(&schema).unwrap()
}

#[track_caller]
fn fits(validator: &jsonschema::Validator, value: &Value) {
    let faults: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(faults.is_empty(), "{faults:#?}\n{value:#}");
}

/// `UPDATE_SNAPSHOT=1` writes the snapshot anew; a change of it is a change of what clients rely on.
#[test]
fn the_document_is_the_one_that_was_agreed_on() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/openapi.json");
    let mut current = serde_json::to_string_pretty(&document()).unwrap();
    current.push('\n');
    if std::env::var_os("UPDATE_SNAPSHOT").is_some() {
        std::fs::write(path, &current).unwrap();
    }
    let agreed = std::fs::read_to_string(path).unwrap_or_default();
    let differs = current.lines().zip(agreed.lines()).find(|(now, then)| now != then);
    assert!(
        current == agreed,
        "the API document changed (run with UPDATE_SNAPSHOT=1 if that is meant); first difference: {differs:?}"
    );
}

#[test]
fn the_defaults_of_every_family_fit_the_published_spec() {
    let validator = validator("TrainSpec");
    for family in ModelSpec::FAMILIES {
        let whole =
            serde_json::to_value(TrainSpec::new(DatasetId::new(), ModelSpec::default_of(family).unwrap())).unwrap();
        fits(&validator, &whole);
        fits(&validator, &json!({"dataset": DatasetId::new(), "model": {"family": family}}));
        let mut wrong = whole;
        wrong["model"]["settings"]["no_such_setting"] = json!(1);
        assert!(!validator.is_valid(&wrong), "{family}: the published spec takes unknown settings");
    }
    assert!(!validator.is_valid(&json!({"dataset": DatasetId::new(), "model": {"family": "none"}})));
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
    }
}

#[tokio::test]
async fn answers_fit_their_published_schemas() {
    let app = TestApp::start().await;
    let dataset = app.upload_digits(100).await;
    fits(&validator("DatasetView"), &app.get(&format!("/v1/datasets/{dataset}")).await.expect(200));
    let job = app.submit(&short_job(&dataset)).await;
    fits(&validator("JobView"), &app.get(&format!("/v1/jobs/{job}")).await.expect(200));
    let done = app.wait(&job).await;
    fits(&validator("JobView"), &done);
    fits(&validator("MetricsView"), &app.get(&format!("/v1/jobs/{job}/metrics")).await.expect(200));
    fits(&validator("EventsView"), &app.get(&format!("/v1/jobs/{job}/events")).await.expect(200));
    let model = done["model_id"].as_str().unwrap();
    fits(&validator("ModelView"), &app.get(&format!("/v1/models/{model}")).await.expect(200));
    for (question, view) in [
        (format!("encode?dataset={dataset}"), "CodesView"),
        ("decode?x=0,0,0&spread=true".to_owned(), "DecodedView"),
        (format!("reconstruct?dataset={dataset}"), "ReconstructionView"),
        (format!("impute?dataset={dataset}"), "RowsView"),
        ("sample?n=2".to_owned(), "SampledView"),
    ] {
        fits(&validator(view), &app.get(&format!("/v1/models/{model}/{question}")).await.expect(200));
    }
    fits(&validator("ImputeBody"), &json!({"rows": [[1, null], {"a": null, "b": 2}], "rounds": 3, "seed": 1}));
    assert!(!validator("ImputeBody").is_valid(&json!({"rows": [[[1]]]})), "cells are numbers, texts or null");
    let sweep = json!({"base": short_job(&dataset), "search": {"kind": "asha", "trials": 2}, "space": {"/training/seed": {"int": [0, 9]}}});
    fits(&validator("SweepSpec"), &sweep);
    let sweep = app.post("/v1/sweeps", &sweep).await.expect(202);
    fits(&validator("SweepTrialsView"), &sweep);
    let path = format!("/v1/sweeps/{}", sweep["id"].as_str().unwrap());
    fits(&validator("SweepTrialsView"), &app.get(&format!("{path}?wait=60s")).await.expect(200));
    fits(&validator("List_SweepView"), &app.get("/v1/sweeps").await.expect(200));
    fits(&validator("FamiliesView"), &app.get("/v1/families").await.expect(200));
    fits(&validator("PresetsView"), &app.get("/v1/presets").await.expect(200));
    fits(&validator("ReadyView"), &app.get("/readyz").await.expect(200));
    fits(&validator("VersionView"), &app.get("/version").await.expect(200));
    fits(&validator("Problem"), &app.get("/v1/jobs/x").await.expect(404));
    app.stop().await;
}

#[tokio::test]
async fn the_document_and_its_pages_are_served_from_the_executable() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/openapi.json").await.expect(200), document());
    assert_eq!(app.get("/").await.status, 307);
    let page = app.get("/docs/").await;
    assert_eq!(page.status, 200);
    let text = String::from_utf8(page.body).unwrap();
    assert!(
        text.contains("swagger-ui") && !text.contains("http://") && !text.contains("https://"),
        "the page fetches from elsewhere: {text}"
    );
    assert_eq!(app.get("/docs/swagger-ui-bundle.js").await.status, 200);
    app.stop().await;
}
