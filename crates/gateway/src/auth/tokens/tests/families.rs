//! What keys are exchanged for, in either database: it ends with them.

use super::*;

testkit::conformance! {
    a_refresh_token_is_used_once
    a_family_ends_with_its_key
    tokens_end_with_the_secret_that_was_presented
    who_revokes_a_key_meanwhile_comes_first
    a_key_has_so_many_families_and_no_more
}

const fn later(minutes: u64) -> Timestamp {
    Timestamp::from_micros(START.as_micros() + minutes as i64 * 60_000_000)
}

/// A database, and what several replicas know of it.
struct Shared {
    database: ::store::Database,
    root: RootSecret,
    clock: Arc<ManualClock>,
}

impl Shared {
    async fn open(place: &::settings::Database) -> Self {
        let database = crate::store::open(place).await.unwrap();
        let root = RootSecret::new(&Secret::new("a-secret-of-the-tests-that-is-long"));
        Self { database, root, clock: Arc::new(ManualClock::at(START)) }
    }

    fn store(&self) -> Arc<dyn TokenStore> {
        crate::store::over!(TokenStore, self.database)
    }

    /// Those of another replica each time.
    fn keys(&self) -> Keys {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        Keys::new(crate::store::over!(KeyStore, self.database), Some(&self.root), clock)
    }

    /// Those of another replica each time.
    fn tokens(&self) -> Tokens {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let (settings, secret) = (Jwt::default(), Some(&self.root));
        Tokens::new(self.store(), Parts { settings, secret, shared: None, outside: None, configured: None, clock })
            .unwrap()
    }

    /// A key, and the prefix of its secret.
    async fn key(&self, expires_at: Option<Timestamp>) -> (Record, String) {
        let (keys, key) = (self.keys(), key(expires_at));
        let fresh = keys.fresh().unwrap();
        keys.add(&key, &fresh).await.unwrap();
        let (_, presented) = keys.identify(&fresh.text).await.unwrap().unwrap();
        (key, presented.secret.unwrap().to_string())
    }

    async fn exchange(&self, keys: &Keys, secret: &str) -> Result<Pair, Refused> {
        let (principal, presented) = keys.identify(secret).await.unwrap().unwrap();
        self.tokens().exchange(&principal, presented.secret.as_deref(), None).await.unwrap()
    }
}

fn family(id: &str, key_id: &str, secret: Option<&str>) -> Family {
    Family {
        id: id.to_owned(),
        key_id: key_id.to_owned(),
        secret: secret.map(str::to_owned),
        principal: "{}".to_owned(),
        created_at: START,
        expires_at: later(60),
        is_revoked: false,
    }
}

fn refresh(prefix: &str, family: &str) -> Refresh {
    Refresh { prefix: prefix.to_owned(), family: family.to_owned(), hash: vec![7; 32], created_at: START }
}

async fn a_refresh_token_is_used_once(place: ::settings::Database) {
    let shared = Shared::open(&place).await;
    let store = shared.store();
    let configured = family("fam_1", "configured", None);
    assert!(store.begin(&configured, &refresh("b", "fam_1")).await.unwrap());
    assert_eq!(store.family("fam_1").await.unwrap().unwrap(), configured);
    let first = store.refresh("b").await.unwrap().unwrap();
    assert_eq!(first, refresh("b", "fam_1"));
    assert_eq!(store.refresh("x").await.unwrap(), None);
    assert!(store.succeed(&first, &refresh("c", "fam_1"), START).await.unwrap());
    assert!(store.refresh("b").await.unwrap().is_some(), "to know one that comes twice");
    let second = store.refresh("c").await.unwrap().unwrap();
    assert!(store.succeed(&second, &refresh("d", "fam_1"), later(1)).await.unwrap());
    assert_eq!(store.refresh("b").await.unwrap(), None, "of those that are used up the last is kept");
    assert!(!store.family("fam_1").await.unwrap().unwrap().is_revoked);
    let used = store.refresh("c").await.unwrap().unwrap();
    assert!(!store.succeed(&used, &refresh("e", "fam_1"), later(2)).await.unwrap(), "it comes twice");
    assert!(store.family("fam_1").await.unwrap().unwrap().is_revoked);
    assert_eq!(store.refresh("e").await.unwrap(), None);
    shared.database.close().await;
}

async fn a_family_ends_with_its_key(place: ::settings::Database) {
    let shared = Shared::open(&place).await;
    let store = shared.store();
    let (key, secret) = shared.key(Some(later(20))).await;
    let id = key.id.to_string();
    let own = family("fam_1", &id, Some(&secret));
    assert!(store.begin(&own, &refresh("a", "fam_1")).await.unwrap());
    let found = store.family("fam_1").await.unwrap().unwrap();
    assert_eq!(found, Family { expires_at: later(20), ..own }, "no longer than its key");
    assert_eq!(store.family("fam_2").await.unwrap(), None);
    assert!(store.begin(&family("fam_2", &id, None), &refresh("b", "fam_2")).await.unwrap());
    assert!(store.family("fam_2").await.unwrap().unwrap().is_revoked, "nobody knows of which secret it is");

    let ended = async || {
        let mut ended =
            shared.tokens().ended_of(["fam_1", "fam_2", "fam_9"].map(str::to_owned).to_vec()).await.unwrap();
        ended.sort();
        ended
    };
    assert_eq!(ended().await, ["fam_2", "fam_9"], "in one question");
    shared.clock.set(later(20));
    assert_eq!(ended().await, ["fam_1", "fam_2", "fam_9"], "its key has expired");
    shared.clock.set(START);
    shared.keys().revoke(key.id, None).await.unwrap();
    assert_eq!(ended().await, ["fam_1", "fam_2", "fam_9"], "its key is revoked");
    assert!(store.family("fam_1").await.unwrap().unwrap().is_revoked, "its key is");
    assert!(!store.begin(&family("fam_3", &id, Some(&secret)), &refresh("c", "fam_3")).await.unwrap());
    assert_eq!(store.family("fam_3").await.unwrap(), None);
    store.revoke("fam_1", START).await.unwrap();
    assert_eq!(store.remove_expired(later(59), START - Duration::from_secs(1)).await.unwrap(), 0);
    assert_eq!(store.remove_expired(later(59), START).await.unwrap(), 1, "it is revoked");
    assert_eq!(store.remove_expired(later(60), START).await.unwrap(), 1);
    assert_eq!(store.refresh("a").await.unwrap(), None, "with all that belongs to it");
    shared.database.close().await;
}

