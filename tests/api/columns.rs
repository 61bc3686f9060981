//! A file with texts, gaps and numbers goes in as it is, and answers come back in its own words.

use serde_json::{Value, json};

use crate::support::TestApp;

fn penguins() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/penguins.csv")).unwrap()
}

fn column<'a>(dataset: &'a Value, name: &str) -> &'a Value {
    dataset["columns"].as_array().unwrap().iter().find(|column| column["name"] == name).unwrap()
}

#[tokio::test]
async fn penguins_need_no_preparation_and_samples_are_penguins() {
    let app = TestApp::start().await;
    let dataset = app.upload("?name=penguins", penguins()).await;
    let id = dataset["id"].as_str().unwrap();
    assert_eq!(dataset["rows"], 344);
    let species = column(&dataset, "species");
    assert_eq!(
        (&species["kind"], &species["levels"]),
        (&json!("categorical"), &json!(["Adelie", "Chinstrap", "Gentoo"]))
    );
    assert_eq!(
        (&column(&dataset, "sex")["profile"]["missing"], &column(&dataset, "body_mass_g")["kind"]),
        (&json!(11), &json!("count"))
    );
    assert!(dataset["columns"].as_array().unwrap().iter().all(|column| column["reason"].is_string()));
    let job = json!({"dataset": id, "model": {"family": "vae"}, "training": {"epochs": 60, "seed": 1}});
    let model = format!("/v1/models/{}", app.train(&job).await);
    let sampled = app.get(&format!("{model}/sample?n=64&seed=3")).await.expect(200);
    let rows = sampled["rows"].as_array().unwrap();
    let islands = json!(["Biscoe", "Dream", "Torgersen"]);
    for row in rows {
        let species = row[0].as_str().unwrap();
        assert!(["Adelie", "Chinstrap", "Gentoo"].contains(&species), "{row}");
        assert!(
            islands.as_array().unwrap().contains(&row[1]) && ["male", "female"].contains(&row[6].as_str().unwrap())
        );
        for (column, range) in [(2, 25.0..70.0), (3, 10.0..25.0), (4, 150.0..250.0)] {
            assert!(range.contains(&row[column].as_f64().unwrap()), "column {column}: {row}");
        }
    }
    let kinds: std::collections::BTreeSet<&str> = rows.iter().map(|row| row[0].as_str().unwrap()).collect();
    assert!(kinds.len() > 1, "all samples are of {kinds:?}");
    // Rows come by name, with texts and gaps; what the model was not told comes back filled in.
    let row =
        json!({"species": "Gentoo", "bill_length_mm": 47.5, "flipper_length_mm": 217, "island": null, "year": 2008});
    let filled = app.post(&format!("{model}/impute"), &json!({"rows": [row]})).await.expect(200);
    assert_eq!((&filled["rows"][0][0], &filled["rows"][0][2]), (&json!("Gentoo"), &json!(47.5)));
    assert!(islands.as_array().unwrap().contains(&filled["rows"][0][1]), "{filled}");
    let inline = app.get(&format!("{model}/encode?x=Adelie,Torgersen,39.1,18.7,181,3750,male,2007")).await.expect(200);
    let by_reference = app.get(&format!("{model}/encode?dataset={id}&rows=0")).await.expect(200);
    assert_eq!(inline["codes"].as_array().unwrap().len(), by_reference["codes"].as_array().unwrap().len());
    app.stop().await;
}

