//! Labels are told by models that learned them, and by no others.

use latente::data::npy::matrix;
use latente::models::{Labels, ModelSpec};
use serde_json::{Value, json};

use super::{close, pixels, rows, trained_by};
use crate::support::{TestApp, npy};

/// Families that learn labels.
fn families() -> impl Iterator<Item = &'static str> {
    let learns = |family: &&str| ModelSpec::default_of(family).unwrap().labels() != Labels::Unused;
    ModelSpec::FAMILIES.iter().copied().filter(learns)
}

#[tokio::test]
async fn a_model_without_labels_says_which_families_learn_some() {
    let app = TestApp::start().await;
    let (dataset, model) = trained_by(&app, "vae").await;
    let pixels = pixels(&app, &dataset, 1).await;
    let details = [
        app.get(&format!("{model}/predict?dataset={dataset}")).await.refuses(422, "invalid_request", &[]),
        app.post(&format!("{model}/predict"), &json!({"rows": pixels})).await.refuses(422, "invalid_request", &[]),
    ];
    for detail in details {
        assert!(detail.contains("learned no labels") && detail.contains("vae"), "{detail}");
        for family in families() {
            assert!(detail.contains(family), "{family} is not named: {detail}");
        }
    }
    app.post(&format!("{model}/predict"), &json!({"rows": [[1]]})).await.refuses(422, "invalid_request", &["/rows/0"]);
    app.stop().await;
}

#[tokio::test]
async fn a_family_that_learns_labels_says_where_there_were_none() {
    let app = TestApp::start().await;
    let unlabelled = app.upload("", "a,b\n1,2\n3,4\n5,7\n8,1\n").await["id"].as_str().unwrap().to_owned();
    for family in families() {
        let spec = json!({"dataset": unlabelled, "model": {"family": family}, "training": {"epochs": 1}});
        let answer = app.post("/v1/jobs", &spec).await;
        if ModelSpec::default_of(family).unwrap().labels() == Labels::Required {
            answer.refuses(422, "invalid_request", &["/dataset"]);
            continue;
        }
        let job = app.wait(answer.expect(202)["id"].as_str().unwrap()).await;
        let path = format!("/v1/models/{}/predict?x=1,2", job["model_id"].as_str().unwrap());
        let detail = app.get(&path).await.refuses(422, "invalid_request", &[]);
        assert!(detail.contains("no label column"), "{detail}");
    }
    app.stop().await;
}

#[tokio::test]
async fn labels_are_told_with_how_sure_the_model_is() {
    let app = TestApp::start().await;
    for family in families() {
        let (dataset, model) = trained_by(&app, family).await;
        let by_reference = app.get(&format!("{model}/predict?dataset={dataset}&rows=0-2")).await.expect(200);
        assert_eq!(by_reference["labels"], json!(["digit"]), "{family}");
        let (told, spread) = (rows(&by_reference["predictions"]), rows(&by_reference["spread"]));
        assert!(told.len() == 3 && told.iter().all(|row| row.len() == 1 && (0.0..=9.0).contains(&row[0])), "{told:?}");
        assert!(spread.len() == 3 && spread.concat().iter().all(|other| (0.0..1.0).contains(other)), "{spread:?}");
        let pixels = pixels(&app, &dataset, 3).await;
        let post = async |body: Value| app.post(&format!("{model}/predict"), &body).await;
        assert_eq!(by_reference, post(json!({"rows": pixels})).await.expect(200));
        let values: Vec<f32> = pixels.concat().into_iter().map(|value| value as f32).collect();
        let path = format!("{model}/predict?format=npy");
        let answer = app.post_as(&path, "application/x-npy", npy(3, 64, &values)).await;
        let (count, width, predictions) = matrix(&answer.body, 100).unwrap();
        assert_eq!((count, width), (3, 1));
        close(&json!(predictions.chunks(1).collect::<Vec<_>>()), &by_reference["predictions"]);

        app.get_as(&format!("{model}/predict?dataset={dataset}"), "image/png").await.refuses(
            406,
            "not_acceptable",
            &[],
        );
        post(json!({"rows": [vec![Value::Null; 64]]})).await.expect(422);
        post(json!({"rows": pixels, "seed": 1})).await.refuses(422, "invalid_request", &["/seed"]);
        app.get(&format!("{model}/predict?dataset={dataset}&seed=1")).await.refuses(422, "invalid_request", &["?seed"]);
    }
    app.stop().await;
}
