//! Tasks: from dispatch to the acknowledged result, and what happens when something is lost on the way.

use contracts::communication::v1::{
    DeadLetterFilter, DeadLetterKind, ReplayDeadLetterRequest, server_event, task_update::Update,
};
use errors::{Code, Error};

use crate::world::{World, of_type};

#[tokio::test]
async fn a_task_goes_to_an_agent_and_its_result_comes_back_until_it_is_acknowledged() {
    let world = World::start().await;
    let id = world.registry.add("scorer", &["score"]);
    let mut agent = world.agent(&id, 1).await;
    let mut orchestrator = world.orchestrator("rep_1").await;
    orchestrator.dispatch("e/a/1", of_type("scorer")).await;
    assert_eq!(agent.task().await, ("e/a/1".to_owned(), 1));
    assert!(matches!(orchestrator.hear().await, (_, Update::HandedOver(over)) if over.delivery == 1));
    agent.finish("e/a/1", "7").await;
    let (_, Update::Result(result)) = orchestrator.hear().await else { panic!("expected the result") };
    assert_eq!(result.task_id, "e/a/1");
    // The stream is lost before the result is committed: its successor gets it again.
    drop(orchestrator);
    let mut orchestrator = world.orchestrator("rep_1").await;
    assert!(matches!(orchestrator.hear().await, (id, Update::Result(_)) if id == "e/a/1"));
    orchestrator.acknowledge("e/a/1").await;
    assert!(matches!(agent.hear().await, server_event::Event::ResultAck(ack) if ack.task_id == "e/a/1"));
}

#[tokio::test]
async fn a_lost_session_returns_its_task_to_another_at_once() {
    let world = World::start().await;
    let id = world.registry.add("scorer", &[]);
    let mut first = world.agent(&id, 1).await;
    let mut orchestrator = world.orchestrator("rep_1").await;
    orchestrator.dispatch("e/a/1", of_type("scorer")).await;
    first.task().await;
    assert!(matches!(orchestrator.hear().await.1, Update::HandedOver(_)));
    drop(first);
    assert!(matches!(orchestrator.hear().await.1, Update::Requeued(_)));
    assert!(matches!(orchestrator.hear().await.1, Update::Waiting(_)));
    let mut second = world.agent(&id, 1).await;
    assert_eq!(second.task().await, ("e/a/1".to_owned(), 2));
    assert!(matches!(orchestrator.hear().await.1, Update::HandedOver(over) if over.delivery == 2));
}

#[tokio::test]
async fn a_result_that_comes_over_the_next_session_of_the_agent_counts() {
    let world = World::start().await;
    let id = world.registry.add("scorer", &[]);
    let mut first = world.agent(&id, 1).await;
    let mut orchestrator = world.orchestrator("rep_1").await;
    orchestrator.dispatch("e/a/1", of_type("scorer")).await;
    first.task().await;
    drop(first);
    let mut second = world.agent(&id, 1).await;
    second.task().await;
    second.finish("e/a/1", "1").await;
    loop {
        if let Update::Result(_) = orchestrator.hear().await.1 {
            break;
        }
    }
    orchestrator.acknowledge("e/a/1").await;
    assert!(matches!(second.hear().await, server_event::Event::ResultAck(_)));
}

#[tokio::test]
async fn a_result_of_an_unknown_task_is_forwarded_and_acknowledged() {
    let world = World::start().await;
    let id = world.registry.add("scorer", &[]);
    let mut agent = world.agent(&id, 1).await;
    let mut orchestrator = world.orchestrator("rep_1").await;
    agent.finish("e/from-before-a-restart/1", "1").await;
    assert!(matches!(orchestrator.hear().await.1, Update::Result(_)));
    orchestrator.acknowledge("e/from-before-a-restart/1").await;
    assert!(matches!(agent.hear().await, server_event::Event::ResultAck(_)));
}

