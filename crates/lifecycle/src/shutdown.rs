//! The two tokens of a stop.

use tokio_util::sync::CancellationToken;

/// Tells everybody that watches it to stop, first softly, then hard. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
}

impl Shutdown {
    /// A stop that nobody has asked for.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a drain: no new work, finish what runs.
    pub fn drain(&self) {
        self.soft.cancel();
    }

    /// Asks for an end at once.
    pub fn cut(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Waits until a drain (or a cut) is asked for. Cancel-safe.
    pub async fn draining(&self) {
        self.soft.cancelled().await;
    }

    /// Waits until a cut is asked for. Cancel-safe.
    pub async fn cutting(&self) {
        self.hard.cancelled().await;
    }

    /// Has a drain (or a cut) been asked for?
    pub fn is_draining(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// A part that stops with the whole, and can be stopped alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { soft: self.soft.child_token(), hard: self.hard.child_token() }
    }
}

/// Drains at the first SIGTERM or SIGINT, cuts at the second. Runs until a cut.
pub async fn on_signals(shutdown: Shutdown) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = shutdown.cutting() => return Ok(()),
        }
        if shutdown.is_draining() {
            tracing::warn!("second signal, stopping at once");
            shutdown.cut();
        } else {
            tracing::info!("stopping, finishing what runs");
            shutdown.drain();
        }
    }
}
