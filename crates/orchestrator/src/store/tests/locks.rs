//! Locks that executions share.

use domain::Namespace;
use settings::Database;
use workflow::{Holder, Lock, LockKind, Unit};

use super::{LEASE, NOW, append, event, summary};
use crate::store::{Deed, Held, LockKey, LockOrder, Store, Summary, open};

fn key(name: &str) -> LockKey {
    let lock = Lock { kind: LockKind::Mutex, name: name.to_owned(), limit: 1 };
    LockKey::new(&Namespace::default(), &lock)
}

fn acquire(number: u128, held: Held, most: u32) -> LockOrder {
    // A name of any length, with letters that no column takes.
    let deed = Deed::Acquire { name: "a\0b".repeat(10_000), most, at: NOW };
    LockOrder { execution: summary(number).id, holder: Holder::Execution, key: key("one"), held, deed }
}

fn release(number: u128, held: Held) -> LockOrder {
    LockOrder { deed: Deed::Release, ..acquire(number, held, 1) }
}

/// The numbers of those who have it, and of those who wait.
async fn line(store: &dyn Store) -> (Vec<u128>, Vec<u128>) {
    let rows = store.lock_rows(&[0, 1], 0, 100).await.unwrap();
    let number = |id| (1..10).find(|number| summary(*number).id == id).unwrap();
    let (has, waits): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.is_granted);
    let numbers = |rows: Vec<&crate::store::LockRow>| rows.iter().map(|row| number(row.execution)).collect();
    (numbers(has), numbers(waits))
}

async fn with_executions(place: &Database) -> (std::sync::Arc<dyn Store>, Held) {
    let store = open(place).await.unwrap();
    store.make_shards(1).await.unwrap();
    let held = store.claim("one", 1, LEASE, false).await.unwrap();
    let executions: Vec<_> = (1..10).map(summary).collect();
    let events = executions.iter().map(|summary| event(summary, 1)).collect();
    store.append("one", &append(events, executions, &held)).await.unwrap();
    (store, held[0])
}

pub(super) async fn locks_are_given_in_the_order_of_those_who_ask(place: Database) {
    let (store, held) = with_executions(&place).await;
    let change = async |orders: &[LockOrder]| {
        let granted = store.change_locks("one", orders).await.unwrap();
        let asked = granted.asked.into_iter().map(|(id, ..)| id).collect::<Vec<_>>();
        (asked, granted.others)
    };
    let id = |number| summary(number).id;
    let orders: Vec<_> = (1..=4).map(|number| acquire(number, held, 2)).collect();
    assert_eq!(change(&orders).await, (vec![id(1), id(2)], vec![]));
    assert_eq!(line(&*store).await, (vec![1, 2], vec![3, 4]));
    assert_eq!(store.lock_places(id(4)).await.unwrap(), [(Holder::Execution, 1)]);
    assert_eq!(store.lock_places(id(1)).await.unwrap(), []);
    // Asking again changes nothing, and is answered.
    assert_eq!(change(&[acquire(2, held, 2), acquire(4, held, 2)]).await, (vec![id(2)], vec![]));
    // Whoever has it gives it back and asks again stands at the end.
    assert_eq!(change(&[release(1, held), acquire(1, held, 2)]).await, (vec![], vec![id(3)]));
    assert_eq!(line(&*store).await, (vec![2, 3], vec![4, 1]));
    // One that wants fewer beside it holds up those behind it, however many they allow.
    change(&[acquire(5, held, 1), acquire(6, held, 9)]).await;
    change(&[release(2, held), release(3, held)]).await;
    assert_eq!(line(&*store).await, (vec![4, 1], vec![5, 6]));
    change(&[release(1, held), release(4, held), release(7, held)]).await;
    assert_eq!(line(&*store).await, (vec![5], vec![6]));
    // Who is given one lock as it asks for another hears of both.
    let other = LockOrder {
        holder: Holder::Unit(Unit { frame: 1, step: 1, index: None }),
        key: key("other"),
        ..acquire(6, held, 1)
    };
    assert_eq!(change(&[release(5, held), other.clone()]).await, (vec![id(6)], vec![id(6)]));
    change(&[release(6, held), LockOrder { deed: Deed::Release, ..other }, acquire(5, held, 1), acquire(6, held, 9)])
        .await;
    assert_eq!(line(&*store).await, (vec![5], vec![6]));
    // A unit of an execution is another holder, and another name another lock.
    let unit = Holder::Unit(Unit { frame: 7, step: 1, index: Some(2) });
    let other = LockOrder { holder: unit, key: key("another"), ..acquire(5, held, 1) };
    assert_eq!(change(&[other]).await.0, [id(5)]);
    let rows = store.lock_rows(&[0], 0, 100).await.unwrap();
    assert_eq!(rows.last().unwrap().holder, unit);
    assert_eq!(store.lock_rows(&[0], rows[0].ticket, 1).await.unwrap(), rows[1..2]);
    assert_eq!(store.lock_rows(&[1], 0, 100).await.unwrap(), []);
    store.close().await;
}

/// Every statement once.
pub(super) async fn touch(store: &dyn Store, held: Held) {
    for orders in [[acquire(1, held, 1), acquire(2, held, 1)], [release(1, held), acquire(2, held, 1)]] {
        store.change_locks("one", &orders).await.unwrap();
    }
    assert!(store.lock_rows(&[1, 2, 3], 0, 100).await.unwrap().len() == 100);
    store.lock_places(summary(2).id).await.unwrap();
    store.ended(&[summary(1).id, summary(2).id]).await.unwrap();
}

pub(super) async fn orders_of_who_lost_the_shard_are_not_done(place: Database) {
    let (store, held) = with_executions(&place).await;
    let late = Held { epoch: held.epoch - 1, ..held };
    store.change_locks("one", &[acquire(1, late, 1), acquire(2, held, 1)]).await.unwrap();
    assert_eq!(line(&*store).await, (vec![2], vec![]));
    assert!(store.change_locks("other", &[release(2, held)]).await.unwrap().others.is_empty());
    assert_eq!(line(&*store).await, (vec![2], vec![]));
    assert_eq!(store.change_locks("one", &[]).await.unwrap(), crate::store::Granted::default());
    store.close().await;
}

pub(super) async fn which_executions_have_ended_is_told_of_many_at_once(place: Database) {
    let (store, held) = with_executions(&place).await;
    let ended = Summary { ended_at: Some(NOW), last_sequence: 2, ..summary(3) };
    store.change_locks("one", &[acquire(3, held, 1)]).await.unwrap();
    store.append("one", &append(vec![event(&ended, 2)], vec![ended.clone()], &[held])).await.unwrap();
    let ids: Vec<_> = (1..40_000).map(|number| summary(number).id).collect();
    assert_eq!(store.ended(&ids).await.unwrap(), [ended.id]);
    assert_eq!(store.ended(&[]).await.unwrap(), []);
    assert!(store.lock_rows(&[0], 0, 1).await.unwrap()[0].has_ended);
    store.close().await;
}
