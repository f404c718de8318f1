//! From where a request comes, where something stands in between.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use http::HeaderMap;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Where proxies write from whom they got a request, each behind what was there.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// An address, or all of a network: `10.0.0.7`, `10.0.0.0/8`, `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl FromStr for Network {
    type Err = ipnet::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse()).map(Self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|_| D::Error::custom(format!("{text:?} is neither an address nor a network such as 10.0.0.0/8")))
    }
}

/// The address of the client: the peer's, unless that is a proxy that we trust. Such a one says from whom it got the request, and
/// that may be a proxy again; what those that we do not trust say is not believed, since anybody can write it.
pub(crate) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    let lines: Vec<_> = headers.get_all(FORWARDED_FOR).iter().map(|line| line.to_str().unwrap_or_default()).collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        // What cannot be read ends the chain at whoever passed it on.
        let Some(address) = address(hop.trim()) else { break };
        client = address;
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse().ok().or_else(with_port).or_else(in_brackets).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_of(peer: &str, forwarded: &[&'static str]) -> String {
        let trusted = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"].map(|text| text.parse().unwrap());
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        client(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn the_last_that_no_trusted_proxy_is_asks() {
        for (peer, forwarded, client) in [
            ("203.0.113.1", [].as_slice(), "203.0.113.1"),
            ("203.0.113.1", &["198.51.100.1"], "203.0.113.1"),
            ("10.1.2.3", &[], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
            // A client that writes the header itself only adds to the left of what the proxy writes.
            ("10.1.2.3", &["127.0.0.1, 198.51.100.1"], "198.51.100.1"),
            ("10.1.2.3", &["1.1.1.1", "198.51.100.1,192.0.2.7 , 10.9.9.9"], "198.51.100.1"),
            ("10.1.2.3", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.1.2.3", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.1.2.3", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.1.2.3", &["10.4.4.4, 10.5.5.5"], "10.4.4.4"),
            ("10.1.2.3", &["198.51.100.1, unknown"], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.1, unknown, 10.7.7.7"], "10.7.7.7"),
        ] {
            assert_eq!(client_of(peer, forwarded), client, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn networks_are_read_as_they_are_written() {
        for (text, written) in [("10.0.0.0/8", "10.0.0.0/8"), ("192.0.2.7", "192.0.2.7/32"), ("fd00::1", "fd00::1/128")]
        {
            let network: Network = serde_json::from_value(text.into()).unwrap();
            assert_eq!(serde_json::to_value(network).unwrap(), written);
        }
        let refused = serde_json::from_value::<Network>("example.org".into()).unwrap_err().to_string();
        assert!(refused.contains("example.org"), "{refused}");
    }
}
