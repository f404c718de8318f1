//! An agent whose tokens are renewed.

use agent_sdk::{Error, Shutdown};
use errors::Code;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    echo,
    gateway::{Asked, Gateway, Say},
    server::{Server, output, task},
};

/// Runs the agent with a key against both, until the guard is dropped.
fn run(server: &Server, gateway: &Gateway) -> JoinSet<Result<(), Error>> {
    let at = agent_sdk::Server::at(server.address()).key(gateway.url.clone(), "trk_1");
    let mut running = JoinSet::new();
    running.spawn(echo().connect(at).run_until(Shutdown::new()));
    running
}

fn refused(reason: &'static str) -> tonic::Status {
    errors::Error::new(Code::Unauthenticated, reason, "it is good no more").into()
}

#[tokio::test]
async fn a_lost_answer_shows_no_refresh_token_twice_and_costs_no_task_and_no_session() {
    let mut server = Server::listening().await;
    let mut gateway = Gateway::saying([
        Say::Tokens("one", "trr_1", 2),
        Say::Tokens("two", "trr_2", 2),
        Say::Nothing,
        Say::Tokens("three", "trr_3", 600),
    ])
    .await;
    let _running = run(&server, &gateway);
    let mut session = server.session().await;
    assert_eq!(gateway.asked().await, Asked::by_key());
    assert_eq!(server.opened_with().await, "Bearer one");
    session.send([task("t1", "echo", &json!(1))]).await;
    assert_eq!(gateway.asked().await, Asked::by_refresh_token("trr_1"));
    assert_eq!(server.renewed_with().await, "Bearer two");
    assert_eq!(gateway.asked().await, Asked::by_refresh_token("trr_2"), "its answer is lost");
    assert_eq!(gateway.asked().await, Asked::by_key(), "what may have been used up is not shown again");
    assert_eq!(server.renewed_with().await, "Bearer three");
    session.send([task("t2", "echo", &json!(2))]).await;
    assert_eq!(output(&session.result("t2").await), json!(2), "over the session that there was");
}

#[tokio::test]
async fn a_server_that_could_not_be_told_of_a_token_is_told_again() {
    let mut server = Server::listening().await;
    server.fail_renewals(2);
    let mut gateway = Gateway::saying([Say::Tokens("one", "trr_1", 2), Say::Tokens("two", "trr_2", 600)]).await;
    let _running = run(&server, &gateway);
    let _session = server.session().await;
    for asked in [Asked::by_key(), Asked::by_refresh_token("trr_1")] {
        assert_eq!(gateway.asked().await, asked);
    }
    for _ in 0..3 {
        assert_eq!(server.renewed_with().await, "Bearer two");
    }
    assert!(!gateway.was_asked(), "it has given one already");
}

#[tokio::test]
async fn a_token_that_is_good_no_more_is_replaced_by_the_key_and_one_that_is_refused_ends_the_agent() {
    let mut server = Server::listening().await;
    let mut gateway = Gateway::saying([
        Say::Tokens("one", "trr_1", 600),
        Say::Tokens("two", "trr_2", 600),
        Say::Tokens("three", "trr_3", 600),
        Say::Status(401),
    ])
    .await;
    let mut running = run(&server, &gateway);
    for (reason, token) in [("token_revoked", "one"), ("token_expired", "two")] {
        server.refuse(refused(reason)).await;
        assert_eq!(gateway.asked().await, Asked::by_key(), "{reason}");
        assert_eq!(server.opened_with().await, format!("Bearer {token}"));
    }
    let session = server.session().await;
    assert_eq!(server.opened_with().await, "Bearer three");
    session.end(refused("token_revoked")).await;
    let ended = running.join_next().await.expect("it was started").expect("it does not panic");
    let Err(Error::Refused { source, .. }) = ended else { panic!("{ended:?}") };
    assert_eq!(source.reason, "key_refused");
}

