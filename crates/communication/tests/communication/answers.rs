//! Answers to an agent with several sessions: each comes to the process that has asked, while there is one.

use std::time::Duration;

use contracts::communication::v1::{Drain, Hello, Message, MessageStatus, Send, agent_event::Event, server_event};
use domain::{InstanceId, SystemClock};
use testkit::Servers;

use crate::world::{Agent, Shared, World, to};

/// One process of an agent, with its session.
struct Process {
    instance: String,
    session: Agent,
    asked: u64,
}

impl Process {
    async fn start(world: &World, agent: &str) -> Self {
        let session = world.agent(agent, 2).await;
        Self { instance: InstanceId::generate(&SystemClock).to_string(), session, asked: 0 }
    }

    /// Asks somebody; answers with the question's correlation id.
    async fn ask(&mut self, whom: &str) -> String {
        self.asked += 1;
        let correlation_id = format!("{}.{}", self.instance, self.asked);
        let question =
            Message { r#type: "request".to_owned(), correlation_id: correlation_id.clone(), ..to(whom, "\"why\"") };
        self.session.say(Event::Send(Send { r#ref: self.asked, message: Some(question) })).await;
        assert!(matches!(self.session.hear().await, server_event::Event::Receipt(receipt) if receipt.error.is_empty()));
        correlation_id
    }

    async fn hear_answer(&mut self, correlation_id: &str) {
        let (answer, _) = self.session.message().await;
        assert_eq!(answer.correlation_id, correlation_id);
        self.session.ack(&answer.id).await;
    }
}

/// An answer to an agent.
fn answer(agent: &str, correlation_id: &str) -> Message {
    Message { r#type: "reply".to_owned(), correlation_id: correlation_id.to_owned(), ..to(agent, "\"because\"") }
}

/// Both ask and both are answered, through one replica and the other.
async fn each_hears_its_own(asking: [&World; 2], agent: &str, peer: &str) -> [Process; 2] {
    let mut first = Process::start(asking[0], agent).await;
    let mut second = Process::start(asking[1], agent).await;
    for process in [&mut first, &mut second] {
        // More than one in a row, since they would be shared out in turn.
        for world in asking.into_iter().cycle().take(4) {
            let question = process.ask(peer).await;
            world.send(answer(agent, &question)).await.unwrap();
            process.hear_answer(&question).await;
        }
    }
    [first, second]
}

#[tokio::test]
async fn an_answer_comes_to_the_process_that_has_asked() {
    let world = World::start().await;
    let (agent, peer) = (world.registry.add("boss", &[]), world.registry.add("clerk", &[]));
    each_hears_its_own([&world, &world], &agent, &peer).await;
}

#[tokio::test]
async fn an_answer_comes_to_the_process_that_has_asked_on_whichever_replica() {
    let shared = Shared::new(Servers::shared()).await;
    let (one, other) = (shared.replica().await, shared.replica().await);
    let (agent, peer) = (shared.agent("boss"), shared.agent("clerk"));
    each_hears_its_own([&one, &other], &agent, &peer).await;
}

/// What is for a process that is gone comes to another of its agent; and what is for one that comes back comes to that.
async fn who_is_gone_and_who_is_back(asking: [&World; 2], agent: &str, peer: &str) {
    let [mut lost, mut staying] = each_hears_its_own(asking, agent, peer).await;
    let question = lost.ask(peer).await;
    drop(lost.session);
    let hello =
        Hello { agent_id: agent.to_owned(), max_in_flight: 2, instance: lost.instance.clone(), ..Hello::default() };
    let mut session = asking[1].hello(hello).await;
    session.welcome().await;
    let mut back = Process { instance: lost.instance, session, asked: lost.asked };
    asking[0].send(answer(agent, &question)).await.unwrap();
    back.hear_answer(&question).await;

    let question = back.ask(peer).await;
    back.session.say(Event::Drain(Drain::default())).await;
    drop(back.session);
    let sent = asking[0].send(answer(agent, &question)).await.unwrap();
    staying.hear_answer(&question).await;
    asking[1].until_status(&sent, MessageStatus::Acked).await;
}

#[tokio::test]
async fn an_answer_to_a_process_that_is_gone_comes_to_another_of_its_agent() {
    let world = World::with(|settings| settings.answer_wait = Duration::from_secs(2)).await;
    let (agent, peer) = (world.registry.add("boss", &[]), world.registry.add("clerk", &[]));
    who_is_gone_and_who_is_back([&world, &world], &agent, &peer).await;
}

#[tokio::test]
async fn an_answer_to_a_process_that_is_gone_comes_to_another_of_its_agent_on_whichever_replica() {
    let shared = Shared::new(Servers::shared()).await;
    let (one, other) = (shared.replica().await, shared.replica().await);
    let (agent, peer) = (shared.agent("boss"), shared.agent("clerk"));
    who_is_gone_and_who_is_back([&one, &other], &agent, &peer).await;
}
