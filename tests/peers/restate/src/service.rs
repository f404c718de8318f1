//! The workloads of `troupe bench` as handlers. Payloads go through as bytes: nothing parses them but the check at the end.

use std::{io::Write as _, net::Ipv4Addr};

use anyhow::Context as _;
use bytes::Bytes;
use restate_sdk::prelude::*;
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
};

/// Parallel steps of a fan.
pub(crate) const WIDTH: usize = 100;

/// What a step is handed to.
struct Echo;

#[service]
impl Echo {
    /// Answers with what it was given.
    #[handler]
    async fn echo(&self, _ctx: Context<'_>, payload: Bytes) -> HandlerResult<Bytes> {
        Ok(payload)
    }
}

/// The workloads.
struct Peer;

#[service]
impl Peer {
    /// Three durable steps, one after the other, within this handler.
    #[handler]
    async fn chain3_run(&self, ctx: Context<'_>, payload: Bytes) -> HandlerResult<Bytes> {
        let one = ctx.run(|| async move { Ok(payload) }).name("one").await?;
        let two = ctx.run(|| async move { Ok(one) }).name("two").await?;
        Ok(ctx.run(|| async move { Ok(two) }).name("three").await?)
    }

    /// Three steps, one after the other, each of them a call of another handler.
    #[handler]
    async fn chain3_call(&self, ctx: Context<'_>, payload: Bytes) -> HandlerResult<Bytes> {
        let one = ctx.service_client::<EchoClient>().echo(payload).call().await?;
        let two = ctx.service_client::<EchoClient>().echo(one).call().await?;
        Ok(ctx.service_client::<EchoClient>().echo(two).call().await?)
    }

    /// A hundred calls of another handler side by side, and one with all that they have said.
    #[handler]
    async fn fan100_call(&self, ctx: Context<'_>) -> HandlerResult<Bytes> {
        // All are on their way before the first is waited for.
        let calls: Vec<_> = (0..WIDTH)
            .map(|number| {
                let input = Bytes::from(format!("{{\"n\":{number}}}"));
                ctx.service_client::<EchoClient>().echo(input).call()
            })
            .collect();
        let mut outputs = Vec::with_capacity(calls.len());
        for call in calls {
            let output: serde_json::Value = serde_json::from_slice(&call.await?)?;
            outputs.push(output["n"].clone());
        }
        let joined = Bytes::from(serde_json::to_vec(&outputs)?);
        Ok(ctx.service_client::<EchoClient>().echo(joined).call().await?)
    }
}

/// Until SIGTERM.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let listener = listen().context("cannot listen")?;
    let mut terminated = signal(SignalKind::terminate())?;
    let endpoint = Endpoint::builder().bind(Echo).bind(Peer).build();
    writeln!(std::io::stdout(), "ready {}", listener.local_addr()?)?;
    HttpServer::new(endpoint).serve_with_cancel(listener, terminated.recv()).await;
    Ok(())
}

/// On a free port. What the SDK accepts inherits the option: without it small frames wait 40 ms for an acknowledgement.
fn listen() -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(1024)
}
