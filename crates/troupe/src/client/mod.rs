//! The REST API as the commands use it: one client, pages, problem documents and the live stream of events.
//!
//! Bodies stay `serde_json::Value`: `--json` prints exactly what the server said, fields of later releases included.

mod error;
mod sse;

use std::{io::Write as _, time::Duration};

use reqwest::{Method, RequestBuilder, Response, Url, header};
use serde_json::Value;

pub(crate) use self::{
    error::{Error, Problem},
    sse::{Event, EventStream},
};
use crate::cli::Global;

/// How long one call may take; longer than the server's own longest wait.
const DEADLINE: Duration = Duration::from_secs(90);
/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(5);
/// The largest page that lists give.
const PAGE: usize = 500;

/// A client of one server and namespace.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    namespace: String,
}

impl Client {
    /// Of the server that the command line names. Connects to nothing yet.
    pub(crate) fn new(global: &Global) -> Result<Self, Error> {
        Self::in_namespace(global, &global.namespace)
    }

    /// The same in another namespace.
    pub(crate) fn in_namespace(global: &Global, namespace: &str) -> Result<Self, Error> {
        let faulty = || Error::Url(global.url.clone());
        let base = Url::parse(global.url.trim_end_matches('/')).map_err(|_| faulty())?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(faulty());
        }
        domain::check_name(namespace).map_err(|source| Error::Namespace { namespace: namespace.to_owned(), source })?;
        let agent = concat!("troupe-cli/", env!("CARGO_PKG_VERSION"));
        let mut headers = header::HeaderMap::new();
        if let Some(key) = &global.api_key {
            let mut key = header::HeaderValue::from_str(key).map_err(|_| Error::ApiKey)?;
            key.set_sensitive(true);
            headers.insert("X-API-Key", key);
        }
        let http = reqwest::Client::builder().connect_timeout(CONNECT).user_agent(agent).default_headers(headers);
        let http = http.build().map_err(Error::Client)?;
        Ok(Self { http, base, namespace: namespace.to_owned() })
    }

    /// A request to a path made of segments, which are escaped.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1"]).extend(segments);
        }
        self.http.request(method, url).header("X-Namespace", &self.namespace)
    }

    /// GET.
    pub(crate) async fn get(&self, segments: &[&str]) -> Result<Value, Error> {
        self.send(self.request(Method::GET, segments)).await
    }

    /// POST with a JSON body.
    pub(crate) async fn post(&self, segments: &[&str], body: &Value) -> Result<Value, Error> {
        self.send(self.request(Method::POST, segments).json(body)).await
    }

    /// DELETE.
    pub(crate) async fn delete(&self, segments: &[&str]) -> Result<Value, Error> {
        self.send(self.request(Method::DELETE, segments)).await
    }

    /// Sends a request within the deadline, and answers with the body of a success.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Value, Error> {
        let response = request.timeout(DEADLINE).send().await.map_err(|source| self.unreachable(source))?;
        let response = self.accepted(response).await?;
        let body = response.bytes().await.map_err(|source| self.unreachable(source))?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|source| Error::NotJson { url: self.base.to_string(), source })
    }

    /// Up to `limit` items of a list, over as many pages as it takes.
    pub(crate) async fn list(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
        limit: usize,
    ) -> Result<Vec<Value>, Error> {
        let mut items = Vec::new();
        let mut cursor = None::<String>;
        while items.len() < limit {
            let page_size = (limit - items.len()).min(PAGE).to_string();
            let mut request = self.request(Method::GET, segments).query(query).query(&[("limit", page_size)]);
            if let Some(cursor) = &cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let mut page = self.send(request).await?;
            if let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) {
                items.extend(found);
            }
            match page.get("next_cursor").and_then(Value::as_str) {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        items.truncate(limit);
        Ok(items)
    }

    /// The events of an execution after `after`, live: ends after the last event of an execution that has ended.
    pub(crate) async fn events(&self, execution: &str, after: u64) -> Result<EventStream, Error> {
        let request = self
            .request(Method::GET, &["executions", execution, "events"])
            .header(header::ACCEPT, "text/event-stream")
            .header("Last-Event-ID", after.to_string());
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        Ok(EventStream::new(self.accepted(response).await?))
    }

    /// What is published to topics from now on.
    pub(crate) async fn topics(&self, pattern: &str) -> Result<EventStream, Error> {
        let request =
            self.request(Method::GET, &["topics", pattern, "events"]).header(header::ACCEPT, "text/event-stream");
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        Ok(EventStream::new(self.accepted(response).await?))
    }

    /// Writes an answer to standard output as it comes, however long it is.
    pub(crate) async fn print(&self, segments: &[&str]) -> anyhow::Result<()> {
        let response = self.request(Method::GET, segments).send().await.map_err(|source| self.unreachable(source))?;
        let mut response = self.accepted(response).await?;
        while let Some(chunk) =
            tokio::time::timeout(DEADLINE, response.chunk()).await?.map_err(|source| self.unreachable(source))?
        {
            std::io::stdout().lock().write_all(&chunk)?;
        }
        Ok(())
    }

    async fn accepted(&self, response: Response) -> Result<Response, Error> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|source| self.unreachable(source))?;
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Error::Problem(Box::new(problem)),
            Err(_) => Error::Foreign { url: self.base.to_string(), status: status.as_u16() },
        })
    }

    fn unreachable(&self, source: reqwest::Error) -> Error {
        Error::Unreachable { url: self.base.to_string(), source }
    }
}

/// A text field of an answer; empty where it is absent.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A number of an answer; 0 where it is absent.
pub(crate) fn number(value: &Value, field: &str) -> u64 {
    value.get(field).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(url: &str, namespace: &str) -> Global {
        Global { url: url.to_owned(), namespace: namespace.to_owned(), json: false, api_key: None }
    }

    #[test]
    fn segments_are_escaped_and_the_servers_own_path_is_kept() {
        let client = Client::new(&global("http://localhost:1/troupe/", "team")).unwrap();
        let request = client.request(Method::GET, &["agents", "a/b c"]).build().unwrap();
        assert_eq!(request.url().as_str(), "http://localhost:1/troupe/api/v1/agents/a%2Fb%20c");
        assert_eq!(request.headers()["X-Namespace"], "team");
    }

    #[test]
    fn faulty_urls_and_namespaces_are_refused_before_anything_is_sent() {
        assert!(matches!(Client::new(&global("localhost:8080", "a")), Err(Error::Url(_))));
        assert!(matches!(Client::new(&global("http://localhost", "a b")), Err(Error::Namespace { .. })));
    }
}
