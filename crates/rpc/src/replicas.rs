//! Where the replicas of a service are, as an operator says it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where the replicas of a service are: `host:port`, several with commas between them. A name stands for every address that it
/// has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Replicas(Vec<String>);

/// Text that names no replicas.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?} is not host:port")]
pub struct ReplicasError(String);

impl Replicas {
    pub(crate) fn places(&self) -> &[String] {
        &self.0
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
pub(crate) fn host(place: &str) -> &str {
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

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
    }

    #[test]
    fn a_host_is_what_stands_before_the_port() {
        assert_eq!([host("one.example:1"), host("10.0.0.1:1"), host("[::1]:1")], ["one.example", "10.0.0.1", "::1"]);
    }
}
