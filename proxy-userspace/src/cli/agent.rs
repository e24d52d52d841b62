//! Asks the running agent's admin listener.

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, time::timeout};

/// How long the agent may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer.
const ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// The body of what it answers to a target, if that is a success.
pub(super) fn ask(addr: SocketAddr, target: &str) -> anyhow::Result<Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { timeout(PATIENCE, converse(addr, target)).await });
    answer.context("no answer within 5 s").flatten().with_context(|| {
        format!(
            "cannot ask the agent at {addr}: is it running there? \
             --admin-addr (WEIR_ADMIN_ADDR) must be the one that it was started with"
        )
    })
}

async fn converse(addr: SocketAddr, target: &str) -> anyhow::Result<Bytes> {
    let stream = TcpStream::connect(addr).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The connection ends when the conversation drops its sender.
    let conversation = async move {
        let request = Request::get(target).header(HOST, addr.to_string()).body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        ensure!(status.is_success(), "it answered {status} {}", String::from_utf8_lossy(&body).trim_end());
        Ok(body)
    };
    let (answer, _) = tokio::join!(conversation, connection);
    answer
}
