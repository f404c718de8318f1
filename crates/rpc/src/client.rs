//! Links to the replicas of a service.

use std::{str::FromStr, sync::Arc, time::Duration};

use contracts::{Link, Links, Replica};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tonic::transport::Endpoint;

use crate::{Token, balance::Balanced};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// How often a connection is asked whether it lives, and how long it may take to say so: a replica that is stopped or cut off
/// keeps calls no longer than the two together.
const KEEPALIVE: Duration = Duration::from_secs(2);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(3);

/// Where the replicas of a service are: `host:port`, several with commas between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Replicas(Vec<String>);

/// Text that names no replicas.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?} is not host:port")]
pub struct ReplicasError(String);

impl FromStr for Replicas {
    type Err = ReplicasError;

    fn from_str(text: &str) -> Result<Self, ReplicasError> {
        let addresses = text.split(',').map(str::trim).filter(|address| !address.is_empty());
        let is_host = |host: &str| {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:[]".contains(&byte))
        };
        let checked = addresses.map(|address| match address.rsplit_once(':') {
            Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok() => Ok(address.to_owned()),
            _ => Err(ReplicasError(address.to_owned())),
        });
        checked.collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<String> for Replicas {
    type Error = ReplicasError;

    fn try_from(text: String) -> Result<Self, ReplicasError> {
        text.parse()
    }
}

impl From<Replicas> for String {
    fn from(replicas: Replicas) -> Self {
        replicas.0.join(",")
    }
}

/// No link can be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no address.
    #[error("no address is given")]
    Nowhere,
    /// An address is none.
    #[error("{address} is no address")]
    Address {
        /// What was given.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// A link to the replicas of a service. It connects when it is used, and again when a connection is lost.
pub fn connect(replicas: &Replicas, token: Option<&Token>) -> Result<Link, ConnectError> {
    let channels = endpoints(replicas)?.iter().map(Endpoint::connect_lazy).collect();
    Ok(Link::new(Balanced::new(channels, token.map(Token::header))))
}

/// A link to each replica of a service, for whoever has to speak to all of them.
pub fn connect_each(replicas: &Replicas, token: Option<&Token>) -> Result<Links, ConnectError> {
    let to_one = |(endpoint, address): (Endpoint, &String)| Replica {
        address: Arc::from(address.as_str()),
        link: Link::new(Balanced::new(vec![endpoint.connect_lazy()], token.map(Token::header))),
    };
    let each: Arc<[_]> = endpoints(replicas)?.into_iter().zip(&replicas.0).map(to_one).collect();
    Ok(Links::watched(watch::channel(each).1))
}

fn endpoints(replicas: &Replicas) -> Result<Vec<Endpoint>, ConnectError> {
    let endpoint = |address: &String| {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|source| ConnectError::Address { address: address.clone(), source })?;
        Ok(endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .keep_alive_while_idle(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_ANSWER)
            .initial_connection_window_size(8 << 20)
            .initial_stream_window_size(4 << 20))
    };
    let endpoints = replicas.0.iter().map(endpoint).collect::<Result<Vec<_>, ConnectError>>()?;
    if endpoints.is_empty() {
        return Err(ConnectError::Nowhere);
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_a_list_of_addresses() {
        let replicas: Replicas = "one:1, two.example:50051,".parse().unwrap();
        assert_eq!(String::from(replicas), "one:1,two.example:50051");
        for wrong in ["one", ":1", "one:port", "one:1 two:2", "http://one:1"] {
            assert!(wrong.parse::<Replicas>().is_err(), "{wrong}");
        }
        assert!(matches!(connect(&Replicas::default(), None), Err(ConnectError::Nowhere)));
    }
}
