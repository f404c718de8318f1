use access::{Permission, Permissions, Role};
use domain::{AgentId, ManualClock, Namespace};
use settings::Secret;

use super::*;

testkit::conformance! {
    a_key_opens_until_it_is_revoked
    what_was_made_up_is_not_looked_for
    a_rotated_key_opens_with_both_secrets_for_a_while
    of_two_changes_at_one_revision_one_is_made
    keys_are_listed_by_namespace_and_remember_when_they_were_used
}

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

struct World {
    database: ::store::Database,
    clock: Arc<ManualClock>,
}

impl World {
    async fn new(place: settings::Database) -> Self {
        let database = crate::store::open(&place).await.unwrap();
        Self { database, clock: Arc::new(ManualClock::at(START)) }
    }

    /// As another replica sees them.
    fn keys(&self) -> Keys {
        let secret = RootSecret::new(&Secret::new("a-secret-of-the-tests"));
        let store = crate::store::over!(KeyStore, self.database);
        Keys::new(store, Some(&secret), Arc::clone(&self.clock) as Arc<dyn Clock>)
    }
}

fn record(number: u128, namespace: Option<&str>) -> Record {
    Record {
        id: ApiKeyId::from_parts(1, number),
        name: format!("key {number}"),
        role: Role::Operator,
        scopes: None,
        namespace: namespace.map(|name| Namespace::from_field(name).unwrap()),
        agent: None,
        created_by: "key:first".to_owned(),
        created_at: START,
        expires_at: Some(START + Duration::from_hours(1)),
        revoked_at: None,
        last_used_at: None,
        revision: 1,
    }
}

async fn a_key_opens_until_it_is_revoked(place: settings::Database) {
    let world = World::new(place).await;
    let keys = world.keys();
    let (agent, scopes) =
        (AgentId::from_parts(1, 7), Permissions::of(&[Permission::AgentsRead, Permission::KeysManage]));
    let bound = Record { scopes: Some(scopes), agent: Some(agent), ..record(1, Some("blue")) };
    let fresh = keys.fresh().unwrap();
    keys.add(&bound, &fresh).await.unwrap();
    assert_eq!(keys.get(bound.id).await.unwrap().unwrap(), bound);

    let (principal, _) = keys.identify(&fresh.text).await.unwrap().unwrap();
    assert_eq!((principal.agent, principal.namespace().unwrap().as_str()), (Some(agent), "blue"));
    assert!(principal.may(Permission::AgentsRead));
    assert!(!principal.may(Permission::KeysManage), "a scope gives nothing that the role has not");
    assert!(!principal.may(Permission::ExecutionsStart), "it is not in the scopes");

    let mut other = fresh.text.clone();
    let last = if other.pop() == Some('0') { '1' } else { '0' };
    other.push(last);
    for wrong in [other.as_str(), "trk_", "trp_0123456789abcdef", "", &fresh.text[..fresh.text.len() - 1]] {
        assert_eq!(keys.identify(wrong).await.unwrap(), Err(Closed::Unknown), "{wrong}");
    }
    let elsewhere = RootSecret::new(&Secret::new("another-secret-of-tests"));
    let store = crate::store::over!(KeyStore, world.database);
    let elsewhere = Keys::new(store, Some(&elsewhere), Arc::clone(&world.clock) as Arc<dyn Clock>);
    assert_eq!(elsewhere.identify(&fresh.text).await.unwrap(), Err(Closed::Unknown), "the pepper is another one");

    assert!(keys.revoke(bound.id, None).await.unwrap());
    assert_eq!(keys.identify(&fresh.text).await.unwrap(), Err(Closed::Revoked));
    assert_eq!(world.keys().identify(&fresh.text).await.unwrap(), Err(Closed::Revoked));
    assert!(!keys.revoke(ApiKeyId::from_parts(9, 9), None).await.unwrap());
    let another = keys.fresh().unwrap();
    let rotated = keys.rotate(bound.id, None, &another, Duration::ZERO).await.unwrap();
    assert_eq!(rotated, None, "it stays revoked");

    let late = record(2, None);
    keys.add(&late, &another).await.unwrap();
    assert!(keys.identify(&another.text).await.unwrap().is_ok());
    world.clock.advance(Duration::from_hours(1));
    assert_eq!(keys.identify(&another.text).await.unwrap(), Err(Closed::Expired));
    world.database.close().await;
}

