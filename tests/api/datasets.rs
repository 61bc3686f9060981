//! Datasets come in, are described, and go.

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::json;

use crate::support::{TestApp, digits, npy, short_job};

#[tokio::test]
async fn a_csv_file_becomes_a_dataset_with_a_profile() {
    let app = TestApp::start().await;
    let answer = app
        .post_as("/v1/datasets?name=flowers&label=kind", "text/csv", "length,width,kind\n1.5,10,0\n2.5,,1\n3.5,30,1\n")
        .await;
    let dataset = answer.expect(201);
    let id = dataset["id"].as_str().unwrap();
    assert_eq!(answer.headers[header::LOCATION], format!("/v1/datasets/{id}").as_str());
    assert_eq!(
        (dataset["name"].as_str(), dataset["rows"].as_u64(), dataset["status"].as_str()),
        (Some("flowers"), Some(3), Some("ready"))
    );
    let columns = dataset["columns"].as_array().unwrap();
    assert_eq!(columns[0]["kind"], "positive");
    assert_eq!(
        columns[0]["profile"],
        json!({
            "minimum": 1.5, "maximum": 3.5, "mean": 2.5, "deviation": (2.0_f64 / 3.0).sqrt(), "missing": 0, "distinct": 3, "distinct_is_exact": true, "whole": false
        })
    );
    assert_eq!((columns[1]["kind"].as_str(), &columns[1]["profile"]["missing"]), (Some("count"), &json!(1)));
    assert_eq!((columns[2]["role"].as_str(), columns[2]["kind"].as_str()), (Some("label"), Some("binary")));
    assert_eq!(app.get(&format!("/v1/datasets/{id}")).await.expect(200), dataset);
    let rows = app.get(&format!("/v1/datasets/{id}/rows?offset=1&limit=1")).await.expect(200);
    assert_eq!(
        rows,
        json!({"columns": ["length", "width", "kind"], "rows": [[2.5, null, 1.0]], "offset": 1, "total": 3})
    );
    app.stop().await;
}

#[tokio::test]
async fn gzip_multipart_and_numpy_are_read_too() {
    let app = TestApp::start().await;
    let gzip = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/demo/digits.csv.gz")).unwrap();
    let whole = app.upload("?label=digit&shape=8x8", gzip).await;
    assert_eq!((whole["rows"].as_u64(), whole["image"]["height"].as_u64()), (Some(1797), Some(8)));

    let form = "--X\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n--X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\n\r\na,b\n1,2\n3,4\n\r\n--X--\r\n";
    let answer = app.post_as("/v1/datasets", "multipart/form-data; boundary=X", form).await;
    assert_eq!(answer.expect(201)["rows"], 2);

    let array = app.upload("?name=array", npy(2, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).await;
    assert_eq!((array["format"].as_str(), array["columns"][2]["name"].as_str()), (Some("npy"), Some("c2")));
    let path = format!("/v1/datasets/{}/rows", array["id"].as_str().unwrap());
    let answer = app.get_as(&path, "application/x-npy").await;
    let (rows, width, values) = latente::data::npy::matrix(&answer.body, 100).unwrap();
    assert_eq!((rows, width, values), (2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    app.stop().await;
}

#[tokio::test]
async fn lists_go_from_the_newest_page_by_page() {
    let app = TestApp::start().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(app.upload(&format!("?name=set{number}"), "a\n1\n2\n").await["id"].clone());
    }
    ids.reverse();
    let first = app.get("/v1/datasets?limit=2").await.expect(200);
    assert_eq!((&first["data"][0]["id"], &first["last_id"], &first["has_more"]), (&ids[0], &ids[1], &json!(true)));
    let last = app.get(&format!("/v1/datasets?limit=3&after={}", ids[1].as_str().unwrap())).await.expect(200);
    assert_eq!((last["data"].as_array().unwrap().len(), &last["has_more"]), (3, &json!(false)));
    app.stop().await;
}

#[tokio::test]
async fn deleting_frees_the_rows_but_not_under_a_job() {
    let app = TestApp::start().await;
    let id = app.upload_digits(200).await;
    assert_eq!(app.files("datasets"), std::slice::from_ref(&id));
    let mut job = short_job(&id);
    job["training"]["epochs"] = json!(100_000);
    job["training"]["early_stopping"] = json!({"patience": 0});
    let job = app.submit(&job).await;
    app.delete(&format!("/v1/datasets/{id}")).await.refuses(409, "dataset_in_use", &[]);
    app.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await.expect(202);
    assert_eq!(app.wait(&job).await["status"], "cancelled");
    assert_eq!(app.delete(&format!("/v1/datasets/{id}")).await.status, 204);
    assert_eq!(app.files("datasets"), Vec::<String>::new());
    app.get(&format!("/v1/datasets/{id}")).await.refuses(404, "not_found", &[]);
    app.delete(&format!("/v1/datasets/{id}")).await.refuses(404, "not_found", &[]);
    app.post("/v1/jobs", &short_job(&id)).await.refuses(422, "invalid_request", &["/dataset"]);
    app.stop().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_it_says_so_or_not() {
    let app = TestApp::start().await;
    let big = "1,2\n".repeat((4 << 20) / 4 + 10);
    let declared =
        Request::post("/v1/datasets").header(header::CONTENT_LENGTH, big.len()).body(Body::from(big.clone())).unwrap();
    app.send(declared).await.refuses(413, "too_large", &[]);
    let chunks: Vec<Result<_, std::io::Error>> =
        big.as_bytes().chunks(1 << 16).map(|chunk| Ok(chunk.to_vec())).collect();
    let streamed = Request::post("/v1/datasets").body(Body::from_stream(futures_util::stream::iter(chunks))).unwrap();
    app.send(streamed).await.refuses(413, "too_large", &[]);
    assert_eq!(app.files("datasets"), Vec::<String>::new());
    app.stop().await;
}

#[tokio::test]
async fn a_caller_who_leaves_in_the_middle_leaves_nothing_behind() {
    let app = TestApp::start().await;
    let broken: Vec<Result<Vec<u8>, std::io::Error>> =
        vec![Ok(digits(50).into_bytes()), Err(std::io::Error::other("gone"))];
    let request = Request::post("/v1/datasets").body(Body::from_stream(futures_util::stream::iter(broken))).unwrap();
    app.send(request).await.refuses(422, "invalid_request", &[]);
    assert_eq!(app.get("/v1/datasets").await.expect(200)["data"], json!([]));
    assert_eq!(app.files("datasets"), Vec::<String>::new());
    app.stop().await;
}
