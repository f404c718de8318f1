//! An agent against a server that the test plays by hand, over a link inside the process.

mod gateway;
mod server;
mod tokens;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use agent_sdk::{Agent, AgentBuilder, Error, Failure, Outgoing, Output, Recipient, Shutdown, Task};
use contracts::communication::v1::{
    self as proto, agent_event::Event, server_event::Event as ServerEvent, task_result::Outcome,
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use server::{Server, TRACEPARENT, message, output, task};

/// Runs the agent beside the test until the guard is dropped.
struct Running {
    shutdown: Shutdown,
    ended: tokio::task::JoinSet<Result<(), Error>>,
}

impl Running {
    fn start(agent: AgentBuilder, server: &Server) -> Self {
        let shutdown = Shutdown::new();
        let mut ended = tokio::task::JoinSet::new();
        ended.spawn(agent.link(server.link()).run_until(shutdown.clone()));
        Self { shutdown, ended }
    }

    async fn end(&mut self) -> Result<(), Error> {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.ended.join_next()).await;
        ended.expect("the agent ends in time").expect("it was started").expect("it does not panic")
    }
}

fn echo() -> AgentBuilder {
    Agent::builder("echo")
        .name("e1")
        .capability("talk")
        .config(&json!({ "a": 1 }))
        .action("echo", |task: Task| async move { Ok(Output::from_json(task.input_bytes().clone())) })
}

#[tokio::test]
async fn a_task_is_done_and_its_result_kept_until_it_is_acknowledged() {
    let mut server = Server::new();
    let _running = Running::start(echo(), &server);
    let mut session = server.session().await;
    assert_eq!((session.hello.agent_type.as_str(), session.hello.name.as_str()), ("echo", "e1"));
    assert_eq!(session.hello.capabilities, ["talk"]);
    session.send([task("t1", "echo", &json!({ "n": 1 })), task("t2", "echo", &json!(2))]).await;
    assert_eq!(output(&session.result("t1").await), json!({ "n": 1 }));
    assert_eq!(output(&session.result("t2").await), json!(2));
    session.send([ServerEvent::ResultAck(proto::ResultAck { task_id: "t1".into() })]).await;
    drop(session);

    let mut session = server.session().await;
    assert_eq!(output(&session.result("t2").await), json!(2), "what was not acknowledged comes again");
    session.send([task("t3", "echo", &json!(3))]).await;
    let next = session.next_result().await;
    assert_eq!(next.task_id, "t3", "what was acknowledged does not");
}

/// Nobody here records spans.
#[tokio::test]
async fn a_trace_comes_through_an_agent_that_does_not_trace() {
    let mut server = Server::new();
    let agent = Agent::builder("traced").action("tell", |task: Task| async move {
        let note = Outgoing::new(Recipient::Agent("agt_1".into()), &1)?.traceparent(&task.traceparent);
        task.context().send(note).await.map_err(|error| Failure::transient("unsent", error.to_string()))?;
        Ok(task.traceparent.clone())
    });
    let _running = Running::start(agent, &server);
    let mut session = server.session().await;
    session.send([task("t1", "tell", &json!(null))]).await;
    assert_eq!(session.sent().await.traceparent, TRACEPARENT);
    let result = session.result("t1").await;
    assert_eq!(output(&result), TRACEPARENT);
    assert_eq!(result.traceparent, TRACEPARENT);
}

