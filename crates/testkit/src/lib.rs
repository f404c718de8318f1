//! Real parts for tests: the built `troupe` binary as a process that can be killed, a client for its API, PostgreSQL, RabbitMQ
//! and Redis, and waiting for conditions instead of sleeping.
//!
//! Everything here fails loudly: a missing binary or a server that does not come up ends the test with what to do about it
//! and with the server's own words.

mod api;
mod cluster;
mod command;
pub mod fuzz;
mod process;
mod proxy;
mod scans;
mod server;
mod servers;
mod wait;
pub mod websocket;

pub use api::{Answer, Api};
pub use cluster::{
    CERT_NAME, Cluster, Connections, ONE_OF_EACH, Setup, Size, TOKEN, TWO_OF_EACH, TWO_ORCHESTRATORS, own_address,
};
pub use command::{Output, binary, troupe, troupe_with, workspace};
pub use proxy::{Network, Proxy};
pub use scans::{Scans, behind_the_back, fill};
pub use server::Server;
pub use servers::Servers;
pub use wait::{eventually, within};

/// The same tests for each kind of database: functions that take a [`settings::Database`], each with an empty one.
#[macro_export]
macro_rules! conformance {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let folder = tempfile::tempdir().unwrap();
                super::$name(::settings::Database::sqlite(folder.path().join("test.db"))).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(::settings::Database::postgres($crate::Servers::shared().database().await)).await;
            })*
        }
    };
}
