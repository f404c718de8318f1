//! `http`: calls a URL, where operators allow it.
//!
//! What is allowed is a list of hosts. It is checked for the URL and for every redirect. A host name whose addresses are
//! private is refused unless the list names the host: names are resolved by us, once, and only what was checked is connected to.

#[cfg(test)]
mod journeys;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use agent_sdk::{AgentBuilder, Failure, Task};
use errors::Violation;
use futures::future::BoxFuture;
use reqwest::{
    Method, Response, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Workshop;
use crate::{Settings, StartError};

const MOST_REDIRECTS: usize = 5;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn config_properties() -> Value {
    json!({ "allow": { "type": "array", "items": { "type": "string", "minLength": 1 } } })
}

/// Hosts that may be called: `host` on the default port of the URL's scheme alone, `host:port`, or `host:*`.
#[derive(Clone, Debug, Default, Deserialize)]
struct Allow(Vec<String>);

impl Allow {
    /// Is the host of this URL named, for its port?
    fn names(&self, url: &Url) -> bool {
        url.host_str().is_some_and(|host| self.names_host(host, url))
    }

    /// Is this address named, for the port of this URL?
    fn names_address(&self, address: IpAddr, url: &Url) -> bool {
        match address {
            IpAddr::V4(v4) => self.names_host(&v4.to_string(), url),
            // Without brackets nothing tells a port from a part of it, so there is none.
            IpAddr::V6(v6) => {
                let bare = url.port().is_none() && self.0.contains(&v6.to_string());
                bare || self.names_host(&format!("[{v6}]"), url)
            }
        }
    }

    fn names_host(&self, host: &str, url: &Url) -> bool {
        self.0.iter().any(|allowed| {
            let (name, rest) = allowed.split_at_checked(host.len()).unwrap_or_default();
            name.eq_ignore_ascii_case(host)
                && match rest.strip_prefix(':') {
                    // A port that is the scheme's own is none of the URL's.
                    None => rest.is_empty() && url.port().is_none(),
                    Some("*") => true,
                    Some(port) => port.parse().is_ok_and(|port| url.port_or_known_default() == Some(port)),
                }
        })
    }
}

/// Finds the addresses of a host; the port comes with them.
struct Resolver(Box<Lookup>);

type Lookup = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

impl Resolver {
    /// As the system does it.
    fn system() -> Self {
        Self(Box::new(|host, port| {
            Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect()) })
        }))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Resolver")
    }
}

/// What all `http` agents share.
#[derive(Debug)]
pub(super) struct Client {
    allow: Allow,
    resolver: Resolver,
    max_response: usize,
    max_timeout: Duration,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self, StartError> {
        // Built per call, for the address is pinned; once here, so that a machine where it cannot work says so at the start.
        reqwest::Client::builder().build().map_err(StartError::Http)?;
        Ok(Self {
            allow: Allow(settings.http_allow.clone()),
            resolver: Resolver::system(),
            max_response: settings.http_max_response.0,
            max_timeout: settings.http_max_timeout,
        })
    }
}

#[derive(Deserialize)]
struct Config {
    allow: Option<Allow>,
}

pub(super) fn build(
    agent: AgentBuilder,
    config: &Value,
    workshop: &Arc<Workshop>,
) -> Result<AgentBuilder, Vec<Violation>> {
    let config = Config::deserialize(config)
        .map_err(|error| vec![Violation::new("/config", "config_invalid", error.to_string())])?;
    let (workshop, own) = (Arc::clone(workshop), Arc::new(config.allow));
    Ok(agent.action("request", move |task| {
        let (workshop, own) = (Arc::clone(&workshop), Arc::clone(&own));
        async move { request(&workshop.http, own.as_ref().as_ref(), &task).await }
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default = "get")]
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// A text is sent as it is, anything else as JSON.
    body: Option<Value>,
    timeout: Option<String>,
}

fn get() -> String {
    "GET".to_owned()
}

#[derive(Debug, Serialize)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Value,
}

