//! Models under pressure: many callers at once, clients that stall, more models than fit. What is answered is what a call by itself
//! is answered, and what is refused is refused honestly.

use axum::body::Body;
use axum::http::Request;
use futures_util::future::{join_all, select_all};
use latente::http::router;
use latente::models::ModelSpec;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::support::{Answer, TestApp, change, npy, short_job, until};

/// Rows of pixels that no two of are alike.
fn pixels(rows: usize) -> Vec<f32> {
    (0..rows * 64).map(|number| ((number * number + 7 * number) % 1_601) as f32 / 100.0).collect()
}

/// A model of digits: its address.
async fn trained(app: &TestApp, family: &str) -> String {
    let dataset = app.upload_digits(200).await;
    let mut spec = short_job(&dataset);
    spec["model"] = json!({"family": family, "settings": {"latent": 3}});
    format!("/v1/models/{}", app.train(&spec).await)
}

async fn ask(app: &TestApp, model: &str, question: &str, width: usize, values: &[f32]) -> Answer {
    let path = format!("{model}/{question}");
    app.post_as(&path, "application/x-npy", npy(values.len() / width, width, values)).await
}

/// A question that keeps a thread for a while, but not for long.
async fn long_question(app: &TestApp, model: &str) -> Answer {
    let rows: Vec<Value> = pixels(1_000).chunks(64).map(|row| json!(row)).collect();
    app.post(&format!("{model}/score"), &json!({"rows": rows, "samples": 400})).await
}

