//! Clients that say nothing keep nobody else out.

use std::{future::Future, net::SocketAddr, time::Duration};

use gateway::Settings;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use crate::rig::Rig;

pub(crate) const HEAD: Duration = Duration::from_millis(300);
/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const LIVE: &[u8] = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Does it to a gateway that listens.
pub(crate) async fn served<F: Future>(settings: Settings, work: impl FnOnce(SocketAddr) -> F) -> F::Output {
    served_by(Box::pin(Rig::with(settings)).await, work).await
}

/// The same to one that is there.
pub(crate) async fn served_by<F: Future>(rig: Rig, work: impl FnOnce(SocketAddr) -> F) -> F::Output {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let worked = async {
        let worked = timeout(PATIENCE, work(address)).await.expect("it ends in time");
        rig.shutdown.drain();
        worked
    };
    let serving = timeout(2 * PATIENCE, rig.gateway().serve(listener, rig.shutdown.clone()));
    let (ended, worked) = futures::future::join(serving, worked).await;
    ended.expect("a drain waits for no client that says nothing").unwrap();
    worked
}

/// One that has said so much.
async fn said(words: &[u8], to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(words).await.unwrap();
    stream
}

/// The beginning of an answer.
async fn answer(stream: &mut TcpStream) -> String {
    let mut begun = [0; 15];
    stream.read_exact(&mut begun).await.unwrap();
    String::from_utf8_lossy(&begun).into_owned()
}

#[tokio::test]
async fn who_says_half_a_head_is_dropped_and_others_are_served_meanwhile() {
    served(Settings { head_timeout: HEAD, ..Settings::default() }, async |address| {
        let begun = Instant::now();
        let words: [&[u8]; 4] = [b"", b"G", b"PRI * HT", b"GET / HTTP/1.1\r\nHost: local"];
        let silent = words.map(|words| async move {
            let mut rest = Vec::new();
            // Closed, or reset where there was something that nobody has read.
            let _: Result<_, _> = said(words, address).await.read_to_end(&mut rest).await;
            String::from_utf8(rest).unwrap()
        });
        let served = async {
            let mut stream = said(LIVE, address).await;
            (answer(&mut stream).await, begun.elapsed())
        };
        let (rests, (answer, after)) = futures::future::join(futures::future::join_all(silent), served).await;
        assert_eq!(answer, "HTTP/1.1 200 OK");
        assert!(after < begun.elapsed(), "it did not wait for the others");
        assert!(begun.elapsed() >= HEAD, "they had their time");
        assert!(rests.iter().all(|rest| !rest.contains("200")), "{rests:?}");
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_a_while_and_then_closed() {
    served(Settings { head_timeout: HEAD, ..Settings::default() }, async |address| {
        let mut stream = said(LIVE, address).await;
        assert_eq!(answer(&mut stream).await, "HTTP/1.1 200 OK");
        stream.write_all(LIVE).await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest.matches("HTTP/1.1 200 OK").count(), 1, "{rest}");
    })
    .await;
}

#[tokio::test]
async fn one_connection_too_many_waits_until_another_ends() {
    let settings = Settings { max_connections: 1, head_timeout: PATIENCE, ..Settings::default() };
    served(settings, async |address| {
        let mut first = said(LIVE, address).await;
        assert_eq!(answer(&mut first).await, "HTTP/1.1 200 OK");
        let mut second = said(LIVE, address).await;
        timeout(HEAD, answer(&mut second)).await.expect_err("there is no room for it");
        drop(first);
        assert_eq!(answer(&mut second).await, "HTTP/1.1 200 OK");
    })
    .await;
}

#[tokio::test]
async fn a_drain_closes_what_is_idle_at_once() {
    let settings = Settings { head_timeout: 3 * PATIENCE, ..Settings::default() };
    let mut idle = served(settings, async |address| {
        let mut stream = said(LIVE, address).await;
        assert_eq!(answer(&mut stream).await, "HTTP/1.1 200 OK");
        stream
    })
    .await;
    let mut rest = Vec::new();
    timeout(PATIENCE, idle.read_to_end(&mut rest)).await.expect("it is closed").unwrap();
}
