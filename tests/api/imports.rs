//! A model that was trained on one server answers the same on another, and a file that lies is refused.

use serde_json::{Value, json};

use crate::support::{Answer, TestApp, short_job};

const TABLE: &str = "size,kind,weight,grade\n";

/// A small table with a category, gaps and a label.
fn table() -> String {
    let row = |n: usize| {
        let kind = ["red", "green", "blue"][n % 3];
        let weight = if n.is_multiple_of(7) { String::new() } else { format!("{:.2}", 1.0 + (n % 11) as f32 * 0.31) };
        format!("{:.1},{kind},{weight},{}\n", (n % 13) as f32 * 0.7 - 2.0, n % 2)
    };
    (0..120).fold(TABLE.to_owned(), |text, n| text + &row(n))
}

async fn import(app: &TestApp, query: &str, file: &[u8]) -> Answer {
    app.post_as(&format!("/v1/models{query}"), "application/octet-stream", file.to_vec()).await
}

#[tokio::test]
async fn an_imported_model_answers_the_same_bytes_as_where_it_was_trained() {
    let (here, there) = (TestApp::start().await, TestApp::start().await);
    let dataset = here.upload("?label=grade&kind=grade:categorical", table()).await["id"].as_str().unwrap().to_owned();
    // A prior, a fitted sampler, a Markov chain, labels.
    for family in ["vae", "autoencoder", "gsn", "feed_forward", "helmholtz", "deep_gp", "adversarial"] {
        let mut spec = short_job(&dataset);
        spec["model"] = json!({"family": family, "settings": {"latent": 3}});
        spec["training"]["epochs"] = json!(2);
        let id = here.train(&spec).await;
        let file = here.get(&format!("/v1/models/{id}/artifacts/safetensors")).await.body;
        let answer = import(&there, &format!("?name={family}"), &file).await;
        let imported = answer.expect(201);
        let new = imported["id"].as_str().unwrap();
        assert_eq!(answer.headers["location"], format!("/v1/models/{new}").as_str());
        assert_eq!((imported["name"].as_str(), imported["version"].as_u64()), (Some(family), Some(1)));
        assert_eq!((&imported["job_id"], &imported["dataset_id"]), (&Value::Null, &Value::Null));
        let original = here.get(&format!("/v1/models/{id}")).await.expect(200);
        assert_eq!((&imported["columns"], &imported["spec"]), (&original["columns"], &original["spec"]));
        let back = there.get(&format!("/v1/models/{family}/artifacts/safetensors")).await;
        assert!(back.body == file, "{family}: the file comes back as it was");

        let rows = json!({"rows": [[0.4, "red", 2.0], {"size": -1, "kind": "blue", "weight": null}]});
        let asks = [
            ("encode", rows.clone()),
            ("reconstruct", rows.clone()),
            ("impute", rows.clone()),
            ("score", json!({"rows": rows["rows"], "contributions": true, "seed": 3})),
            ("decode", json!({"codes": [[0, 1, 0], [1, 0, 1]]})),
            ("sample", json!({"n": 5, "seed": 11})),
            ("predict", rows),
        ];
        for (question, body) in asks {
            let first = here.post(&format!("/v1/models/{id}/{question}"), &body).await;
            let second = there.post(&format!("/v1/models/{family}/{question}"), &body).await;
            assert_eq!(first.status, second.status, "{family} {question}");
            if question == "predict" && first.status == 422 {
                continue;
            }
            assert_eq!(first.status, 200, "{family} {question}: {}", String::from_utf8_lossy(&first.body));
            assert!(first.body == second.body, "{family} answers {question} otherwise");
        }
    }
    let again =
        here.get("/v1/models?family=vae&limit=1").await.expect(200)["data"][0]["id"].as_str().unwrap().to_owned();
    let file = here.get(&format!("/v1/models/{again}/artifacts/safetensors")).await.body;
    assert_eq!(import(&there, "?name=vae", &file).await.expect(201)["version"], 2);
    let card = there.get("/v1/models/vae:2/card").await.expect(200);
    assert_eq!((&card["training"], &card["lineage"]["job_id"]), (&Value::Null, &Value::Null));
    assert!(card["calibration"]["rows"].as_u64().unwrap() > 0);
    here.stop().await;
    there.stop().await;
}

/// A model file whose header, as JSON, is changed.
fn changed(file: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    rewritten(file, |start| {
        let mut header: Value = serde_json::from_str(start["__metadata__"]["latente"].as_str().unwrap()).unwrap();
        change(&mut header);
        start["__metadata__"]["latente"] = json!(header.to_string());
    })
}

/// A safetensors file whose start is changed.
fn rewritten(file: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut start: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    change(&mut start);
    let start = start.to_string();
    [&(start.len() as u64).to_le_bytes()[..], start.as_bytes(), &file[8 + length..]].concat()
}

