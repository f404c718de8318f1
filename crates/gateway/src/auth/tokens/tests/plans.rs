//! That PostgreSQL answers every statement about keys and what they were exchanged for through an index where there are many, and that
//! every index is for something.

use testkit::{Scans, Servers, fill};

use super::*;
use crate::auth::keys::Which;

const MANY: u128 = 5_000;

fn id(number: u128) -> domain::ApiKeyId {
    domain::ApiKeyId::from_parts(1, number)
}

/// Keys, each with a secret, a family of tokens and a refresh token. Some families are over or revoked, and some tokens used.
fn many() -> String {
    let values = |row: &dyn Fn(u128) -> String| (1..=MANY).map(row).collect::<Vec<_>>().join(",");
    let keys = values(&|n| format!("('{}','key','viewer','{}','key:first','2026-01-01Z')", id(n), n % 10));
    let secrets = values(&|n| format!("('secret{n}','{}','','2026-01-01Z')", id(n)));
    let families = values(&|n| {
        let expires = if n % 50 == 0 { "2026-01-02Z" } else { "2036-01-01Z" };
        let revoked = if n % 50 == 1 { "'2026-01-02Z'" } else { "NULL" };
        format!("('family{n}','{}','{{}}','2026-01-01Z','{expires}',{revoked}::timestamptz,'secret{n}')", id(n))
    });
    let tokens = values(&|n| format!("('refresh{n}','family{n}','','2026-01-01Z')"));
    format!(
        "INSERT INTO api_keys (id, name, role, namespace, created_by, created_at) VALUES {keys};
        INSERT INTO api_key_secrets (prefix, key_id, hash, created_at) VALUES {secrets};
        INSERT INTO token_families (id, key_id, principal, created_at, expires_at, revoked_at, secret_prefix) VALUES {families};
        INSERT INTO refresh_tokens (prefix, family_id, hash, created_at) VALUES {tokens};"
    )
}

#[tokio::test]
async fn no_statement_reads_a_table_from_end_to_end_and_every_index_is_used() {
    let url = Servers::shared().database().await;
    let place = ::settings::Database::postgres(url.clone());
    crate::store::open(&place).await.unwrap().close().await;
    fill(&url, "gateway", &many()).await;
    let before = Scans::of(&url).await;

    let database = crate::store::open(&place).await.unwrap();
    let (keys, tokens) = (crate::store::over!(KeyStore, database), crate::store::over!(TokenStore, database));
    let now = Timestamp::from_millis(1_800_000_000_000);
    let (record, secret) = keys.find("secret7").await.unwrap().unwrap();
    keys.get(record.id).await.unwrap().unwrap();
    let seven = domain::Namespace::from_field("7").unwrap();
    for namespace in [None, Some(&seven)] {
        let found = keys.list(&Which { namespace, after: Some(id(9)), limit: 50 }).await.unwrap();
        assert_eq!(found.len(), 50);
    }
    let fresh = secret.clone();
    keys.rotate(id(8), None, &crate::auth::keys::KeySecret { prefix: "fresh".to_owned(), ..fresh }, now)
        .await
        .unwrap()
        .unwrap();
    assert!(keys.revoke(id(9), None, now).await.unwrap());
    keys.note_use(&[(id(10), now), (id(11), now)]).await.unwrap();
    let family = tokens.family("family12").await.unwrap().unwrap();
    assert!(
        tokens
            .begin(&Family { id: "another".to_owned(), ..family }, &refresh("another", "another", now))
            .await
            .unwrap()
    );
    let used = tokens.refresh("refresh13").await.unwrap().unwrap();
    assert!(tokens.succeed(&used, &refresh("next", &used.family, now), now).await.unwrap());
    assert!(!tokens.succeed(&used, &refresh("again", &used.family, now), now).await.unwrap());
    tokens.revoke("family14", now).await.unwrap();
    assert_eq!(tokens.remove_expired(now, now).await.unwrap(), 202);
    database.close().await;

    let after = Scans::of(&url).await;
    assert_eq!(after.read_whole_since(&before), [].into());
    let unused = after
        .unused_since(&before)
        .into_iter()
        .filter(|index| !index.starts_with("audit") && !index.starts_with("idempotency"));
    assert_eq!(unused.collect::<Vec<_>>(), [""; 0]);
}

fn refresh(prefix: &str, family: &str, now: Timestamp) -> Refresh {
    Refresh { prefix: prefix.to_owned(), family: family.to_owned(), hash: Vec::new(), created_at: now }
}
