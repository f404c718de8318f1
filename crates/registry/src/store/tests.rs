//! What every database of agents does, query for query.

use domain::{AgentId, Payload, Timestamp};
use settings::Database;

use super::{Written, open};
use crate::app::Agent;

testkit::conformance! {
    agents_read_back_as_they_were_written_also_after_a_restart
    a_name_is_one_agent_of_its_namespace
    a_change_is_written_over_the_revision_before_it_alone
    agents_are_found_by_id_and_by_name
    who_was_heard_of_is_noted_and_the_deleted_are_left_out
}

fn agent(number: u128, name: &str) -> Agent {
    Agent {
        id: AgentId::from_parts(1, number),
        namespace: "default".parse().unwrap(),
        agent_type: "clerk".to_owned(),
        name: name.to_owned(),
        capabilities: vec!["sort".to_owned(), "rate \"it\"".to_owned()],
        config: Payload::from_slice(br#"{"b":1,"a":[null,"\u00e9"]}"#).unwrap(),
        revision: 1,
        created_at: Timestamp::from_micros(1_700_000_000_123_456),
        updated_at: Timestamp::from_micros(1_700_000_000_123_457),
    }
}

async fn agents_read_back_as_they_were_written_also_after_a_restart(place: Database) {
    let store = open(&place).await.unwrap();
    let (first, second) = (agent(1, "ann"), agent(2, "bob"));
    assert_eq!(store.insert(&second).await.unwrap(), Written::Done);
    assert_eq!(store.insert(&first).await.unwrap(), Written::Done);
    let changed = Agent { name: "cyd".to_owned(), capabilities: Vec::new(), revision: 2, ..second };
    assert_eq!(store.update(&changed).await.unwrap(), Written::Done);
    store.close().await;
    let store = open(&place).await.unwrap();
    assert_eq!(store.load().await.unwrap(), [(first, None), (changed, None)]);
    store.close().await;
}

async fn a_name_is_one_agent_of_its_namespace(place: Database) {
    let store = open(&place).await.unwrap();
    assert_eq!(store.insert(&agent(1, "ann")).await.unwrap(), Written::Done);
    assert_eq!(store.insert(&agent(2, "ann")).await.unwrap(), Written::NameTaken);
    let elsewhere = Agent { namespace: "other".parse().unwrap(), ..agent(3, "ann") };
    assert_eq!(store.insert(&elsewhere).await.unwrap(), Written::Done);
    assert_eq!(store.insert(&agent(4, "bob")).await.unwrap(), Written::Done);
    let renamed = Agent { revision: 2, ..agent(4, "ann") };
    assert_eq!(store.update(&renamed).await.unwrap(), Written::NameTaken);
    assert_eq!(store.insert(&agent(1, "cyd")).await.unwrap(), Written::Outdated, "the id is taken, and not the name");
    let default = "default".parse().unwrap();
    assert!(!store.delete(&default, elsewhere.id, None).await.unwrap(), "of another namespace");
    assert!(!store.delete(&default, AgentId::from_parts(1, 1), Some(99)).await.unwrap(), "at another revision");
    assert!(store.delete(&default, AgentId::from_parts(1, 1), None).await.unwrap());
    assert!(!store.delete(&default, AgentId::from_parts(1, 1), None).await.unwrap());
    assert_eq!(store.update(&renamed).await.unwrap(), Written::Done, "a deleted agent's name is free");
    store.close().await;
}

async fn a_change_is_written_over_the_revision_before_it_alone(place: Database) {
    let store = open(&place).await.unwrap();
    let at = |revision| Agent { revision, ..agent(1, "ann") };
    assert_eq!(store.update(&at(2)).await.unwrap(), Written::Outdated, "there is none");
    store.insert(&at(1)).await.unwrap();
    assert_eq!(store.update(&at(3)).await.unwrap(), Written::Outdated);
    assert_eq!(store.update(&at(2)).await.unwrap(), Written::Done);
    assert_eq!(store.update(&at(2)).await.unwrap(), Written::Outdated);
    assert_eq!(store.load().await.unwrap(), [(at(2), None)]);
    store.close().await;
}

async fn agents_are_found_by_id_and_by_name(place: Database) {
    let store = open(&place).await.unwrap();
    let (ann, bob, cyd) = (agent(1, "ann"), agent(2, "bob"), agent(3, "cyd"));
    for agent in [&ann, &bob] {
        store.insert(agent).await.unwrap();
    }
    store.heard(&[(bob.id, Timestamp::from_micros(5))]).await.unwrap();
    let heard = Some(Timestamp::from_micros(5));
    assert_eq!(store.find(&[cyd.id, bob.id, ann.id]).await.unwrap(), [(ann, None), (bob.clone(), heard)]);
    assert_eq!(store.find(&[]).await.unwrap(), []);
    assert_eq!(store.named(&bob.namespace, "bob").await.unwrap(), Some((bob.clone(), heard)));
    assert_eq!(store.named(&"other".parse().unwrap(), "bob").await.unwrap(), None);
    store.close().await;
}

async fn who_was_heard_of_is_noted_and_the_deleted_are_left_out(place: Database) {
    let store = open(&place).await.unwrap();
    let (ann, bob) = (agent(1, "ann"), agent(2, "bob"));
    store.insert(&ann).await.unwrap();
    store.insert(&bob).await.unwrap();
    store.delete(&bob.namespace, bob.id, None).await.unwrap();
    let at = Timestamp::from_micros;
    store.heard(&[(ann.id, at(5)), (bob.id, at(6))]).await.unwrap();
    store.heard(&[]).await.unwrap();
    assert_eq!(store.load().await.unwrap(), [(ann.clone(), Some(at(5)))]);
    store.heard(&[(ann.id, at(7))]).await.unwrap();
    store.heard(&[(ann.id, at(6))]).await.unwrap();
    assert_eq!(store.load().await.unwrap(), [(ann.clone(), Some(at(7)))], "the last time, whoever says it last");
    store.delete(&ann.namespace, ann.id, None).await.unwrap();
    assert_eq!(store.load().await.unwrap(), []);
    store.close().await;
}

#[tokio::test]
async fn no_change_reads_the_table_from_end_to_end() {
    use testkit::{Scans, Servers, fill};

    let large = "INSERT INTO agents SELECT 'agt_' || lpad(n::text, 26, '0'), 'default', 'clerk', 'clerk-' || n, '{sort}', '{}', \
                 1, now(), now() FROM generate_series(1, 5000) AS n; INSERT INTO agent_health SELECT id, now() FROM agents";
    let url = Servers::shared().database().await;
    let place = Database::postgres(url.clone());
    open(&place).await.unwrap().close().await;
    fill(&url, "registry", large).await;
    let before = Scans::of(&url).await;
    let store = open(&place).await.unwrap();
    let (ann, at) = (agent(1, "ann"), Timestamp::from_micros(5));
    assert_eq!(store.insert(&ann).await.unwrap(), Written::Done);
    let renamed = Agent { revision: ann.revision + 1, ..agent(1, "bob") };
    assert_eq!(store.update(&renamed).await.unwrap(), Written::Done);
    assert_eq!(store.find(&[ann.id]).await.unwrap().len(), 1);
    assert!(store.named(&ann.namespace, "bob").await.unwrap().is_some());
    store.heard(&[(ann.id, at), (AgentId::from_parts(0, 7), at)]).await.unwrap();
    assert!(store.delete(&ann.namespace, ann.id, None).await.unwrap());
    store.close().await;
    // A start reads all agents, which is what it is for; nothing else does.
    let after = Scans::of(&url).await;
    assert_eq!(after.read_whole_since(&before), [].into());
    assert_eq!(after.unused_since(&before), [""; 0]);
}
