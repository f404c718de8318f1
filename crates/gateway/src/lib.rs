#![doc = include_str!("../README.md")]

mod api;
mod api_key;
mod app;
mod connections;
mod context;
mod error;
mod extract;
mod idempotency;
mod json;
mod memory;
mod middleware;
mod openapi;
mod peers;
mod problem;
mod proxies;
mod query;
mod rate;
mod reply;
mod service;
mod settings;
mod words;
mod yaml;

pub use api_key::ApiKey;
pub use error::{Error, StartError, check_listen};
pub use idempotency::MIGRATIONS;
pub use openapi::document;
pub use proxies::Network;
pub use rate::{Rate, RateLimit};
pub use service::{Gateway, Peers, start};
pub use settings::Settings;