#[tokio::test]
async fn a_file_that_is_no_model_or_lies_is_refused_with_what_is_wrong() {
    let app = TestApp::start().await;
    let dataset = app.upload("?label=grade", table()).await["id"].as_str().unwrap().to_owned();
    let id = app.train(&short_job(&dataset)).await;
    let file = app.get(&format!("/v1/models/{id}/artifacts/safetensors")).await.body;
    let check = async |body: &[u8], pointers: &[&str]| {
        let answer = import(&app, "", body).await;
        if pointers.is_empty() {
            assert_eq!(answer.expect(422)["code"], "invalid_model");
        } else {
            answer.refuses(422, "invalid_model", pointers);
        }
    };
    check(b"", &["/"]).await;
    check(b"no model", &["/"]).await;
    check(&file[..file.len() - 1], &["/"]).await;
    check(&file[..100], &["/"]).await;
    check(&[&file[..], b"more"].concat(), &["/"]).await;
    check(&[&u64::MAX.to_le_bytes()[..], &file[8..]].concat(), &["/"]).await;
    check(&rewritten(&file, |start| start["__metadata__"] = json!({"format": "pt"})), &["/"]).await;
    check(&changed(&file, |header| header["version"] = json!(1)), &["/header"]).await;
    check(&changed(&file, |header| header["format"] = json!("x")), &["/header"]).await;
    check(&changed(&file, |header| header["spec"]["model"]["family"] = json!("vea")), &["/header"]).await;
    check(
        &changed(&file, |header| header["spec"]["model"]["settings"]["latent"] = json!(0)),
        &["/header/spec/model/settings/latent"],
    )
    .await;
    check(&changed(&file, |header| header["spec"]["model"]["settings"]["latent"] = json!(4)), &[]).await;
    check(&changed(&file, |header| header["spec"]["network"]["hidden"] = json!([65536, 65536])), &["/header/spec"])
        .await;
    check(&changed(&file, |header| header["shape"]["width"] = json!(4)), &["/header/columns", "/header/preparation"])
        .await;
    check(
        &changed(&file, |header| header["shape"]["width"] = json!(0)),
        &["/header/shape/width", "/header/columns", "/header/preparation"],
    )
    .await;
    check(
        &changed(&file, |header| header["shape"]["image"] = json!({"channels": 3, "height": 4, "width": 9})),
        &["/header/shape/image"],
    )
    .await;
    check(
        &changed(&file, |header| header["columns"][1]["name"] = json!("size")),
        &["/header/columns/1", "/header/preparation/1"],
    )
    .await;
    check(&changed(&file, |header| header["columns"][0]["profile"] = Value::Null), &["/header/columns/0"]).await;
    check(&changed(&file, |header| header["preparation"][0]["linear"]["scale"] = json!(0)), &["/header/preparation/0"])
        .await;
    check(
        &changed(&file, |header| header["preparation"][1] = json!({"one_hot": {"levels": []}})),
        &["/header/preparation/1"],
    )
    .await;
    check(&changed(&file, |header| header["calibration"]["rows"] = json!(0)), &["/header/calibration"]).await;
    // Tensors: renamed, of another type or shape, not finite.
    let rename = |start: &mut Value| {
        let tensors = start.as_object_mut().unwrap();
        let name = tensors.keys().find(|name| name.ends_with(".weight")).unwrap().clone();
        let tensor = tensors.remove(&name).unwrap();
        tensors.insert("other".to_owned(), tensor);
    };
    let detail = import(&app, "", &rewritten(&file, rename)).await.expect(422);
    let codes: Vec<&str> =
        detail["errors"].as_array().unwrap().iter().map(|fault| fault["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["missing", "unknown_tensor"], "{detail}");
    let retype = |start: &mut Value| {
        let tensor = start.as_object_mut().unwrap().values_mut().find(|tensor| tensor["dtype"] == "F32").unwrap();
        tensor["dtype"] = json!("I32");
    };
    assert_eq!(import(&app, "", &rewritten(&file, retype)).await.expect(422)["errors"][0]["code"], "wrong_type");
    let reshape = |start: &mut Value| {
        let tensor = start
            .as_object_mut()
            .unwrap()
            .values_mut()
            .find(|tensor| tensor["shape"].as_array().is_some_and(|shape| shape.len() == 2 && shape[0] != shape[1]))
            .unwrap();
        tensor["shape"].as_array_mut().unwrap().reverse();
    };
    assert_eq!(import(&app, "", &rewritten(&file, reshape)).await.expect(422)["errors"][0]["code"], "wrong_shape");
    let mut infinite = file.clone();
    let end = infinite.len();
    infinite[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    assert_eq!(import(&app, "", &infinite).await.expect(422)["errors"][0]["code"], "not_finite");

    import(&app, "", &vec![0; 5 << 20]).await.refuses(413, "too_large", &[]);
    import(&app, "?name=No", &file).await.refuses(422, "invalid_request", &["?name"]);
    import(&app, "?label=x", &file).await.refuses(422, "invalid_request", &["?label"]);
    assert_eq!(app.get("/v1/models").await.expect(200)["data"].as_array().unwrap().len(), 1, "nothing is left behind");
    import(&app, "", &file).await.expect(201);
    app.stop().await;
}

#[tokio::test]
async fn damage_anywhere_is_refused_or_harmless_and_never_an_error_of_the_server() {
    let app = TestApp::start().await;
    let dataset = app.upload("?label=grade", table()).await["id"].as_str().unwrap().to_owned();
    let mut spec = short_job(&dataset);
    spec["network"]["hidden"] = json!([4]);
    let id = app.train(&spec).await;
    let file = app.get(&format!("/v1/models/{id}/artifacts/safetensors")).await.body;
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    for step in 0..160_usize {
        let mut damaged = file.clone();
        // Most of it in the header, where what is said may be changed.
        let place = (step * 7919) % if step % 8 == 0 { file.len() } else { header };
        damaged[place] = b"0917\"{}[,x-e"[step % 12];
        let answer = import(&app, "", &damaged).await;
        if answer.status == 201 {
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            assert_eq!(app.delete(&format!("/v1/models/{id}")).await.status, 204);
        } else {
            assert_eq!(answer.expect(422)["code"], "invalid_model", "at {place}");
        }
    }
    app.stop().await;
}
