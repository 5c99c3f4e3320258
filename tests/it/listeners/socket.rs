//! The Unix socket of operators.

use super::house;
use crate::common::within;
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use std::path::Path;
use tokio::net::UnixStream;

async fn status(socket: &Path, path: &str) -> u16 {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "localhost");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let answer = within("an answer", sender.send_request(request)).await;
    answer.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_answered_until_the_end() {
    let (_registry, _image, builder) = house().await;
    let socket = builder.dir().join("admin.sock");
    let builder = builder.with(|config| config.server.admin_socket = Some(socket.clone()));
    let mirror = builder.start().await;
    for path in ["/healthz", "/readyz", "/metrics", "/api/v1/status"] {
        assert_eq!(status(&socket, path).await, 200, "{path}");
    }
    // Another server does not take it away.
    let (_registry, _image, other) = house().await;
    let other = other.with(|config| config.server.admin_socket = Some(socket.clone()));
    let error = other.try_start().await.expect_err("it started").to_string();
    assert!(
        error.contains("cannot listen on") && error.contains("admin.sock"),
        "{error}"
    );
    assert_eq!(status(&socket, "/healthz").await, 200);
    let mirror = mirror.restart().await;
    assert_eq!(status(&socket, "/healthz").await, 200);
    mirror.stop().await;
    UnixStream::connect(&socket).await.unwrap_err();
}
