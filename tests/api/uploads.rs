//! Files in several requests: what is acknowledged stays, what is not goes on from there.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{Method, Request, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use latente::domain::limits::UPLOADS;
use sha2::{Digest, Sha256};

use crate::support::{Answer, TestApp, change, digits, until};

const PART: &str = "application/offset+octet-stream";

impl TestApp {
    /// A request of the upload protocol.
    async fn tus(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("Tus-Resumable", "1.0.0");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.send(request.body(body.into()).unwrap()).await;
        assert_eq!(answer.headers["tus-resumable"], "1.0.0", "every answer says its version");
        answer
    }

    /// Begins an upload; gives its address.
    async fn begin(&self, bytes: usize, metadata: &str) -> String {
        let length = bytes.to_string();
        let headers = [("Upload-Length", length.as_str()), ("Upload-Metadata", metadata)];
        let answer = self.tus(Method::POST, "/v1/uploads", &headers, "").await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.headers[header::LOCATION].to_str().unwrap().to_owned()
    }

    async fn part(&self, upload: &str, offset: usize, body: impl Into<Body>) -> Answer {
        let offset = offset.to_string();
        self.tus(Method::PATCH, upload, &[("Content-Type", PART), ("Upload-Offset", &offset)], body).await
    }

    /// How much of an upload counts.
    async fn offset(&self, upload: &str) -> u64 {
        offset_of(&self.tus(Method::HEAD, upload, &[], "").await)
    }

    fn held(&self, upload: &str) -> Vec<u8> {
        std::fs::read(self.data().join("uploads").join(id_of(upload))).unwrap()
    }
}

fn offset_of(answer: &Answer) -> u64 {
    answer.headers["upload-offset"].to_str().unwrap().parse().unwrap()
}

fn id_of(upload: &str) -> &str {
    upload.rsplit('/').next().unwrap()
}

/// A body that breaks off after these pieces.
fn broken(pieces: &[&[u8]]) -> Body {
    let mut pieces: Vec<Result<Vec<u8>, std::io::Error>> = pieces.iter().map(|piece| Ok(piece.to_vec())).collect();
    pieces.push(Err(std::io::Error::other("gone")));
    Body::from_stream(futures_util::stream::iter(pieces))
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256 {}", STANDARD.encode(Sha256::digest(bytes)))
}

#[tokio::test]
async fn an_upload_that_was_broken_off_goes_on_and_becomes_a_dataset() {
    let app = TestApp::start().await;
    let file = digits(60).into_bytes();
    let metadata = "filename ZGlnaXRzLmNzdg==,label ZGlnaXQ=,shape OHg4,type dGV4dA=="; // digits.csv, digit, 8x8, text
    let upload = app.begin(file.len(), metadata).await;
    assert_eq!(app.offset(&upload).await, 0);
    app.part(&upload, 0, broken(&[&file[..1000], &file[1000..1500]])).await.refuses(422, "invalid_request", &[]);
    assert_eq!((app.offset(&upload).await, app.held(&upload)), (1500, file[..1500].to_vec()), "what came counts");

    let early = app.post_as(&format!("/v1/datasets?upload={}", id_of(&upload)), "", "").await;
    let told = early.refuses(409, "upload_incomplete", &["?upload"]);
    assert!(told.contains(&format!("1500 of {} bytes", file.len())), "{told}");
    let wrong = app.part(&upload, 1000, file[1000..].to_vec()).await;
    wrong.refuses(409, "wrong_offset", &["Upload-Offset"]);
    let answer = app.part(&upload, 1500, file[1500..].to_vec()).await;
    assert_eq!((answer.status.as_u16(), offset_of(&answer)), (204, file.len() as u64));
    assert!(answer.headers["upload-expires"].to_str().unwrap().ends_with(" GMT"));
    let look = app.tus(Method::HEAD, &upload, &[], "").await;
    assert_eq!(look.headers["upload-length"], file.len().to_string().as_str());
    assert_eq!(look.headers["upload-metadata"], metadata);
    assert_eq!(look.headers[header::CACHE_CONTROL], "no-store");

    // A reading that does not fit leaves the upload for another try.
    let take = format!("/v1/datasets?upload={}", id_of(&upload));
    app.post_as(&format!("{take}&label=colour"), "", "").await.refuses(422, "invalid_dataset", &["?label"]);
    app.post_as(&take, "text/csv", "a\n1\n").await.refuses(422, "invalid_request", &["?upload"]);
    let dataset = app.post_as(&take, "", "").await.expect(201);
    assert_eq!((dataset["name"].as_str(), dataset["rows"].as_u64()), (Some("digits.csv"), Some(60)));
    assert_eq!((dataset["columns"][64]["role"].as_str(), &dataset["image"]["width"]), (Some("label"), &8.into()));
    let ordinary = app.upload_digits(60).await;
    for path in ["/rows?limit=60", "/rows?offset=50"] {
        let rows = async |id: &str| app.get(&format!("/v1/datasets/{id}{path}")).await.expect(200);
        assert_eq!(rows(dataset["id"].as_str().unwrap()).await, rows(&ordinary).await);
    }
    assert_eq!(app.files("uploads"), Vec::<String>::new(), "the upload has done its work");
    assert_eq!(app.tus(Method::HEAD, &upload, &[], "").await.status, 404);
    app.post_as(&take, "", "").await.refuses(422, "invalid_request", &["?upload"]);
    app.stop().await;
}