/// The database is closed: whoever is looked for is not found out about.
async fn what_was_made_up_is_not_looked_for(place: settings::Database) {
    let world = World::new(place).await;
    let keys = world.keys();
    let fresh = keys.fresh().unwrap();
    keys.add(&record(1, None), &fresh).await.unwrap();
    world.database.close().await;
    let made_up = format!("trk_{}_{}", "0".repeat(16), "0".repeat(80));
    let swapped = format!("{}{}", &fresh.text[..fresh.text.len() - 16], &"0".repeat(16));
    for wrong in [made_up, swapped, "trk_".to_owned(), fresh.text.replace("trk_", "trr_")] {
        assert_eq!(keys.identify(&wrong).await.unwrap(), Err(Closed::Unknown), "{wrong}");
    }
    assert_eq!(keys.identify(&fresh.text).await.unwrap_err().reason, "database_unavailable");
}

async fn a_rotated_key_opens_with_both_secrets_for_a_while(place: settings::Database) {
    let world = World::new(place).await;
    let keys = world.keys();
    let (first, second) = (keys.fresh().unwrap(), keys.fresh().unwrap());
    let record = record(1, None);
    keys.add(&record, &first).await.unwrap();
    assert!(keys.identify(&first.text).await.unwrap().is_ok());
    assert_eq!(keys.rotate(record.id, None, &second, Duration::from_mins(5)).await.unwrap(), Some(2));
    for text in [&first.text, &second.text] {
        assert_eq!(keys.identify(text).await.unwrap().unwrap().0.subject, record.id.to_string());
    }
    world.clock.advance(Duration::from_mins(5));
    assert_eq!(keys.identify(&first.text).await.unwrap(), Err(Closed::Expired));
    assert!(keys.identify(&second.text).await.unwrap().is_ok());
    keys.tidy().await;
    assert_eq!(world.keys().identify(&first.text).await.unwrap(), Err(Closed::Unknown), "nothing is left of it");
    assert!(world.keys().identify(&second.text).await.unwrap().is_ok());
    world.database.close().await;
}

async fn of_two_changes_at_one_revision_one_is_made(place: settings::Database) {
    let world = World::new(place).await;
    let (one, other) = (world.keys(), world.keys());
    let record = record(1, None);
    let (first, second, third) = (one.fresh().unwrap(), one.fresh().unwrap(), one.fresh().unwrap());
    one.add(&record, &first).await.unwrap();
    let overlap = Duration::from_mins(5);
    let (left, right) = tokio::join!(
        one.rotate(record.id, Some(1), &second, overlap),
        other.rotate(record.id, Some(1), &third, overlap),
    );
    let mut outcomes = [left, right].map(|outcome| outcome.map_err(|error| error.reason));
    outcomes.sort();
    assert_eq!(outcomes, [Ok(Some(2)), Err("key_changed")]);
    let opens = async |fresh: &Fresh| world.keys().identify(&fresh.text).await.unwrap().is_ok();
    assert_eq!([opens(&second).await, opens(&third).await].iter().filter(|opens| **opens).count(), 1);

    let (left, right) = tokio::join!(one.revoke(record.id, Some(2)), other.rotate(record.id, Some(2), &third, overlap));
    assert_eq!(usize::from(left.is_ok()) + usize::from(right.is_ok()), 1, "{left:?} {right:?}");
    assert_eq!(one.get(record.id).await.unwrap().unwrap().revision, 3);
    assert_eq!(one.revoke(record.id, Some(1)).await.unwrap_err().reason, "key_changed");
    assert!(!one.revoke(ApiKeyId::from_parts(9, 9), Some(1)).await.unwrap(), "what is not there has no revision");
    assert!(one.revoke(record.id, Some(3)).await.is_ok());
    world.database.close().await;
}

async fn keys_are_listed_by_namespace_and_remember_when_they_were_used(place: settings::Database) {
    let world = World::new(place).await;
    let keys = world.keys();
    let fresh = keys.fresh().unwrap();
    keys.add(&record(1, None), &fresh).await.unwrap();
    for (number, namespace) in [(2, "blue"), (3, "red"), (4, "blue")] {
        keys.add(&record(number, Some(namespace)), &keys.fresh().unwrap()).await.unwrap();
    }
    let blue = Namespace::from_field("blue").unwrap();
    let names = async |which: Which<'_>| {
        let found = keys.list(&which).await.unwrap();
        found.into_iter().map(|record| record.name).collect::<Vec<_>>()
    };
    assert_eq!(names(Which { limit: 3, ..Which::default() }).await, ["key 1", "key 2", "key 3"]);
    let after = Some(ApiKeyId::from_parts(1, 2));
    assert_eq!(names(Which { namespace: Some(&blue), after, limit: 9 }).await, ["key 4"]);

    keys.identify(&fresh.text).await.unwrap().unwrap();
    assert_eq!(keys.get(record(1, None).id).await.unwrap().unwrap().last_used_at, None, "no write per request");
    keys.tidy().await;
    assert_eq!(keys.get(record(1, None).id).await.unwrap().unwrap().last_used_at, Some(START));
    world.database.close().await;
}
