//! What the message broker loses, or does not take.

use super::{imagined::Server, *};

fn queue() -> QueueKey {
    QueueKey { namespace: Namespace::default(), target: clerk() }
}

#[test]
fn what_does_harm_to_the_message_broker_holds_nothing_else_up_and_is_tried_again() {
    let server = Arc::new(Server::default());
    let mut one = server.bench(1, 8, 3);
    server.set_unfit("harm", true);
    for id in ["harm", "a", "b"] {
        one.dispatch(id, clerk(), 0);
    }
    server.confirm(1, &mut one.broker, true);
    let waiting = |server: &Server| server.waiting().iter().map(|one| one.task.id.to_string()).collect::<Vec<_>>();
    assert_eq!((waiting(&server), one.broker.queued()), (vec!["a".to_owned(), "b".to_owned()], 1));
    server.set_unfit("harm", false);
    one.broker.advance(Instant::now());
    server.confirm(1, &mut one.broker, true);
    assert_eq!(waiting(&server), ["a", "b", "harm"]);
}

#[test]
fn what_is_remembered_of_an_empty_queue_is_not_there() {
    let server = Arc::new(Server::default());
    let mut one = server.bench(1, 8, 3);
    one.dispatch("lost", clerk(), 0);
    server.confirm(1, &mut one.broker, true);
    assert_eq!(one.broker.remembered(), [Arc::new(queue())]);
    let seen = Instant::now();
    server.delete_queues();
    one.dispatch("late", clerk(), 0);
    server.confirm(1, &mut one.broker, true);
    one.told();
    one.broker.emptied(&queue(), seen);
    assert!(matches!(&one.told()[..], [(id, What::Unknown)] if id == "lost"), "the other has come since");
    one.dispatch("lost", clerk(), 0);
    server.confirm(1, &mut one.broker, true);
    assert_eq!(server.waiting().len(), 2);
    for id in ["lost", "late"] {
        one.broker.cancel(id, "not wanted");
    }
    assert_eq!(one.broker.remembered(), [], "nobody wants what is there");
}
