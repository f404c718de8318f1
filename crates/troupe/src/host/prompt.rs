//! Connections of which something is heard in time.
//!
//! Neither tonic nor hyper ends one on which nothing ever comes: each would keep its file descriptor for as long as its client likes.
//! Later silence is noticed by the pings of HTTP/2, and that of a handshake by its own deadline.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// As long as the beginning of HTTP/2 (RFC 9113, 3.4), which every client sends at once; TLS begins with more.
const FIRST_WORDS: usize = 24;

/// A connection that ends where its first words do not come in time.
#[derive(Debug)]
pub(super) struct Prompt {
    stream: TcpStream,
    /// Nothing once they have come.
    deadline: Option<Pin<Box<Sleep>>>,
    heard: usize,
}

impl Prompt {
    pub(super) fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, deadline: Some(Box::pin(sleep(patience))), heard: 0 }
    }
}

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(deadline) = &mut self.deadline
            && read.is_pending()
        {
            ready!(deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not begin")));
        }
        if self.deadline.is_some() {
            self.heard += buffer.filled().len() - before;
            if self.heard >= FIRST_WORDS {
                self.deadline = None;
            }
        }
        read
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Prompt {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// What is read of a client that says this and then nothing.
    async fn heard_of(words: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(words).await.unwrap();
        let mut prompt = Prompt::new(listener.accept().await.unwrap().0, patience);
        let mut heard = vec![0; words.len()];
        prompt.read_exact(&mut heard).await?;
        // The next word comes after its patience would have ended.
        let late = async {
            sleep(2 * patience).await;
            client.write_all(b"x").await.unwrap();
        };
        let next = async {
            let byte = prompt.read_u8().await?;
            heard.push(byte);
            Ok(heard)
        };
        tokio::join!(late, next).1
    }

    #[tokio::test]
    async fn who_does_not_begin_is_dropped_and_who_has_begun_may_be_silent() {
        let patience = Duration::from_millis(100);
        for words in [&b""[..], b"PRI * HTTP/2.0"] {
            assert_eq!(heard_of(words, patience).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        assert_eq!(heard_of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", patience).await.unwrap().last(), Some(&b'x'));
    }
}
