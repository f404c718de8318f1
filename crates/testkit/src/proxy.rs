//! A TCP connection that can be cut: between two processes, or between one and a server.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// What the network between the two does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Everything passes.
    Open,
    /// Connections are closed, and so is every new one.
    Cut,
    /// Connections stay, and nothing passes: what was under way is late, not lost.
    Silent,
    /// Everything passes, later by so much in each direction.
    Slow(Duration),
}

/// Passes connections on to one target. It ends with this value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port, and passes on what comes.
    ///
    /// # Panics
    /// Where loopback cannot be listened on.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be listened on");
        let address = listener.local_addr().expect("a listener has an address");
        let (network, state) = watch::channel(Network::Open);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, target, state));
        Self { address, network, _accepting: accepting }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what the network does, to connections that there are and to those that come.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: watch::Receiver<Network>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((near, _)) = accepted else { continue };
                if *state.borrow() != Network::Cut {
                    connections.spawn(carry(near, target, state.clone()));
                }
            }
            // Those that have ended are not kept.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn carry(near: TcpStream, target: SocketAddr, state: watch::Receiver<Network>) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    for stream in [&near, &far] {
        // Without it small frames wait for each other, which no network does to the product.
        let _ = stream.set_nodelay(true);
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // One end that is gone ends both.
    tokio::select! {
        () = pump(near_in, far_out, state.clone()) => {}
        () = pump(far_in, near_out, state) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<Network>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let late_by = match state.wait_for(|network| *network != Network::Silent).await.map(|network| *network) {
            Ok(Network::Open) => Duration::ZERO,
            Ok(Network::Slow(late_by)) => late_by,
            Ok(Network::Cut | Network::Silent) | Err(_) => return,
        };
        // Both arms are cancel-safe.
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = state.changed() => continue,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if !late_by.is_zero() {
                    tokio::time::sleep(late_by).await;
                }
                if to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