#[tokio::test]
async fn what_was_done_is_told_also_where_the_stream_is_lost_during_a_stop() {
    let mut server = Server::new();
    let mut running = Running::start(echo(), &server);
    let mut session = server.session().await;
    session.send([task("t1", "echo", &json!(1))]).await;
    session.result("t1").await;
    running.shutdown.drain();
    session.until(|event| matches!(event, Event::Drain(_))).await;
    drop(session);

    let mut session = server.session().await;
    assert_eq!(output(&session.result("t1").await), json!(1));
    session.send([ServerEvent::ResultAck(proto::ResultAck { task_id: "t1".into() })]).await;
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_task_that_runs_or_is_kept_is_not_run_again() {
    let (runs, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let agent = {
        let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
        Agent::builder("slow").action("wait", move |_: Task| {
            let (runs, go) = (Arc::clone(&runs), Arc::clone(&go));
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                Ok(json!("done"))
            }
        })
    };
    let mut server = Server::new();
    let _running = Running::start(agent, &server);
    let mut session = server.session().await;
    session.send([task("t1", "wait", &Value::Null)]).await;
    session.until(|event| matches!(event, Event::Started(started) if started.task_id == "t1")).await;
    drop(session);

    let mut session = server.session().await;
    session.send([task("t1", "wait", &Value::Null)]).await;
    go.notify_one();
    assert_eq!(output(&session.result("t1").await), json!("done"));
    session.send([task("t1", "wait", &Value::Null)]).await;
    assert_eq!(output(&session.result("t1").await), json!("done"));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn failures_panics_and_unknown_actions_are_told_apart() {
    let agent = Agent::builder("bad")
        .action("refuse", |_: Task| async { Err::<Value, _>(Failure::fatal("no", "never")) })
        .action("panic", |task: Task| async move {
            assert_ne!(task.action, "panic", "on purpose");
            Ok(())
        })
        .action("typed", |task: Task| async move {
            let number: u32 = task.input()?;
            Ok(number)
        });
    let mut server = Server::new();
    let _running = Running::start(agent, &server);
    let mut session = server.session().await;
    for (action, code, retryable) in [
        ("refuse", "no", false),
        ("panic", "panic", true),
        ("typed", "invalid_input", false),
        ("other", "unknown_action", false),
    ] {
        session.send([task(action, action, &json!("text"))]).await;
        match session.result(action).await.outcome {
            Some(Outcome::Failure(failure)) => {
                assert_eq!((failure.code.as_str(), failure.retryable), (code, retryable));
            }
            other => panic!("{action}: {other:?}"),
        }
    }
}

/// Tells when it is dropped.
struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_cancelled_task_is_dropped_where_it_stands_and_sends_no_result() {
    let dropped = Arc::new(Notify::new());
    let agent = {
        let dropped = Arc::clone(&dropped);
        echo().action("hang", move |_: Task| {
            let guard = Dropped(Arc::clone(&dropped));
            async move {
                let _guard = guard;
                std::future::pending::<Result<(), Failure>>().await
            }
        })
    };
    let mut server = Server::new();
    let _running = Running::start(agent, &server);
    let mut session = server.session().await;
    session.send([task("t1", "hang", &Value::Null)]).await;
    session.until(|event| matches!(event, Event::Started(_))).await;
    session.send([ServerEvent::Cancel(proto::CancelTask { task_id: "t1".into(), reason: "enough".into() })]).await;
    tokio::time::timeout(Duration::from_secs(10), dropped.notified()).await.expect("the handler is dropped");
    session.send([task("t2", "echo", &json!(2))]).await;
    assert_eq!(session.next_result().await.task_id, "t2");
}

#[tokio::test]
async fn a_request_is_answered_by_the_action_and_its_reply_reaches_who_asked() {
    let agent = echo().action("ask", |task: Task| async move {
        let to = Recipient::Capability("talk".to_owned());
        let answer = task.context().call(to, "echo", &json!({ "q": 1 }), Duration::from_secs(10)).await?;
        Ok(answer)
    });
    let mut server = Server::new();
    let _running = Running::start(agent, &server);
    let mut session = server.session().await;
    session.send([task("t1", "ask", &Value::Null)]).await;

    // The question goes out; the test delivers it to the same agent, and its answer back.
    let question = session.sent().await;
    assert_eq!(question.r#type, "request");
    session.send([message("msg_1", question)]).await;
    let answer = session.sent().await;
    assert_eq!(answer.r#type, "reply");
    session.until(|event| matches!(event, Event::MessageAck(ack) if ack.message_id == "msg_1")).await;
    session.send([message("msg_2", answer)]).await;
    assert_eq!(output(&session.result("t1").await), json!({ "q": 1 }));
}

#[tokio::test]
async fn who_waits_for_an_answer_says_so_over_its_next_session() {
    let agent = echo().action("ask", |task: Task| async move {
        let to = Recipient::Capability("talk".to_owned());
        task.context().call(to, "echo", &Value::Null, Duration::from_mins(1)).await
    });
    let mut server = Server::new();
    let _running = Running::start(agent, &server);
    let mut session = server.session().await;
    assert_eq!(session.hello.instance, "", "it has not asked anything");
    session.send([task("t1", "ask", &Value::Null)]).await;
    let question = session.sent().await;
    drop(session);
    let mut session = server.session().await;
    let (instance, _) = question.correlation_id.split_once('.').expect("an instance and a number");
    assert!(instance.starts_with("ins_") && session.hello.instance == instance, "{:?}", session.hello);
    let payload = r#"{"output":7}"#.into();
    let answer = proto::Message {
        r#type: "reply".to_owned(),
        correlation_id: question.correlation_id,
        payload,
        ..proto::Message::default()
    };
    session.send([message("msg_1", answer)]).await;
    assert_eq!(output(&session.result("t1").await), json!(7));
}

#[tokio::test]
async fn a_message_is_handled_once_and_acknowledged_on_every_delivery() {
    let handled = Arc::new(AtomicUsize::new(0));
    let agent = {
        let handled = Arc::clone(&handled);
        echo().on_message(move |_, _| {
            handled.fetch_add(1, Ordering::SeqCst);
            async { Ok(()) }
        })
    };
    let mut server = Server::new();
    let _running = Running::start(agent, &server);
    let mut session = server.session().await;
    for _ in 0..2 {
        session.send([message("msg_1", proto::Message { payload: "1".into(), ..proto::Message::default() })]).await;
        session.until(|event| matches!(event, Event::MessageAck(ack) if ack.message_id == "msg_1")).await;
    }
    assert_eq!(handled.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_stop_finishes_what_runs_and_then_ends() {
    let go = Arc::new(Notify::new());
    let agent = {
        let go = Arc::clone(&go);
        Agent::builder("slow").action("wait", move |_: Task| {
            let go = Arc::clone(&go);
            async move {
                go.notified().await;
                Ok(1)
            }
        })
    };
    let mut server = Server::new();
    let mut running = Running::start(agent, &server);
    let mut session = server.session().await;
    session.send([task("t1", "wait", &Value::Null)]).await;
    session.until(|event| matches!(event, Event::Started(_))).await;
    running.shutdown.drain();
    session.until(|event| matches!(event, Event::Drain(_))).await;
    go.notify_one();
    assert_eq!(output(&session.result("t1").await), json!(1));
    session.send([ServerEvent::ResultAck(proto::ResultAck { task_id: "t1".into() })]).await;
    session.ended().await;
    running.end().await.expect("a stop is no error");
}

#[tokio::test]
async fn an_agent_that_is_dropped_or_cut_where_it_stands_ends_its_session() {
    for is_cut in [false, true] {
        let mut server = Server::new();
        let running = Running::start(echo(), &server);
        let session = server.session().await;
        if is_cut {
            running.shutdown.cut();
            session.ended().await;
        } else {
            drop(running);
            session.ended().await;
        }
    }
}

#[tokio::test]
async fn only_a_refusal_that_would_come_again_ends_the_agent() {
    let mut server = Server::new();
    let mut running = Running::start(echo(), &server);
    server.refuse(tonic::Status::unavailable("starting")).await;
    server.refuse(errors::Error::not_found("agent_not_found", "gone").into()).await;
    match running.end().await {
        Err(Error::Refused { source, .. }) => assert_eq!(source.reason, "agent_not_found"),
        other => panic!("{other:?}"),
    }
}
