//! That all gateways on one database have the same secret: what is kept under one opens nothing under another.
//!
//! The first to start notes which it is; who comes with another does not start. So nobody finds out by keys that open at one gateway
//! and not at the next.

use access::RootSecret;
use async_trait::async_trait;
use sqlx::Row as _;

use crate::{StartError, hex::hex, store::on_both};

/// A database with what gateways agree about.
#[async_trait]
pub(crate) trait AgreedStore: Send + Sync {
    /// Notes the name of the secret where none is noted, or the one that it replaces; and answers with what is noted then.
    async fn agree(&self, name: &str, replaces: Option<&str>) -> sqlx::Result<String>;
}

const NOTE: &str = "INSERT INTO settings (name, value) VALUES ('secret', $1) ON CONFLICT (name) DO NOTHING";
const REPLACE: &str = "UPDATE settings SET value = $1 WHERE name = 'secret' AND value = $2";
const READ: &str = "SELECT value FROM settings WHERE name = 'secret'";

on_both! {
    impl AgreedStore {
        async fn agree(&self, name: &str, replaces: Option<&str>) -> sqlx::Result<String> {
            sqlx::query(NOTE).bind(name).execute(self.writer()).await?;
            if let Some(replaced) = replaces {
                sqlx::query(REPLACE).bind(name).bind(replaced).execute(self.writer()).await?;
            }
            sqlx::query(READ).fetch_one(self.writer()).await?.try_get("value")
        }
    }
}

/// Refuses a secret that is not the one of this database; `replaces` names one that is given up for it.
pub(crate) async fn agree(
    store: &dyn AgreedStore,
    secret: &RootSecret,
    replaces: Option<&str>,
) -> Result<(), StartError> {
    let own = hex(&secret.derive("name-of-the-secret")[..8]);
    tracing::debug!(secret.name = own, "the gateway's secret has this name");
    let noted = store.agree(&own, replaces).await?;
    if noted == own { Ok(()) } else { Err(StartError::OtherSecret(noted)) }
}

#[cfg(test)]
mod tests {
    use settings::Secret;

    use super::*;

    testkit::conformance! {
        only_one_secret_starts
    }

    async fn only_one_secret_starts(place: settings::Database) {
        let database = crate::store::open(&place).await.unwrap();
        let store = crate::store::over!(AgreedStore, database);
        let first = RootSecret::new(&Secret::new("a-secret-of-the-tests-that-is-long"));
        let other = RootSecret::new(&Secret::new("another-secret-of-the-tests-0123456"));
        agree(&*store, &first, None).await.unwrap();
        agree(&*store, &first, None).await.unwrap();
        let refused = agree(&*store, &other, None).await.unwrap_err();
        let StartError::OtherSecret(noted) = &refused else { panic!("{refused:?}") };
        assert!(refused.to_string().contains(noted) && refused.to_string().contains("replaces_secret"), "{refused}");
        assert!(agree(&*store, &other, Some("0123456789abcdef")).await.is_err(), "it replaces another");
        agree(&*store, &other, Some(noted)).await.unwrap();
        agree(&*store, &other, Some(noted)).await.unwrap();
        assert!(agree(&*store, &first, None).await.is_err(), "it was given up");
        database.close().await;
    }
}