#[tokio::test]
async fn a_task_that_used_up_its_deliveries_is_a_dead_letter_that_tells_who_had_it() {
    let world = World::with(|settings| settings.delivery_limit = 2).await;
    let id = world.registry.add("scorer", &[]);
    let mut agent = world.agent(&id, 1).await;
    let mut orchestrator = world.orchestrator("rep_1").await;
    orchestrator.dispatch("e/a/1", of_type("scorer")).await;
    for delivery in 1..=2 {
        assert_eq!(agent.task().await.1, delivery);
        agent.nack("e/a/1").await;
    }
    let letter = loop {
        if let Update::DeadLettered(letter) = orchestrator.hear().await.1 {
            break letter;
        }
    };
    assert_eq!(letter.reason, "delivery_limit");
    let found = world.until_dead(1).await.remove(0);
    assert_eq!((found.id.as_str(), found.kind()), (letter.dead_letter_id.as_str(), DeadLetterKind::Task));
    assert_eq!((found.subject_id.as_str(), found.target.as_str(), found.deliveries), ("e/a/1", "type:scorer", 2));
    let task = found.task.unwrap();
    assert_eq!((task.step_id.as_str(), task.attempt, task.action.as_str()), ("a", 1, "sort"));
    let hand_overs: Vec<_> =
        task.hand_overs.iter().map(|over| (over.agent_id.as_str(), over.reason.as_str())).collect();
    assert_eq!(hand_overs, [(id.as_str(), "busy"); 2]);
}

#[tokio::test]
async fn a_tasks_letter_is_replayed_by_whoever_retries_its_execution() {
    let world = World::with(|settings| settings.delivery_limit = 1).await;
    let id = world.registry.add("scorer", &[]);
    let mut agent = world.agent(&id, 1).await;
    let orchestrator = world.orchestrator("rep_1").await;
    orchestrator.dispatch("e/a/1", of_type("scorer")).await;
    agent.task().await;
    agent.nack("e/a/1").await;
    let letter = world.until_dead(1).await.remove(0);
    let mut request = ReplayDeadLetterRequest { dead_letter_id: letter.id.clone(), ..Default::default() };
    let error = Error::from(world.dead_letters().replay_dead_letter(request.clone()).await.unwrap_err());
    assert_eq!((error.code, error.reason), (Code::WrongState, "dead_letter_not_replayable"));
    assert!(error.message.contains("RetryExecution of e "), "{}", error.message);
    let some = world.replay_some(DeadLetterFilter { all: true, ..DeadLetterFilter::default() }, "").await.unwrap();
    assert_eq!((some.replayed, some.tasks.len(), some.failures.len()), (0, 1, 0));
    assert_eq!((some.tasks[0].subject_id.as_str(), some.tasks[0].payload.len()), ("e/a/1", 0));
    // The first says that it was retried; then it is, whoever asks.
    for execution_retried in [true, true, false] {
        request.execution_retried = execution_retried;
        let answer = world.dead_letters().replay_dead_letter(request.clone()).await.unwrap().into_inner();
        assert_eq!((answer.execution_id.as_str(), answer.message_id.as_str()), ("e", ""));
    }
    let some = world.replay_some(DeadLetterFilter { all: true, ..DeadLetterFilter::default() }, "").await.unwrap();
    assert_eq!((some.replayed, some.tasks.len(), some.failures.len()), (0, 0, 0));
}

#[tokio::test]
async fn a_cancelled_task_frees_its_credit_at_once() {
    let world = World::start().await;
    let id = world.registry.add("scorer", &[]);
    let mut agent = world.agent(&id, 1).await;
    let orchestrator = world.orchestrator("rep_1").await;
    orchestrator.dispatch("e/a/1", of_type("scorer")).await;
    agent.task().await;
    orchestrator.dispatch("e/b/1", of_type("scorer")).await;
    orchestrator.cancel("e/a/1").await;
    assert!(matches!(agent.hear().await, server_event::Event::Cancel(cancel) if cancel.task_id == "e/a/1"));
    assert_eq!(agent.task().await.0, "e/b/1");
}

#[tokio::test]
async fn a_full_queue_refuses_tasks() {
    let world = World::with(|settings| settings.queue_limit = 1).await;
    let mut orchestrator = world.orchestrator("rep_1").await;
    orchestrator.dispatch("e/a/1", of_type("scorer")).await;
    orchestrator.dispatch("e/b/1", of_type("scorer")).await;
    assert!(matches!(orchestrator.hear().await, (id, Update::Waiting(_)) if id == "e/a/1"));
    assert!(matches!(orchestrator.hear().await, (id, Update::Refused(_)) if id == "e/b/1"));
}
