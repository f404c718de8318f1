//! The gateway's side of an exchange, by hand.

use std::{collections::VecDeque, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

/// What it says to the next request.
pub(crate) enum Say {
    /// An access token and a refresh token, and for how many seconds the first is good.
    Tokens(&'static str, &'static str, u64),
    /// This status.
    Status(u16),
    /// It is elsewhere.
    Elsewhere(String),
    /// Nothing: the connection ends.
    Nothing,
    /// Nothing, and the connection stays.
    Silence,
}

/// A request.
#[derive(Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) key: Option<String>,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn by_key() -> Self {
        Self { key: Some("trk_1".to_owned()), body: json!({ "grant_type": "api_key" }) }
    }

    pub(crate) fn by_refresh_token(token: &str) -> Self {
        Self { key: None, body: json!({ "grant_type": "refresh_token", "refresh_token": token }) }
    }
}

/// A gateway that says one thing after the other, and then that it is not well.
pub(crate) struct Gateway {
    pub(crate) url: String,
    asked: mpsc::UnboundedReceiver<Asked>,
    _serving: JoinSet<()>,
}

impl Gateway {
    pub(crate) async fn saying(says: impl IntoIterator<Item = Say>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it has one"));
        let (sender, asked) = mpsc::unbounded_channel();
        let mut says: VecDeque<_> = says.into_iter().collect();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut silent = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.expect("it listens");
                let say = says.pop_front().unwrap_or(Say::Status(503));
                let is_silent = matches!(say, Say::Silence);
                if let Some(asked) = answer(&mut stream, say).await {
                    let _ = sender.send(asked);
                }
                if is_silent {
                    silent.push(stream);
                }
            }
        });
        Self { url, asked, _serving: serving }
    }

    pub(crate) async fn asked(&mut self) -> Asked {
        let asked = tokio::time::timeout(Duration::from_secs(20), self.asked.recv()).await;
        asked.expect("it is asked in time").expect("it serves")
    }

    pub(crate) fn was_asked(&mut self) -> bool {
        self.asked.try_recv().is_ok()
    }
}

async fn answer(stream: &mut TcpStream, say: Say) -> Option<Asked> {
    let mut stream = BufReader::new(stream);
    let (mut key, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("x-api-key") => key = Some(value.to_owned()),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok()?,
            None if line.trim_end().is_empty() => break,
            Some(_) | None => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let answer = match say {
        Say::Tokens(access, refresh, seconds) => {
            let pair = json!({ "access_token": access, "refresh_token": refresh, "expires_in": seconds }).to_string();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json";
            format!("{head}\r\ncontent-length: {}\r\n\r\n{pair}", pair.len())
        }
        Say::Status(status) => format!("HTTP/1.1 {status} No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
        Say::Elsewhere(url) => {
            format!("HTTP/1.1 307 No\r\nconnection: close\r\nlocation: {url}\r\ncontent-length: 0\r\n\r\n")
        }
        Say::Nothing => String::new(),
        Say::Silence => return Some(Asked { key, body: serde_json::from_slice(&body).ok()? }),
    };
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()?;
    Some(Asked { key, body: serde_json::from_slice(&body).ok()? })
}
