//! Tasks that sessions were lost with, and the company that they get.

use super::{mail::mail, *};

/// A task that two sessions were lost with.
fn suspect(bench: &mut Bench) {
    bench.dispatch("suspect", clerk(), 5);
    for _ in 0..2 {
        let session = bench.open(AGENT, 4);
        assert_eq!(bench.given(session), ["suspect"]);
        bench.broker.close(session, "its process is gone");
    }
}

fn sorting() -> Target {
    Target::Capability("sort".into())
}

#[test]
fn what_waits_to_be_alone_is_so_though_other_queues_never_run_dry() {
    let mut bench = Bench::new(16, 5);
    suspect(&mut bench);
    for id in ["1", "2", "3", "4"] {
        bench.dispatch(id, sorting(), 9);
    }
    let session = bench.open(AGENT, 4);
    let mut held = bench.given(session);
    assert_eq!(held, ["1", "2", "3", "4"]);
    for next in 5..50 {
        bench.dispatch(&next.to_string(), sorting(), 5);
        let done = held.remove(0);
        bench.finish(session, &done);
        bench.broker.acknowledge(&done);
        held.extend(bench.given(session));
        bench.check_credit();
        if held == ["suspect"] {
            return;
        }
        assert!(!held.is_empty());
    }
    panic!("it waits for ever beside {held:?}");
}

#[test]
fn what_is_behind_something_that_waits_to_be_alone_goes_to_others() {
    let mut bench = Bench::new(16, 5);
    suspect(&mut bench);
    for id in ["long", "longer"] {
        bench.dispatch(id, clerk(), 9);
    }
    let (first, second) = (bench.open(AGENT, 1), bench.open(AGENT, 2));
    assert_eq!((bench.given(first), bench.given(second)), (vec!["long".to_owned()], vec!["longer".to_owned()]));
    let third = bench.open(AGENT, 2);
    assert_eq!(bench.given(third), ["suspect"], "it is free already");
    bench.broker.close(third, "its process is gone");
    assert_eq!(bench.given(second), Vec::<String>::new(), "it is kept free");
    let fourth = bench.open(AGENT, 2);
    assert_eq!(bench.given(fourth), ["suspect"]);
    bench.dispatch("next", clerk(), 5);
    assert_eq!(bench.given(second), ["next"], "it need not be free any more");
}

#[test]
fn a_session_that_is_kept_free_goes_on_when_another_is_first_and_hands_on_its_turn_when_it_ends() {
    let mut bench = Bench::new(16, 5);
    suspect(&mut bench);
    bench.dispatch("long", clerk(), 9);
    let kept = bench.open(AGENT, 2);
    bench.dispatch("longer", clerk(), 9);
    let other = bench.open(AGENT, 2);
    assert_eq!((bench.given(kept), bench.given(other)), (vec!["long".to_owned()], vec!["longer".to_owned()]));
    bench.dispatch("next", clerk(), 5);
    assert_eq!((bench.given(kept), bench.given(other)), (vec![], vec!["next".to_owned()]), "one is enough");
    bench.broker.drain(kept);
    bench.check_credit();
    bench.finish(other, "longer");
    bench.check_credit();
    assert_eq!(bench.given(other), Vec::<String>::new(), "now it is kept free");
    bench.finish(other, "next");
    assert_eq!(bench.given(other), ["suspect"]);
}

#[test]
fn a_session_that_is_kept_free_has_mail_until_that_is_what_it_is_kept_free_of() {
    let mut bench = Bench::new(16, 5);
    suspect(&mut bench);
    bench.dispatch("long", clerk(), 9);
    let kept = bench.open(AGENT, 3);
    assert_eq!(bench.given(kept), ["long"]);
    let first = mail(&mut bench, kept, 1);
    assert_eq!(first.len(), 1, "a long task keeps nobody from its mail");
    bench.check_credit();
    bench.finish(kept, "long");
    bench.broker.acknowledge("long");
    assert_eq!(mail(&mut bench, kept, 2), []);
    bench.broker.message_acked(kept, first[0]);
    assert_eq!(bench.given(kept), ["suspect"]);
    bench.finish(kept, "suspect");
    let events = bench.outboxes[&kept].drain();
    assert!(events.iter().any(|event| matches!(event, ToAgent::Message { .. })), "{events:?}");
}