#[tokio::test]
async fn a_part_with_a_checksum_counts_as_a_whole_or_not_at_all() {
    let app = TestApp::start().await;
    let upload = app.begin(12, "").await;
    let send = async |offset: &str, checksum: &str, body: Body| {
        let headers = [("Content-Type", PART), ("Upload-Offset", offset), ("Upload-Checksum", checksum)];
        app.tus(Method::PATCH, &upload, &headers, body).await
    };
    let good = send("0", &sha256(b"a,b\n"), Body::from("a,b\n")).await;
    assert_eq!((good.status.as_u16(), offset_of(&good)), (204, 4));
    send("4", &sha256(b"1,2\n"), Body::from("1,3\n")).await.refuses(460, "checksum_mismatch", &[]);
    assert_eq!((app.offset(&upload).await, app.held(&upload)), (4, b"a,b\n".to_vec()));
    send("4", &sha256(b"1,2\n3,4\n"), broken(&[b"1,2\n"])).await.refuses(422, "invalid_request", &[]);
    assert_eq!(app.offset(&upload).await, 4, "half of it cannot be checked");
    send("4", "md5 AAAA", Body::from("1,2\n")).await.refuses(422, "invalid_request", &["Upload-Checksum"]);
    assert_eq!(send("4", &sha256(b"1,2\n3,4\n"), Body::from("1,2\n3,4\n")).await.status, 204);
    assert_eq!(app.post_as(&format!("/v1/datasets?upload={}", id_of(&upload)), "", "").await.expect(201)["rows"], 2);
    app.stop().await;
}

#[tokio::test]
async fn what_the_protocol_forbids_is_refused() {
    let app = TestApp::start().await;
    let options = app.send(Request::builder().method("OPTIONS").uri("/v1/uploads").body(Body::empty()).unwrap()).await;
    assert_eq!((options.status.as_u16(), options.headers["tus-version"].to_str().unwrap()), (204, "1.0.0"));
    assert_eq!(options.headers["tus-max-size"], (4 << 20).to_string().as_str());
    assert_eq!(options.headers["tus-checksum-algorithm"], "sha256,sha1");
    assert!(options.headers["tus-extension"].to_str().unwrap().contains("creation-with-upload"));
    let old = Request::post("/v1/uploads").header("Tus-Resumable", "0.2.2").header("Upload-Length", "1");
    let old = app.send(old.body(Body::empty()).unwrap()).await;
    old.refuses(412, "unsupported_version", &["Tus-Resumable"]);
    assert_eq!(old.headers["tus-version"], "1.0.0");

    let post = async |headers: &[(&str, &str)]| app.tus(Method::POST, "/v1/uploads", headers, "").await;
    post(&[]).await.refuses(422, "invalid_request", &["Upload-Length"]);
    post(&[("Upload-Length", "-1")]).await.refuses(422, "invalid_request", &["Upload-Length"]);
    post(&[("Upload-Defer-Length", "1")]).await.refuses(422, "invalid_request", &["Upload-Defer-Length"]);
    let wrong = [("Upload-Length", "1"), ("Upload-Metadata", "filename ?")];
    post(&wrong).await.refuses(422, "invalid_request", &["Upload-Metadata"]);
    post(&[("Upload-Length", &((4 << 20) + 1).to_string())]).await.refuses(413, "too_large", &[]);

    let upload = app.begin(4, "").await;
    app.part(&upload, 0, "12345").await.refuses(413, "too_large", &[]);
    let stream = Body::from_stream(futures_util::stream::iter([Ok::<_, Infallible>("123"), Ok("45")]));
    app.part(&upload, 0, stream).await.refuses(413, "too_large", &[]);
    assert_eq!(app.offset(&upload).await, 0, "a part that is too long does not count");
    let text = [("Content-Type", "text/csv"), ("Upload-Offset", "0")];
    app.tus(Method::PATCH, &upload, &text, "1").await.refuses(415, "unsupported_media_type", &[]);
    let nowhere = [("Content-Type", PART)];
    app.tus(Method::PATCH, &upload, &nowhere, "1").await.refuses(422, "invalid_request", &["Upload-Offset"]);
    app.part("/v1/uploads/up_0198c5d2a1b37e6f9a1b2c3d4e5f6071", 0, "1").await.refuses(404, "not_found", &[]);

    assert_eq!(app.tus(Method::DELETE, &upload, &[], "").await.status, 204);
    assert_eq!(app.files("uploads"), Vec::<String>::new());
    app.tus(Method::DELETE, &upload, &[], "").await.refuses(404, "not_found", &[]);
    assert_eq!(app.tus(Method::HEAD, &upload, &[], "").await.status, 404);
    app.stop().await;
}

