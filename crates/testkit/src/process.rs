//! The built binary as a process of its own, which says when it is ready and ends when it is told to.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::command;

/// How long a process may take to say that it is ready, or to end when asked to.
const PATIENCE: Duration = Duration::from_mins(1);

/// A process that is ready. It is killed with this value.
pub(crate) struct Process(Child);

impl Process {
    /// The binary as a command that appends what it logs to a file, to be completed.
    pub(crate) fn command(log: &Path) -> anyhow::Result<Command> {
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(command::binary());
        command.current_dir(command::workspace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        Ok(command)
    }

    /// Runs a command until it says `ready`; answers with what it says there too.
    pub(crate) async fn start(mut command: Command) -> anyhow::Result<(Self, String)> {
        let mut child = command.kill_on_drop(true).spawn().context("cannot run the binary")?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
        let ready = timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await? {
                if let Some(said) = line.strip_prefix("ready ") {
                    return Ok(said.to_owned());
                }
            }
            bail!("it ended before it was ready")
        });
        let said = ready.await.context("it was not ready in time")??;
        Ok((Self(child), said))
    }

    /// SIGKILL, at once.
    pub(crate) async fn kill(&mut self) {
        self.0.start_kill().expect("the process can be killed");
        self.0.wait().await.expect("a killed process ends");
    }

    /// SIGTERM, and how it ended; none where it does not.
    pub(crate) async fn stop(&mut self) -> Option<ExitStatus> {
        self.signal(Signal::SIGTERM);
        let status = timeout(PATIENCE, self.0.wait()).await.ok()?;
        Some(status.expect("its status can be had"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.0.id().expect("the process runs");
        signal::kill(Pid::from_raw(pid.cast_signed()), signal).expect("a running process can be signalled");
    }

    /// What it has in memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let pid = self.0.id().expect("the process runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status can be read");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory is told");
        let number = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB");
        number << 10
    }

    /// Has it ended by itself?
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}
