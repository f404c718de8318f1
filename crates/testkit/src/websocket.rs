//! A client of sockets that says what it is told to, also what no client may say.

use std::{io, net::SocketAddr};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What a frame is, with the bit that it is the last of its message.
pub mod opcode {
    /// A part of a message that has begun.
    pub const MORE: u8 = 0;
    /// A whole text.
    pub const TEXT: u8 = 0x81;
    /// The beginning of a text.
    pub const TEXT_BEGUN: u8 = 0x01;
    /// Bytes.
    pub const BINARY: u8 = 0x82;
    /// The last word.
    pub const CLOSE: u8 = 0x88;
    /// Asks whether somebody is there.
    pub const PING: u8 = 0x89;
    /// The answer.
    pub const PONG: u8 = 0x8a;
}

/// An open WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    stream: TcpStream,
    head: String,
}

impl WebSocket {
    /// Opens one; the head of the answer where that is refused.
    pub async fn open(to: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, String> {
        let mut stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
        let more: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let more = more.concat();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        stream.write_all(head.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => heard.push(byte),
                Err(error) => return Err(error.to_string()),
            }
        }
        let head = String::from_utf8_lossy(&heard).into_owned();
        if head.starts_with("HTTP/1.1 101 ") { Ok(Self { stream, head }) } else { Err(head) }
    }

    /// The head of the answer.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// Sends bytes as they are.
    pub async fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends a frame.
    pub async fn frame(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..126 => bytes.push(0x80 | length as u8),
            length @ 126..65_536 => {
                bytes.push(0x80 | 0x7e);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(0x80 | 0x7f);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        // A mask that changes nothing is one.
        bytes.extend([0; 4]);
        bytes.extend(payload);
        self.raw(&bytes).await
    }

    /// Sends a text.
    pub async fn say(&mut self, text: &Value) -> io::Result<()> {
        self.frame(opcode::TEXT, text.to_string().as_bytes()).await
    }

    /// The next frame, whatever it is: what it is, and what is in it.
    pub async fn next(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let first = self.stream.read_u8().await?;
        let length = match self.stream.read_u8().await? {
            126 => usize::from(self.stream.read_u16().await?),
            127 => self.stream.read_u64().await? as usize,
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok((first, payload))
    }

    /// The next text, with pings answered until it comes; the code of what closes the connection, 1006 where nothing is said.
    pub async fn heard(&mut self) -> Result<Value, u16> {
        loop {
            let (first, payload) = self.next().await.map_err(|_| 1006_u16)?;
            match first {
                opcode::TEXT => return serde_json::from_slice(&payload).map_err(|_| 1007),
                opcode::PING => self.frame(opcode::PONG, &payload).await.map_err(|_| 1006_u16)?,
                opcode::CLOSE => return Err(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
                _ => {}
            }
        }
    }

    /// The code of what closes the connection; whatever comes before is not looked at, and no ping is answered.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match self.next().await {
                Ok((opcode::CLOSE, payload)) => {
                    return payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                }
                Ok(_) => {}
                Err(_) => return 1006,
            }
        }
    }
}