#[tokio::test]
async fn an_upload_may_begin_with_its_first_part() {
    let app = TestApp::start().await;
    let begin = async |checksum: &str| {
        let headers = [("Upload-Length", "8"), ("Content-Type", PART), ("Upload-Checksum", checksum)];
        app.tus(Method::POST, "/v1/uploads", &headers, "a,b\n").await
    };
    begin(&sha256(b"x")).await.refuses(460, "checksum_mismatch", &[]);
    assert_eq!(app.files("uploads"), Vec::<String>::new(), "nobody knows its address");
    let answer = begin(&sha256(b"a,b\n")).await;
    assert_eq!((answer.status.as_u16(), offset_of(&answer)), (201, 4));
    let upload = answer.headers[header::LOCATION].to_str().unwrap().to_owned();
    assert_eq!(app.part(&upload, 4, "1,2\n").await.status, 204);
    app.stop().await;
}

#[tokio::test]
async fn two_parts_at_once_do_not_mix() {
    let app = TestApp::start().await;
    let upload = app.begin(8, "").await;
    let (send, receive) = tokio::sync::mpsc::channel::<Result<&'static str, Infallible>>(1);
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receive));
    let first = app.part(&upload, 0, body);
    let others = async {
        send.send(Ok("a,b\n")).await.unwrap();
        until(async || (app.held(&upload) == b"a,b\n").then_some(())).await;
        app.part(&upload, 0, "1,2\n3,4\n").await.refuses(423, "upload_busy", &[]);
        app.tus(Method::DELETE, &upload, &[], "").await.refuses(423, "upload_busy", &[]);
        let take = format!("/v1/datasets?upload={}", id_of(&upload));
        app.post_as(&take, "", "").await.refuses(423, "upload_busy", &[]);
        send.send(Ok("5,6\n")).await.unwrap();
        drop(send);
    };
    let (answer, ()) = tokio::join!(first, others);
    assert_eq!((answer.status.as_u16(), offset_of(&answer)), (204, 8));
    assert_eq!(app.held(&upload), b"a,b\n5,6\n");
    app.stop().await;
}

#[tokio::test]
async fn uploads_are_bounded_and_go_when_their_time_is_over() {
    let app = TestApp::start().await;
    let mut uploads = Vec::new();
    for _ in 0..UPLOADS {
        uploads.push(app.begin(4, "").await);
    }
    let more = app.tus(Method::POST, "/v1/uploads", &[("Upload-Length", "4")], "").await;
    more.refuses(503, "overloaded", &[]);
    app.part(&uploads[0], 0, "a\n").await;
    let database = app.data().join("latente.db");
    change(&database, "UPDATE uploads SET expires_at = 1 WHERE received > 0").await;
    assert_eq!(app.tus(Method::HEAD, &uploads[0], &[], "").await.status, 404);
    app.part(&uploads[0], 2, "1\n").await.refuses(404, "not_found", &[]);
    assert_eq!(app.app.store.remove_expired_uploads().await.unwrap(), 1);
    assert_eq!(app.files("uploads").len() as u64, UPLOADS - 1);
    app.begin(4, "").await;
    app.stop().await;
}