async fn request(client: &Client, own: Option<&Allow>, task: &Task) -> Result<Answer, Failure> {
    let request: Request = super::input(task)?;
    let timeout = match &request.timeout {
        Some(text) => humantime::parse_duration(text)
            .map_err(|_| Failure::invalid_input(format!("timeout {text:?} is no duration such as 5s")))?,
        None => DEFAULT_TIMEOUT,
    };
    let timeout = timeout.min(client.max_timeout);
    let late = |_| Failure::transient("http_timeout", format!("no whole answer within {timeout:?}"));
    tokio::time::timeout(timeout, follow(client, own, task.idempotency_key(), &request)).await.map_err(late)?
}

/// Calls, and goes where that leads.
async fn follow(client: &Client, own: Option<&Allow>, key: &str, request: &Request) -> Result<Answer, Failure> {
    let mut url =
        Url::parse(&request.url).map_err(|error| Failure::invalid_input(format!("url {:?}: {error}", request.url)))?;
    for _ in 0..=MOST_REDIRECTS {
        let response = once(client, own, key, request, &url).await?;
        match redirect(request, &url, &response)? {
            Some(next) => url = next,
            None => return answer(client, response).await,
        }
    }
    Err(Failure::fatal("too_many_redirects", format!("more than {MOST_REDIRECTS} redirects")))
}

/// Where a redirect leads. Followed for GET and HEAD without a body only: none is ever sent to where nobody asked to send it.
fn redirect(request: &Request, url: &Url, response: &Response) -> Result<Option<Url>, Failure> {
    let reads =
        request.body.is_none() && ["GET", "HEAD"].iter().any(|method| request.method.eq_ignore_ascii_case(method));
    if !reads || !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get("location").and_then(|value| value.to_str().ok());
    let Some(location) = location else { return Ok(None) };
    url.join(location)
        .map(Some)
        .map_err(|error| Failure::fatal("http_redirect", format!("redirect to {location:?}: {error}")))
}

async fn once(
    client: &Client,
    own: Option<&Allow>,
    key: &str,
    request: &Request,
    url: &Url,
) -> Result<Response, Failure> {
    let addresses = permit(client, own, url).await?;
    let method = Method::from_bytes(request.method.to_ascii_uppercase().as_bytes());
    let method = method.map_err(|_| Failure::invalid_input(format!("{:?} is no HTTP method", request.method)))?;
    let host = url.host_str().unwrap_or_default();
    let http =
        reqwest::Client::builder().redirect(Policy::none()).no_proxy().resolve_to_addrs(host, &addresses).build();
    let http = http.map_err(|error| Failure::transient("http_error", errors::chain(&error)))?;
    // What was meant for one host, such as a token, goes to no other.
    let same_host = Url::parse(&request.url).is_ok_and(|first| first.origin() == url.origin());
    let mut headers = if same_host { headers(&request.headers)? } else { HeaderMap::new() };
    if !headers.contains_key("idempotency-key")
        && let Ok(key) = HeaderValue::from_str(key)
    {
        headers.insert("idempotency-key", key);
    }
    let call = http.request(method, url.clone()).headers(headers);
    let call = match &request.body {
        None => call,
        Some(Value::String(text)) => call.body(text.clone()),
        Some(value) => call.json(value),
    };
    call.send().await.map_err(|error| Failure::transient("http_error", errors::chain(&error)))
}

/// Headers that are of the connection: whose host is called decides the URL, which an operator has allowed, and where a body ends is
/// known here (RFC 9110, 7.6.1).
const OWN: [HeaderName; 8] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
];

fn headers(given: &BTreeMap<String, String>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let parsed = name.parse::<HeaderName>().ok().zip(value.parse::<HeaderValue>().ok());
        let (name, value) = parsed
            .filter(|(name, _)| !OWN.contains(name))
            .ok_or_else(|| Failure::invalid_input(format!("the header {name:?} cannot be sent")))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The addresses to connect to, where the URL may be called at all.
async fn permit(client: &Client, own: Option<&Allow>, url: &Url) -> Result<Vec<SocketAddr>, Failure> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Failure::fatal("url_not_allowed", format!("{url}: only http and https can be called")));
    }
    let host = url.host_str().unwrap_or_default();
    if !client.allow.names(url) || own.is_some_and(|own| !own.names(url)) {
        let message = format!(
            "the host of {url} is not allowed: an operator must name {host:?} in the setting http_allow, with its port where that is not the scheme's own (and the agent's own allow, where it has one)"
        );
        return Err(Failure::fatal("host_not_allowed", message));
    }
    let port = url.port_or_known_default().unwrap_or(443);
    let found = (client.resolver.0)(host.trim_matches(['[', ']']).to_owned(), port).await;
    let addresses = found.map_err(|error| Failure::transient("http_error", format!("{host}: {error}")))?;
    check_addresses(&client.allow, url, &addresses)?;
    Ok(addresses)
}

