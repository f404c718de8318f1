//! An execution's live progress in the terminal, and its way through restarts of the server.
//!
//! On a terminal a bar counts the steps, and lines above it tell what happened; elsewhere there are only the lines. All of it
//! goes to standard error.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::Context;
use crate::{
    client::{self, Event},
    output::{printable, shorten},
};

/// How long the server may be away before following is given up; the execution goes on without us.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_millis(500);

/// Follows an execution until it has ended.
pub(super) async fn to_the_end(execution: &str, steps: u64, context: &Context<'_>) -> anyhow::Result<()> {
    let progress = Progress::new(execution, steps, &context.namespace);
    let result = watch(execution, context, |event| progress.show(event)).await;
    progress.bar.finish_and_clear();
    Ok(result?)
}

/// Gives every event of an execution to `show`, in order and each once, until the execution has ended. While the server is
/// away it is tried again for [`PATIENCE`], and the stream goes on where it was cut.
pub(super) async fn watch(
    execution: &str,
    context: &Context<'_>,
    mut show: impl FnMut(&Event),
) -> Result<(), client::Error> {
    let mut after = 0;
    // Since when it is away; a server that only has nothing to tell is not.
    let mut away: Option<Instant> = None;
    loop {
        let cut = match context.client.events(execution, after).await {
            Ok(mut stream) => loop {
                away = None;
                match stream.next().await {
                    Ok(Some(event)) => {
                        if event.sequence > after {
                            after = event.sequence;
                            show(&event);
                        }
                        if event.is_end() {
                            return Ok(());
                        }
                    }
                    // The server is going away, or this execution had ended before we came.
                    Ok(None) if has_ended(execution, context).await => return Ok(()),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            },
            Err(error) => Some(error),
        };
        let since = *away.get_or_insert_with(Instant::now);
        match cut {
            Some(error) if !error.is_passing() || since.elapsed() > PATIENCE => return Err(error),
            Some(_) | None => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn has_ended(execution: &str, context: &Context<'_>) -> bool {
    match context.client.get(&["executions", execution]).await {
        Ok(found) => matches!(client::text(&found, "status"), "completed" | "failed" | "cancelled"),
        Err(_) => false,
    }
}

struct Progress {
    bar: ProgressBar,
    execution: String,
    /// What `troupe signal` needs besides.
    namespace: String,
    begun: Instant,
}

impl Progress {
    fn new(execution: &str, steps: u64, namespace: &str) -> Self {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps.max(1)), target);
        let style = ProgressStyle::with_template("{spinner} {bar:24} {pos}/{len} steps  {elapsed}  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(120));
        let namespace =
            if namespace == domain::Namespace::DEFAULT { String::new() } else { format!(" -n {namespace}") };
        Self { bar, execution: execution.to_owned(), namespace, begun: Instant::now() }
    }

    fn show(&self, event: &Event) {
        let is_step = event.data("index").is_none();
        if is_step
            && matches!(event.kind.as_str(), "step_completed" | "step_failed" | "step_skipped" | "step_cancelled")
        {
            self.bar.inc(1);
        }
        if event.kind == "step_scheduled" {
            self.bar.set_message(printable(step_of(event)));
        }
        if let Some(line) = sentence(event, &self.execution, &self.namespace) {
            let line = format!("{:>8.2}s  {line}", self.begun.elapsed().as_secs_f64());
            if self.bar.is_hidden() {
                // Where nobody can read it nothing is lost.
                let _ = std::io::Write::write_fmt(&mut std::io::stderr().lock(), format_args!("{line}\n"));
            } else {
                self.bar.println(line);
            }
        }
    }
}

/// The step that an event is about.
pub(super) fn step_of(event: &Event) -> &str {
    event.data("step").and_then(Value::as_str).unwrap_or_default()
}

/// What an event means, for people; `None` for those that would only be noise.
fn sentence(event: &Event, execution: &str, namespace: &str) -> Option<String> {
    let step = printable(step_of(event));
    let text = |field: &str| event.data(field).and_then(Value::as_str).map(printable).unwrap_or_default();
    let failure = || event.data("failure").map(failure_sentence).unwrap_or_default();
    let instance = event.data("index").map(|index| format!("[{index}]")).unwrap_or_default();
    Some(match event.kind.as_str() {
        "accepted" => format!("accepted {execution}"),
        "step_completed" if instance.is_empty() => format!("✔ {step}"),
        "step_failed" => format!("✘ {step}{instance}: {}", failure()),
        "step_retrying" => format!("↻ {step} will be tried again: {}", failure()),
        "step_skipped" => format!("- {step} skipped"),
        "step_cancelled" if instance.is_empty() => format!("- {step} withdrawn"),
        "decision_opened" => format!("? {step}: agents vote"),
        "signal_awaited" => {
            let name = text("name");
            format!(
                "… {step} waits for the signal {name}; give it with\n           \
                 troupe signal {execution} {name}{namespace} --payload '{{\"approved\": true}}'"
            )
        }
        "mutex_awaited" => format!("… {step}{instance} waits for the mutex {}", text("name")),
        "turn_awaited" => format!("queued: it waits for its turn among those with the key {}", text("key")),
        "turn_taken" => "it is its turn".to_owned(),
        "signal_received" => format!("  the signal {} came in", text("name")),
        "paused" => format!("paused; go on with `troupe resume {execution}{namespace}`"),
        "resumed" => "resumed".to_owned(),
        "cancel_requested" => format!("cancel asked for: {}", text("reason")),
        "compensation_started" => "undoing what completed".to_owned(),
        "step_compensated" => format!("↩ {step}{instance} undone"),
        "compensation_failed" => format!("✘ {step}{instance} could not be undone: {}", failure()),
        "completed" => "completed".to_owned(),
        "failed" => format!("failed: {}", failure()),
        "cancelled" => format!("cancelled: {}", text("reason")),
        _ => return None,
    })
}

/// A failure in one line.
pub(super) fn failure_sentence(failure: &Value) -> String {
    let message = shorten(client::text(failure, "message"), 300);
    match (client::text(failure, "code"), client::text(failure, "step_id")) {
        (code, "") => format!("{message} ({})", printable(code)),
        (code, step) => format!("{message} ({} in step {})", printable(code), printable(step)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{cli::Global, client::Client, output::Output};

    fn told(kind: &str, data: &Value) -> Option<String> {
        let event = Event::from_document(json!({ "sequence": 1, "type": kind, "data": data })).unwrap();
        sentence(&event, "exe_1", " -n team")
    }

    #[test]
    fn a_wait_for_a_signal_says_how_to_give_it() {
        let told = told("signal_awaited", &json!({ "step": "approve", "name": "approval" })).unwrap();
        assert!(told.contains("troupe signal exe_1 approval -n team --payload"), "{told}");
    }

    #[test]
    fn instances_do_not_flood_the_terminal_but_their_failures_are_told() {
        assert_eq!(told("step_completed", &json!({ "step": "a", "index": 3 })), None);
        assert_eq!(told("step_completed", &json!({ "step": "a" })).unwrap(), "✔ a");
        let failure =
            json!({ "step": "a", "index": 3, "failure": { "code": "timeout", "message": "no result within 1s" } });
        assert_eq!(told("step_failed", &failure).unwrap(), "✘ a[3]: no result within 1s (timeout)");
        assert_eq!(told("invented_later", &json!({})), None);
    }

    /// Answers one request after another, each on a connection of its own; gives back their heads.
    async fn serve(listener: TcpListener, answers: &[String]) -> Vec<String> {
        let mut heads = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            heads.push(String::from_utf8(head).unwrap().to_lowercase());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        heads
    }

    fn stream_of(sequence: u64, kind: &str) -> String {
        let event = json!({ "sequence": sequence, "type": kind, "data": {} });
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\nid: {sequence}\ndata: {event}\n\n"
        )
    }

    #[tokio::test]
    async fn following_goes_on_where_the_stream_was_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let global = Global { url, namespace: "team".to_owned(), json: false, api_key: None };
        let output = Output::new(false);
        let client = Client::new(&global).unwrap();
        let context = Context { client, namespace: global.namespace, output: &output };
        let running = "{\"status\": \"running\"}";
        let running =
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{running}", running.len());
        let answers = [stream_of(1, "accepted"), running, stream_of(2, "completed")];

        let mut seen = Vec::new();
        let followed = watch("exe_1", &context, |event| seen.push(event.sequence));
        let (followed, heads) = tokio::join!(followed, serve(listener, &answers));
        followed.unwrap();
        assert_eq!(seen, [1, 2]);
        assert!(heads[0].contains("last-event-id: 0") && heads[0].contains("x-namespace: team"), "{heads:?}");
        assert!(heads[2].contains("last-event-id: 1"), "{heads:?}");
    }
}
