//! The partitions of messages in PostgreSQL, one for each day.

use futures::future::try_join_all;
use testkit::{Servers, fill};

use super::*;

const NO_DAYS: &str = "DO $$
DECLARE day TEXT;
BEGIN
    FOR day IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'messages'::regclass LOOP
        EXECUTE 'DROP TABLE ' || day;
    END LOOP;
END $$";

#[tokio::test]
async fn replicas_that_start_at_once_make_the_days_once() {
    let url = Servers::shared().database().await;
    let place = Database::postgres(url.clone());
    open(&place).await.unwrap().close().await;
    for _ in 0..5 {
        fill(&url, "communication", NO_DAYS).await;
        let replicas = try_join_all((0..6).map(|_| open(&place))).await.unwrap();
        for replica in replicas {
            replica.close().await;
        }
    }
}