/// The host was named, so a private address is what the operator means only where it was named as an address or as a local
/// name; a public name that suddenly leads inside is refused.
fn check_addresses(allow: &Allow, url: &Url, addresses: &[SocketAddr]) -> Result<(), Failure> {
    let host = url.host_str().unwrap_or_default();
    let is_local = !host.contains('.') || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let is_meant = |address: &SocketAddr| is_local || allow.names_address(address.ip(), url);
    match addresses.iter().find(|address| is_private(address.ip()) && !is_meant(address)) {
        Some(address) => {
            Err(Failure::fatal("host_not_allowed", format!("{host} leads to the private address {}", address.ip())))
        }
        None => Ok(()),
    }
}

/// Anything but an address of the public internet, by the IANA's registries of special-purpose addresses.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => embedded(v6).map_or_else(|| is_private_v6(v6), is_private_v4),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    match first {
        0 | 10 | 127 | 224.. => true,
        100 => second & 0xc0 == 64,
        169 => second == 254,
        172 => second & 0xf0 == 16,
        192 => second == 168 || (second == 0 && matches!(third, 0 | 2)) || (second == 88 && third == 99),
        198 => second & 0xfe == 18 || (second == 51 && third == 100),
        203 => second == 0 && third == 113,
        _ => false,
    }
}

/// Public ones begin with the bits 001.
fn is_private_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let [first, second, ..] = segments;
    // Of what does, these are for documentation and for protocols.
    first & 0xe000 != 0x2000 || (first == 0x2001 && (second == 0x0db8 || second < 0x0200)) || first == 0x3fff
}

/// The IPv4 address to which an IPv6 address leads: mapped, compatible, by NAT64, or by 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, seventh, eighth] if seventh != 0 => Some(low(seventh, eighth)),
        [0, 0, 0, 0, 0, 0xffff, 0, eighth] => Some(low(0, eighth)),
        [0x64, 0xff9b, 0, 0, 0, 0, seventh, eighth] => Some(low(seventh, eighth)),
        [0x2002, second, third, ..] => Some(low(second, third)),
        _ => None,
    }
}

