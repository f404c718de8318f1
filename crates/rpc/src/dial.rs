//! How a connection to a replica is made.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tower::Service;

/// How long a connection may take to be made, until its server is heard.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Connects to one place.
#[derive(Clone)]
pub(crate) struct Dial {
    /// `host:port`; a name is looked up each time.
    pub(crate) place: Arc<str>,
    /// How to speak TLS, and to whom.
    pub(crate) tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Dial {
    /// A connection over which a server has spoken.
    ///
    /// The system completes connections that the server never takes: it has just closed its port, or was stopped. A call that
    /// were sent over one of them would be lost without anybody knowing whether it was seen. So the server has the first word:
    /// until it is heard nothing is sent but the client's preface, which some proxies wait for.
    async fn connect(self) -> io::Result<Spoken> {
        let stream = TcpStream::connect(&*self.place).await?;
        stream.set_nodelay(true)?;
        let mut stream: Box<dyn Duplex> = match self.tls {
            Some((tls, name)) => Box::new(tls.connect(name, stream).await?),
            None => Box::new(stream),
        };
        stream.write_all(PREFACE).await?;
        stream.flush().await?;
        let first = stream.read_u8().await?;
        Ok(Spoken { stream, first: Some(first), said: PREFACE.len() })
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Spoken>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Spoken>>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let connected = timeout(PATIENCE, self.clone().connect());
        connected.map(|connected| Ok(TokioIo::new(connected??))).boxed()
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection whose server was heard: its first byte is given back, and the preface that was sent is not sent again.
pub(crate) struct Spoken {
    stream: Box<dyn Duplex>,
    first: Option<u8>,
    /// Bytes that whoever writes believes to send, and that are sent already.
    said: usize,
}

impl AsyncRead for Spoken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buffer.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Spoken {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.said > 0 {
            let said = self.said.min(bytes.len());
            self.said -= said;
            return Poll::Ready(Ok(said));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.said > 0 {
            let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| &**part);
            return self.poll_write(context, first);
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
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
