//! Connections of clients: how many at once, and how long one may be silent.
//!
//! `axum::serve` waits for ever for the rest of a request's head, and takes as many connections as come: whoever opens some and
//! says half a word keeps everybody else out. So connections are counted here, and hyper ends those that say nothing.

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, serve::Listener};
use futures::{TryFutureExt as _, future::BoxFuture};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lifecycle::Shutdown;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tower::ServiceExt as _;

use crate::tls::Tls;

/// What connections are held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// So many at once; one more waits until another ends.
    pub(crate) most: usize,
    /// How long a client may take until the head of its next request is there, from when the connection is made or the last answer
    /// is sent.
    pub(crate) head: Duration,
}

/// What a connection does after its last answer, when it is no connection of HTTP any more: an extension of that answer.
///
/// A task of its own would outlive the connection's: a stop would not wait for it, and its room would be given to somebody else.
#[derive(Clone, Default)]
pub(crate) struct After(Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl After {
    pub(crate) fn new(work: BoxFuture<'static, ()>) -> Self {
        Self(Arc::new(Mutex::new(Some(work))))
    }

    fn take(&self) -> Option<BoxFuture<'static, ()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, work: Option<BoxFuture<'static, ()>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }
}

impl fmt::Debug for After {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("After").finish_non_exhaustive()
    }
}

/// Takes connections until `end`, and ends when the requests in work have. Where it is dropped, they are too.
pub(crate) async fn serve(
    mut listener: TcpListener,
    tls: Option<Arc<Tls>>,
    router: Router,
    limits: Limits,
    end: impl Future<Output = ()>,
) {
    let router = router.with_state(());
    let rooms = Arc::new(Semaphore::new(limits.most));
    let stop = Shutdown::new();
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        let next = async { (room(&rooms).await, Listener::accept(&mut listener).await) };
        // All arms are cancel-safe: a connection is either taken or still waits.
        tokio::select! {
            () = &mut end => break,
            Some(_) = connections.join_next() => {}
            (room, (stream, peer)) = next => {
                let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
                connections.spawn(async move {
                    connection(stream, peer, tls, router, limits.head, stop).await;
                    drop(room);
                });
            }
        }
    }
    drop(listener);
    stop.drain();
    while connections.join_next().await.is_some() {}
}

/// Room for one more. Nobody is refused: those that are silent make room in time.
async fn room(rooms: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    if let Ok(room) = Arc::clone(rooms).try_acquire_owned() {
        return Some(room);
    }
    tracing::warn!("no room for one more connection (setting max_connections)");
    // It fails where it is closed, which nobody does.
    Arc::clone(rooms).acquire_owned().await.ok()
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<Tls>>,
    router: Router,
    head: Duration,
    stop: Shutdown,
) {
    // Answers are small and complete when they are written: waiting for more only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let Some(tls) = tls else { return answer(stream, peer, router, head, stop).await };
    let shaken = tokio::select! {
        shaken = tls.accept(stream, head) => shaken,
        () = stop.draining() => return,
    };
    match shaken {
        Ok(stream) => answer(stream, peer, router, head, stop).await,
        Err(error) => tracing::debug!(%peer, error = errors::chain(&error), "a handshake has failed"),
    }
}

/// Answers the requests that come over it.
async fn answer<S>(stream: S, peer: SocketAddr, router: Router, head: Duration, stop: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let after = After::default();
    let noted = after.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        let noted = noted.clone();
        router.clone().oneshot(request).map_ok(move |mut response| {
            noted.set(response.extensions_mut().remove::<After>().and_then(|after| after.take()));
            response
        })
    });
    let mut http = http1::Builder::new();
    let http = http.timer(TokioTimer::new()).header_read_timeout(head);
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.draining() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    match (ended, after.take()) {
        // It is still this task's, and this connection's room.
        (Ok(()), Some(work)) => work.await,
        (Ok(()), None) => {}
        (Err(error), _) => tracing::debug!(%peer, error = errors::chain(&error), "a connection has failed"),
    }
}
