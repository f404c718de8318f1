#![doc = include_str!("../README.md")]

mod access;
mod api;
mod api_key;
mod app;
mod audit;
mod auth;
mod connections;
mod context;
mod denials;
mod error;
mod etag;
mod examples;
mod extract;
mod fields;
#[cfg(test)]
mod fuzz;
mod hex;
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
mod revocations;
mod service;
mod settings;
mod store;
mod tls;
mod words;
mod yaml;

pub use access::matrix;
pub use api_key::{ApiKey, MetricsToken};
pub use auth::{
    Credentials, SecretError, secret,
    tokens::{Algorithm, Issuer, IssuerError, Jwt, SigningError},
};
pub use error::{Error, StartError, check_listen};
pub use openapi::document;
pub use proxies::Network;
pub use rate::{Rate, RateLimit};
pub use service::{Gateway, Peers, start};
pub use settings::{Cors, Settings};
pub use store::MIGRATIONS;
pub use tls::{Certificate, TlsError};