async fn answer(client: &Client, mut response: Response) -> Result<Answer, Failure> {
    let status = response.status();
    let headers: BTreeMap<_, _> = response
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect();
    let mut body = Vec::new();
    let broken = |error: reqwest::Error| Failure::transient("http_error", errors::chain(&error));
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > client.max_response {
            return Err(Failure::fatal(
                "response_too_large",
                format!("the response has more than {} bytes", client.max_response),
            ));
        }
        body.extend_from_slice(&chunk);
    }
    let text = String::from_utf8_lossy(&body);
    let is_json = headers.get("content-type").is_some_and(|kind| kind.contains("json"));
    let parsed = if is_json { serde_json::from_str(&text).ok() } else { None };
    let body = parsed.unwrap_or_else(|| Value::String(text.into_owned()));
    if status.is_client_error() || status.is_server_error() {
        // Too many requests and request timeout are the two of the client's errors that pass by themselves.
        let passes = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
        let message = format!("the server answered {status}");
        let failure =
            if passes { Failure::transient("http_status", message) } else { Failure::fatal("http_status", message) };
        return Err(failure.with_details(json!({ "status": status.as_u16(), "body": body })));
    }
    Ok(Answer { status: status.as_u16(), headers, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_hosts_are_allowed() {
        let allow = Allow(vec!["api.example.org".into(), "127.0.0.1:8080".into()]);
        let names = |url: &str| allow.names(&Url::parse(url).unwrap());
        assert!(names("https://API.example.org/a") && names("http://127.0.0.1:8080/"));
        assert!(
            !names("https://example.org/")
                && !names("http://127.0.0.1:8081/")
                && !names("https://api.example.org.evil.net/")
        );
        assert!(!names("http://api.example.org@evil.net/"));
    }

    #[test]
    fn a_host_without_a_port_is_named_for_the_default_port_of_the_scheme_alone() {
        let names = |allowed: &str, url: &str| Allow(vec![allowed.to_owned()]).names(&Url::parse(url).unwrap());
        for host in ["api.example.org", "10.0.0.7", "[fd00::7]"] {
            let url = |scheme: &str, port: &str| format!("{scheme}://{host}{port}/");
            for default in [url("http", ""), url("http", ":80"), url("https", ""), url("https", ":443")] {
                assert!(names(host, &default), "{default}");
            }
            for other in [url("http", ":8080"), url("http", ":443"), url("https", ":80"), url("http", ":22")] {
                assert!(!names(host, &other), "{other}");
                assert!(names(&format!("{host}:*"), &other), "{other}");
            }
            assert!(names(&format!("{host}:8080"), &url("https", ":8080")));
            assert!(
                names(&format!("{host}:443"), &url("https", "")) && !names(&format!("{host}:443"), &url("http", ""))
            );
            for none in [":", ":0x50", ":080a", ":-80", "*", "::*"] {
                assert!(!names(&format!("{host}{none}"), &url("http", "")), "{none}");
            }
        }
    }

    #[test]
    fn private_addresses_are_known_in_every_spelling() {
        let private = "0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 127.0.0.1 127.255.0.9 169.254.169.254 172.31.255.255 192.0.0.1 \
                       192.0.2.1 192.88.99.1 192.168.0.1 198.19.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1 \
                       255.255.255.255 :: ::1 ::127.0.0.1 ::ffff:192.168.0.1 ::ffff:0.0.0.1 64:ff9b::10.0.0.1 64:ff9b:1::1 \
                       100::1 2001::1 2001:db8::1 2002:7f00:1::1 2002:a9fe:a9fe:: 3fff::1 fc00::1 fd00::1 fe80::1 fec0::1 ff02::1";
        for address in private.split_whitespace() {
            assert!(is_private(address.parse().unwrap()), "{address}");
        }
        let public = "1.1.1.1 100.128.0.1 172.32.0.1 192.0.1.1 198.20.0.1 223.255.255.255 ::ffff:1.1.1.1 64:ff9b::1.1.1.1 \
                      2002:101:101::1 2606:4700::1111 2001:4860::8888";
        for address in public.split_whitespace() {
            assert!(!is_private(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_public_name_that_leads_inside_is_refused_unless_the_address_is_named_too() {
        let named = ["api.example.org", "intranet", "10.0.0.7", "10.0.0.9:8080", "fd00::7", "[fd00::9]:8080"];
        let allow = Allow(named.map(str::to_owned).to_vec());
        let lead = |host: &str, addresses: &[&str]| {
            let addresses: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            check_addresses(&allow, &Url::parse(&format!("https://{host}/")).unwrap(), &addresses).is_ok()
        };
        assert!(lead("api.example.org", &["1.1.1.1:443"]));
        assert!(!lead("api.example.org", &["1.1.1.1:443", "169.254.169.254:443"]), "one of them is enough");
        assert!(!lead("api.example.org", &["[::ffff:10.0.0.8]:443"]));
        assert!(lead("api.example.org", &["10.0.0.7:443", "[fd00::7]:443"]), "they are named");
        assert!(!lead("api.example.org:8080", &["10.0.0.7:8080"]), "but not for this port");
        for elsewhere in ["10.0.0.9", "[fd00::9]"] {
            assert!(!lead("api.example.org", &[&format!("{elsewhere}:443")]), "{elsewhere} is for another port");
            assert!(lead("api.example.org:8080", &[&format!("{elsewhere}:8080")]), "{elsewhere}");
        }
        assert!(lead("intranet", &["10.0.0.8:443"]) && lead("10.0.0.8", &["10.0.0.8:443"]));
    }
}