/// As it is where another replica has rotated or revoked the key, and this one remembers it as it was.
async fn tokens_end_with_the_secret_that_was_presented(place: ::settings::Database) {
    let shared = Shared::open(&place).await;
    let (here, elsewhere) = (shared.keys(), shared.keys());
    let (first, second) = (here.fresh().unwrap(), here.fresh().unwrap());
    here.add(&key(Some(later(50))), &first).await.unwrap();
    let before = shared.exchange(&here, &first.text).await.unwrap();
    assert_eq!(before.expires_in, Duration::from_mins(50), "no longer than its key");
    let overlap = Duration::from_mins(5);
    assert!(elsewhere.rotate(key(None).id, None, &second, overlap).await.unwrap().is_some());
    let after = shared.exchange(&here, &first.text).await.unwrap();
    assert_eq!(after.expires_in, overlap, "no longer than the secret");
    let (_, until) = shared.tokens().identify(&before.access).await.unwrap().unwrap();
    assert_eq!(until, Some(later(5)), "though it says more of itself");
    let of_second = shared.exchange(&here, &second.text).await.unwrap();
    shared.clock.advance(overlap);
    for old in [&before, &after] {
        assert_eq!(refused(&shared.tokens(), &old.access).await, Some(Refused::Revoked));
        assert!(matches!(shared.tokens().refresh(&old.refresh).await.unwrap(), Err(Refused::Expired)));
    }
    elsewhere.tidy().await;
    for old in [&before, &after] {
        let renewed = shared.tokens().refresh(&old.refresh).await.unwrap();
        assert!(matches!(renewed, Err(Refused::Revoked)), "nothing is left of its secret");
    }
    assert_eq!(refused(&shared.tokens(), &of_second.access).await, None);
    here.identify(&second.text).await.unwrap().unwrap();
    assert!(elsewhere.revoke(key(None).id, None).await.unwrap());
    let late = shared.exchange(&here, &second.text).await;
    assert!(matches!(late, Err(Refused::Revoked)), "though this replica remembers it");
    assert_eq!(refused(&shared.tokens(), &of_second.access).await, Some(Refused::Revoked));
    shared.database.close().await;
}

async fn who_revokes_a_key_meanwhile_comes_first(place: ::settings::Database) {
    const REVOKE: &str = "UPDATE api_keys SET revoked_at = created_at";
    let shared = Shared::open(&place).await;
    let store = shared.store();
    let (key, secret) = shared.key(None).await;
    let own = family("fam_1", &key.id.to_string(), Some(&secret));
    let first = refresh("a", "fam_1");
    let mut begin = std::pin::pin!(store.begin(&own, &first));
    macro_rules! meanwhile {
        ($pool:expr, $begin:literal) => {{
            let mut revoking = $pool.begin_with($begin).await.unwrap();
            sqlx::query(REVOKE).execute(&mut *revoking).await.unwrap();
            let early = tokio::time::timeout(Duration::from_millis(200), &mut begin).await;
            assert!(early.is_err(), "it waits for whoever revokes the key");
            revoking.commit().await.unwrap();
        }};
    }
    match &shared.database {
        ::store::Database::Sqlite(sqlite) => meanwhile!(sqlite.writer, "BEGIN IMMEDIATE"),
        ::store::Database::Postgres(postgres) => meanwhile!(postgres.pool, "BEGIN"),
    }
    assert!(!begin.await.unwrap(), "it is revoked by now");
    shared.database.close().await;
}

async fn a_key_has_so_many_families_and_no_more(place: ::settings::Database) {
    let shared = Shared::open(&place).await;
    let store = shared.store();
    let later = |seconds| START + Duration::from_secs(seconds);
    let most = store::MOST_OF_A_KEY.unsigned_abs();
    let begin = async |key_id: &str, number: u64| {
        let id = format!("fam_{key_id}_{number}");
        let (created_at, expires_at) = (later(number), later(100_000));
        let family = Family { created_at, expires_at, ..family(&id, key_id, None) };
        assert!(store.begin(&family, &refresh(&format!("{key_id}_{number}"), &id)).await.unwrap());
    };
    begin("configured:2", 0).await;
    for number in 0..most + 2 {
        begin("configured:1", number).await;
    }
    let is_revoked = async |id: &str| store.family(id).await.unwrap().unwrap().is_revoked;
    for (number, expected) in [(0, true), (1, true), (2, false), (most + 1, false)] {
        assert_eq!(is_revoked(&format!("fam_configured:1_{number}")).await, expected, "{number}");
    }
    assert!(!is_revoked("fam_configured:2_0").await, "another's are its own");
    assert_eq!(store.remove_expired(later(100_000), START).await.unwrap(), most + 3, "in portions, all of them");
    shared.database.close().await;
}