#[tokio::test]
async fn a_row_is_answered_the_same_alone_and_among_others() {
    let app = TestApp::start_with(|config| config.serving.threads = 2).await;
    let dataset = app.upload_digits(200).await;
    let rows = pixels(700);
    for family in ModelSpec::FAMILIES {
        let mut spec = short_job(&dataset);
        spec["model"] = json!({"family": family});
        let model = format!("/v1/models/{}", app.train(&spec).await);
        let codes: Vec<Vec<f32>> =
            serde_json::from_value(ask(&app, &model, "encode", 64, &rows).await.expect(200)["codes"].clone()).unwrap();
        let latent = codes[0].len();
        let codes = codes.concat();
        let questions = [
            ("encode", 64, &rows),
            ("reconstruct", 64, &rows),
            ("score?samples=0", 64, &rows),
            ("decode?spread=true", latent, &codes),
        ];
        for (question, width, values) in questions {
            let all = ask(&app, &model, question, width, values).await.expect(200);
            // All at once, so that they share batches: single rows, and some that begin in one block and end in the next.
            let cuts: Vec<(usize, usize)> =
                (0..30).map(|row| (row * 17, 1)).chain([(3, 300), (250, 450), (500, 40)]).collect();
            let asked = cuts
                .iter()
                .map(|(from, rows)| ask(&app, &model, question, width, &values[from * width..(from + rows) * width]));
            for ((from, rows), answer) in cuts.iter().zip(join_all(asked).await) {
                let part = answer.expect(200);
                for (member, told) in part.as_object().unwrap().iter().filter(|(_, told)| told.is_array()) {
                    let whole = &all[member].as_array().unwrap()[*from..from + rows];
                    assert_eq!(
                        told.as_array().unwrap(),
                        whole,
                        "{family} {question} {member}, {rows} rows from {from}"
                    );
                }
            }
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_full_queue_is_refused_at_once_and_whoever_waits_is_answered() {
    let app = TestApp::start_with(|config| config.serving.threads = 1).await;
    let model = trained(&app, "vae").await;
    let row = pixels(1);
    let alone = ask(&app, &model, "encode", 64, &row).await.expect(200);
    let crowd = async {
        let crowd = (0..320).map(|_| ask(&app, &model, "encode", 64, &row));
        join_all(crowd).await
    };
    let (long, crowd) = tokio::join!(long_question(&app, &model), crowd);
    long.expect(200);
    let (answered, refused): (Vec<_>, Vec<_>) = crowd.into_iter().partition(|answer| answer.status == 200);
    assert!(answered.len() >= 255 && !refused.is_empty(), "{} answered, {} refused", answered.len(), refused.len());
    assert!(answered.iter().all(|answer| answer.json() == alone));
    for answer in refused {
        answer.refuses(503, "overloaded", &[]);
        assert_eq!(answer.headers["retry-after"], "1");
    }
    assert_eq!(ask(&app, &model, "encode", 64, &row).await.expect(200), alone);
    app.stop().await;
}

#[tokio::test]
async fn a_caller_waits_no_longer_than_it_says() {
    let app = TestApp::start_with(|config| config.serving.threads = 1).await;
    let model = trained(&app, "vae").await;
    let patient = |seconds: &'static str| {
        let request = Request::post(format!("{model}/encode")).header("prefer", seconds);
        let body = npy(1, 64, &pixels(1));
        app.send(request.header("content-type", "application/x-npy").body(Body::from(body)).unwrap())
    };
    let (long, none, some) =
        tokio::join!(long_question(&app, &model), patient("wait=0"), patient("respond-async, wait=600"));
    long.expect(200);
    let told = none.refuses(503, "overloaded", &[]);
    assert!(told.contains("Prefer: wait") && none.headers.contains_key("retry-after"), "{told}");
    some.expect(200);
    app.stop().await;
}

#[tokio::test]
async fn thirty_models_in_turn_are_answered_with_room_for_few() {
    // A model takes about 27 KB with what it is counted for beside its numbers.
    let app = TestApp::start_with(|config| config.serving.resident_bytes = 110_000).await;
    let model = trained(&app, "autoencoder").await;
    let copies = "PRAGMA foreign_keys = OFF;
        INSERT INTO models (id, name, job_id, dataset_id, family, spec, schema, metrics, artifact_id, created_at)
        SELECT printf('mdl_%032x', n), name, printf('job_%032x', n), dataset_id, family, spec, schema, metrics, artifact_id,
        created_at FROM models, (WITH RECURSIVE ns(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM ns
        WHERE n < 30) SELECT n FROM ns)";
    change(&app.data().join("latente.db"), copies).await;
    let row = pixels(1);
    let wanted = ask(&app, &model, "encode", 64, &row).await.expect(200);
    for turn in 0..3 {
        // One after the other, and at last all at once: whoever loses its room before it was answered may try again.
        let asked = (1..=30).map(|number| {
            let (app, row) = (&app, &row);
            async move { ask(app, &format!("/v1/models/mdl_{number:032x}"), "encode", 64, row).await }
        });
        if turn < 2 {
            for one in asked {
                assert_eq!(one.await.expect(200), wanted);
            }
            continue;
        }
        for answer in join_all(asked).await {
            match answer.status.as_u16() {
                200 => assert_eq!(answer.json(), wanted),
                _ => drop(answer.refuses(503, "overloaded", &[])),
            }
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn clients_that_stall_or_leave_hold_up_nobody() {
    let app = TestApp::start().await;
    let model = trained(&app, "vae").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn(latente::http::server::serve(listener, router(app.app.clone()), stop.clone()));
    let body = npy(2_000, 64, &pixels(2_000));
    let head = |what: &str| {
        let kind = "content-type: application/x-npy\r\naccept: application/json";
        format!("POST {model}/{what} HTTP/1.1\r\nhost: here\r\n{kind}\r\ncontent-length: {}\r\n\r\n", body.len())
    };
    let mut stalled = Vec::new();
    for number in 0..60 {
        let mut client = TcpStream::connect(address).await.unwrap();
        match number % 3 {
            // Half a body and no more.
            0 => client.write_all(&[head("encode").as_bytes(), &body[..body.len() / 2]].concat()).await.unwrap(),
            // A large answer that is not fetched.
            1 => client.write_all(&[head("reconstruct").as_bytes(), &body[..]].concat()).await.unwrap(),
            // A question, and the caller is gone.
            _ => {
                client.write_all(&[head("reconstruct").as_bytes(), &body[..]].concat()).await.unwrap();
                drop(client);
                continue;
            }
        }
        stalled.push(client);
    }
    let row = pixels(1);
    let wanted = ask(&app, &model, "encode", 64, &row).await.expect(200);
    let url = format!("http://{address}{model}/encode");
    let client = reqwest::Client::new();
    for _ in 0..20 {
        let request = client.post(&url).header("content-type", "application/x-npy").body(npy(1, 64, &row));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<Value>().await.unwrap(), wanted);
    }
    // Who comes back for its answer has it.
    let mut late = stalled.swap_remove(1);
    let mut start = [0; 15];
    late.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    drop((late, stalled));
    stop.cancel();
    server.await.unwrap();
    app.stop().await;
}

#[tokio::test]
async fn bodies_beyond_the_memory_for_them_are_refused_before_they_are_read() {
    let app = TestApp::start().await;
    let model = trained(&app, "vae").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn(latente::http::server::serve(listener, router(app.app.clone()), stop.clone()));
    // Five announce as much as a body may have, and send nothing of it. There is room for four.
    let mut announced = Vec::new();
    for _ in 0..5 {
        let mut client = TcpStream::connect(address).await.unwrap();
        let head = format!("POST {model}/encode HTTP/1.1\r\nhost: here\r\ncontent-length: {}\r\n\r\n", 64 << 20);
        client.write_all(head.as_bytes()).await.unwrap();
        announced.push(client);
    }
    let mut start = vec![[0; 12]; 5];
    let reads = announced.iter_mut().zip(&mut start).map(|(client, start)| Box::pin(client.read_exact(start)));
    let (read, which, _) = select_all(reads).await;
    read.unwrap();
    assert_eq!(&start[which], b"HTTP/1.1 503");
    let refused = ask(&app, &model, "encode", 64, &pixels(1)).await;
    refused.refuses(503, "overloaded", &[]);
    assert_eq!(refused.headers["retry-after"], "1");
    drop(announced);
    until(async || (ask(&app, &model, "encode", 64, &pixels(1)).await.status == 200).then_some(())).await;
    stop.cancel();
    server.await.unwrap();
    app.stop().await;
}