#[tokio::test]
async fn a_key_goes_where_no_redirect_leads() {
    let mut server = Server::listening().await;
    let mut elsewhere = Gateway::saying([Say::Tokens("stolen", "trr_0", 600)]).await;
    let mut gateway = Gateway::saying([Say::Elsewhere(elsewhere.url.clone()), Say::Tokens("one", "trr_1", 600)]).await;
    let _running = run(&server, &gateway);
    let _session = server.session().await;
    assert_eq!(server.opened_with().await, "Bearer one");
    for _ in 0..2 {
        assert_eq!(gateway.asked().await, Asked::by_key());
    }
    assert!(!elsewhere.was_asked());
}

#[tokio::test]
async fn a_token_that_is_good_opens_a_stream_while_its_gateway_is_away() {
    let mut server = Server::listening().await;
    // Then it answers nothing more for as long as the session is away.
    let mut gateway = Gateway::saying([Say::Tokens("one", "trr_1", 8), Say::Silence]).await;
    let _running = run(&server, &gateway);
    let session = server.session().await;
    assert_eq!(server.opened_with().await, "Bearer one");
    for asked in [Asked::by_key(), Asked::by_refresh_token("trr_1")] {
        assert_eq!(gateway.asked().await, asked, "when half of its time is over");
    }
    session.end(errors::Error::unavailable("server_draining", "it starts again").into()).await;
    let _next = server.session().await;
    assert_eq!(server.opened_with().await, "Bearer one");
}

#[tokio::test]
async fn what_no_server_knows_any_more_is_replaced_once() {
    let mut server = Server::listening().await;
    let says = [Say::Tokens("one", "trr_1", 600), Say::Tokens("two", "trr_2", 600), Say::Tokens("three", "trr_3", 600)];
    let gateway = Gateway::saying(says).await;
    let mut running = run(&server, &gateway);
    let session = server.session().await;
    session.end(errors::Error::unavailable("server_draining", "it starts again, with another secret").into()).await;
    server.refuse(refused("unauthenticated")).await;
    let session = server.session().await;
    for token in ["one", "one", "two"] {
        assert_eq!(server.opened_with().await, format!("Bearer {token}"));
    }
    session.end(refused("unauthenticated")).await;
    server.refuse(refused("unauthenticated")).await;
    assert_eq!(server.opened_with().await, "Bearer three");
    let ended = running.join_next().await.expect("it was started").expect("it does not panic");
    let Err(Error::Refused { source, .. }) = ended else { panic!("{ended:?}") };
    assert_eq!(source.reason, "unauthenticated", "the next would be refused as well");
}

#[tokio::test]
async fn near_the_end_of_a_family_the_key_begins_another_and_nothing_is_asked_without_a_pause() {
    let mut server = Server::listening().await;
    let short = (0..5).map(|_| Say::Tokens("short", "trr_2", 0));
    let mut gateway = Gateway::saying([Say::Tokens("one", "trr_1", 2)].into_iter().chain(short)).await;
    let _running = run(&server, &gateway);
    let _session = server.session().await;
    assert_eq!(gateway.asked().await, Asked::by_key());
    assert_eq!(gateway.asked().await, Asked::by_refresh_token("trr_1"));
    let begun = tokio::time::Instant::now();
    assert_eq!(gateway.asked().await, Asked::by_key(), "what comes of the first exchange ends");
    assert_eq!(gateway.asked().await, Asked::by_refresh_token("trr_2"), "of the second it is not known yet");
    assert!(begun.elapsed() > std::time::Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_session_that_cannot_be_renewed_is_not_tried_again() {
    let mut server = Server::listening().await;
    server.know_no_session();
    let says = [Say::Tokens("one", "trr_1", 2), Say::Tokens("two", "trr_2", 2), Say::Tokens("three", "trr_3", 2)];
    let mut gateway = Gateway::saying(says).await;
    let _running = run(&server, &gateway);
    let _session = server.session().await;
    for asked in [Asked::by_key(), Asked::by_refresh_token("trr_1")] {
        assert_eq!(gateway.asked().await, asked);
    }
    assert!(server.renewed_with().await.starts_with("Bearer"));
    // What is tested is that nothing happens, for longer than the token lasts.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(!gateway.was_asked() && !server.was_renewed());
}