#[tokio::test]
async fn texts_that_a_model_does_not_know_are_refused_with_what_it_knows() {
    let app = TestApp::start().await;
    let dataset = app.upload("", penguins()).await;
    let job = json!({"dataset": dataset["id"], "model": {"family": "autoencoder"}, "training": {"epochs": 1}});
    let model = format!("/v1/models/{}", app.train(&job).await);
    let row = |species: Value, sex: Value| json!({"rows": [[species, "Dream", 40, 18, 190, 3800, sex, 2008]]});
    let path = format!("{model}/encode");
    app.post(&path, &row(json!("Adelie"), json!("male"))).await.expect(200);
    let refused = app.post(&path, &row(json!("Emperor"), json!(1))).await;
    refused.refuses(422, "invalid_request", &["/rows/0/0", "/rows/0/6"]);
    let detail = refused.json()["errors"][0]["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("Emperor") && detail.contains("Adelie, Chinstrap, Gentoo"), "{detail}");
    let refused = app.post(&path, &json!({"rows": [["Adelie", "Dream", "long", 18, 190, 3800, "male", 2008]]})).await;
    refused.refuses(422, "invalid_request", &["/rows/0/2"]);
    app.get(&format!("{model}/encode?x=Emperor,Dream,40,18,190,3800,male,2008")).await.refuses(
        422,
        "invalid_request",
        &["?x"],
    );
    app.stop().await;
}

#[tokio::test]
async fn roles_and_kinds_are_said_at_upload_and_changed_afterwards() {
    let app = TestApp::start().await;
    let text = "id,size,grade,x,y\n7,small,1,0.5,1\n3,large,2,1.5,0\n9,small,3,2.5,1\n";
    let dataset = app.upload("?id=id&label=y&kind=grade:ordinal&levels=size:small,large", text).await;
    let path = format!("/v1/datasets/{}", dataset["id"].as_str().unwrap());
    assert_eq!(
        (&column(&dataset, "id")["role"], &column(&dataset, "size")["levels"]),
        (&json!("id"), &json!(["small", "large"]))
    );
    assert_eq!(column(&dataset, "grade")["kind"], "ordinal");
    let change = json!({"name": "graded", "columns": {"grade": {"role": "label", "kind": "categorical"}, "y": {"role": "ignore"}}});
    let changed = app.patch(&path, &change).await.expect(200);
    assert_eq!(changed["name"], "graded");
    assert_eq!(
        (&column(&changed, "grade")["role"], &column(&changed, "y")["role"]),
        (&json!("label"), &json!("ignore"))
    );
    assert_eq!(app.get(&path).await.expect(200), changed);
    let rows = app.get(&format!("{path}/rows?limit=1")).await.expect(200);
    assert_eq!(rows["rows"], json!([[7.0, "small", 1.0, 0.5, 1.0]]));
    let wrong = json!({"columns": {"x": {"kind": "count"}, "z": {"role": "id"}, "size": {"kind": "real"}}});
    app.patch(&path, &wrong).await.refuses(
        422,
        "invalid_request",
        &["/columns/size/kind", "/columns/x/kind", "/columns/z"],
    );
    app.patch(&path, &json!({"colour": 1})).await.refuses(422, "invalid_request", &["/colour"]);
    app.patch(&path, &json!({"shape": "8x8"})).await.refuses(422, "invalid_request", &["/image"]);
    for (query, pointer) in [
        ("?kind=x:text", "?kind"),
        ("?levels=size:a,a", "?levels"),
        ("?delimiter=ab", "?delimiter"),
        ("?decimal=x", "?decimal"),
        ("?resize=9", "?resize"),
    ] {
        app.post_as(&format!("/v1/datasets{query}"), "text/csv", text).await.refuses(
            422,
            "invalid_request",
            &[pointer],
        );
    }
    app.post_as("/v1/datasets?kind=x:count", "text/csv", text).await.refuses(422, "invalid_dataset", &["?kind"]);
    assert_eq!(app.get("/v1/datasets").await.expect(200)["data"].as_array().unwrap().len(), 1);
    app.stop().await;
}

#[tokio::test]
async fn a_dataset_is_looked_at_closely() {
    let app = TestApp::start().await;
    let dataset = app.upload("?label=species", penguins()).await;
    let path = format!("/v1/datasets/{}", dataset["id"].as_str().unwrap());
    let profile = app.get(&format!("{path}/profile")).await.expect(200);
    let of = |name: &str| {
        profile["columns"].as_array().unwrap().iter().find(|column| column["name"] == name).unwrap().clone()
    };
    assert_eq!(of("species")["levels"][0], json!({"level": "Adelie", "count": 152}));
    // pandas: penguins.flipper_length_mm.quantile(.5) is 197, and its correlation with body mass .871202.
    let flippers = of("flipper_length_mm");
    assert_eq!(flippers["quantiles"]["p50"], 197.0);
    assert_eq!(flippers["correlations"][0]["column"], "body_mass_g");
    assert!((flippers["correlations"][0]["r"].as_f64().unwrap() - 0.871_202).abs() < 1e-5);
    assert!((flippers["missing_share"].as_f64().unwrap() - 2.0 / 344.0).abs() < 1e-12);
    app.get(&format!("{path}/picture")).await.refuses(406, "not_acceptable", &[]);

    let digits = app.upload_digits(200).await;
    for query in ["", "?of=mean", "?of=sheet&n=16"] {
        let answer = app.get(&format!("/v1/datasets/{digits}/picture{query}")).await;
        assert_eq!((answer.status, &answer.body[1..4]), (200.try_into().unwrap(), b"PNG".as_slice()), "{query}");
    }
    app.get(&format!("/v1/datasets/{digits}/picture?n=0")).await.refuses(422, "invalid_request", &["?n"]);
    app.stop().await;
}

#[tokio::test]
async fn new_rows_have_what_is_given_and_the_rest_goes_with_it() {
    let app = TestApp::start().await;
    let dataset = app.upload("?name=penguins", penguins()).await;
    let job = json!({"dataset": dataset["id"], "model": {"family": "vae"}, "training": {"epochs": 120, "seed": 1}});
    let model = format!("/v1/models/{}", app.train(&job).await);
    let post = async |body: Value| app.post(&format!("{model}/sample"), &body).await;
    // Of the penguins of this file only Adelies live on all three islands, Gentoos on Biscoe, Chinstraps on Dream; and Gentoos weigh
    // some 5,080 g, the others 3,700 g.
    let with = async |species: &str| {
        let answer = post(json!({"n": 200, "seed": 5, "draw": true, "given": {"species": species, "sex": null}}))
            .await
            .expect(200);
        let rows = answer["rows"].as_array().unwrap().clone();
        assert!(rows.len() == 200 && rows.iter().all(|row| row[0] == species), "{rows:?}");
        let effective = answer["effective_codes"].as_f64().unwrap();
        assert!(effective > 200.0 && effective < 4_096.0, "{effective}");
        let mass: f64 = rows.iter().map(|row| row[5].as_f64().unwrap()).sum::<f64>() / 200.0;
        let sexes = rows.iter().filter(|row| row[6] == "female").count();
        assert!((40..160).contains(&sexes), "both sexes go with {species}, not {sexes} females of 200");
        (mass, rows.iter().filter(|row| row[1] == "Biscoe").count())
    };
    let ((gentoo, on_biscoe), (chinstrap, not_there)) = (with("Gentoo").await, with("Chinstrap").await);
    assert!(gentoo > 4_500.0 && chinstrap < 4_300.0, "{gentoo} {chinstrap}");
    assert!(on_biscoe > 160 && not_there < 80, "{on_biscoe} of 200 Gentoos and {not_there} Chinstraps live on Biscoe");

    // The query says the same, and numbers are held as they were given.
    let get = async |given: &str| {
        let given = given.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
        app.get(&format!("{model}/sample?n=3&seed=2&given={given}")).await
    };
    let found = get(r#"{"species":"Gentoo","bill_length_mm":47.3}"#).await.expect(200);
    assert_eq!(
        found,
        post(json!({"n": 3, "seed": 2, "given": {"species": "Gentoo", "bill_length_mm": 47.3}})).await.expect(200)
    );
    assert!(found["rows"].as_array().unwrap().iter().all(|row| row[2] == 47.3 && row[0] == "Gentoo"), "{found}");
    assert!(post(json!({"n": 3, "seed": 2})).await.expect(200).get("effective_codes").is_none());

    post(json!({"given": {"species": "Emperor"}})).await.refuses(422, "invalid_request", &["/given/species"]);
    post(json!({"given": {"wings": 2}})).await.refuses(422, "invalid_request", &["/given/wings"]);
    post(json!({"given": {"species": null}})).await.refuses(422, "invalid_request", &["/given"]);
    post(json!({"given": 3})).await.refuses(422, "invalid_request", &["/given"]);
    let detail = get(r#"{"bill_length_mm":"long"}"#).await.refuses(422, "invalid_request", &["?given/bill_length_mm"]);
    assert!(detail.contains("?given/bill_length_mm is the text `long`"), "{detail}");
    get("Gentoo").await.refuses(422, "invalid_request", &["?given"]);
    app.stop().await;
}
