//! A client for the REST API that keeps what a test wants to look at.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};

use crate::eventually;

/// A response: its status, its headers, and its body as JSON (`null` where it is none).
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Value,
}

impl Answer {
    /// The body of a response that must have this status.
    ///
    /// # Panics
    /// Where it has another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:#}", self.body);
        self.body
    }

    /// A header as text; empty where it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// The REST API of one server.
#[derive(Clone)]
pub struct Api {
    client: Client,
    url: String,
    is_patient: bool,
}

impl Api {
    /// Of the server at `url`.
    ///
    /// # Panics
    /// Where the machine has no TLS roots to make a client with.
    pub fn new(url: String) -> Self {
        let client = Client::builder().timeout(Duration::from_secs(75)).build().expect("an HTTP client can be made");
        Self { client, url, is_patient: false }
    }

    /// One that reads again where the server says that it cannot answer now, as clients are to do.
    #[must_use]
    pub fn patient(self) -> Self {
        Self { is_patient: true, ..self }
    }

    /// Where the server is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A request to `path`, to be completed.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// Sends a request.
    pub async fn send(&self, request: RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await?;
        Ok(Answer { status, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
    }

    /// GET.
    ///
    /// # Panics
    /// Where the server cannot be reached.
    pub async fn get(&self, path: &str) -> Answer {
        self.read(|| self.request(Method::GET, path)).await
    }

    async fn read(&self, request: impl Fn() -> RequestBuilder) -> Answer {
        if !self.is_patient {
            return self.send(request()).await.expect("the server answers");
        }
        eventually("the server answers", || async {
            match self.send(request()).await {
                Ok(Answer { status: 503 | 504, body, .. }) => Err(body.to_string()),
                Ok(answer) => Ok(answer),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// POST with a JSON body.
    ///
    /// # Panics
    /// Where the server cannot be reached.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await.expect("the server answers")
    }

    /// DELETE.
    ///
    /// # Panics
    /// Where the server cannot be reached.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await.expect("the server answers")
    }

    /// Creates a workflow and answers with its id.
    pub async fn define(&self, definition: &Value) -> String {
        let workflow = self.post("/api/v1/workflows", definition).await.expect(201);
        workflow["id"].as_str().expect("a workflow has an id").to_owned()
    }

    /// Starts an execution and answers with its id.
    pub async fn execute(&self, workflow: &str, input: &Value) -> String {
        let path = format!("/api/v1/workflows/{workflow}/execute");
        let accepted = self.post(&path, &json!({ "input": input })).await.expect(202);
        accepted["execution_id"].as_str().expect("an execution has an id").to_owned()
    }

    /// Waits until the execution has ended, and answers with it.
    pub async fn ended(&self, execution: &str) -> Value {
        eventually("the execution ends", || async {
            let answer = self.get(&format!("/api/v1/executions/{execution}")).await.expect(200);
            match answer["status"].as_str() {
                Some("completed" | "failed" | "cancelled") => Ok(answer),
                _ => Err(answer),
            }
        })
        .await
    }

    /// Every event of an execution's log.
    pub async fn events(&self, execution: &str) -> Vec<Value> {
        self.all(&format!("/api/v1/executions/{execution}/events?limit=500")).await
    }

    /// Every item of a list, page by page.
    ///
    /// # Panics
    /// Where an answer is no list.
    pub async fn all(&self, path: &str) -> Vec<Value> {
        let (mut items, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let request = || match &cursor {
                Some(cursor) => self.request(Method::GET, path).query(&[("cursor", cursor)]),
                None => self.request(Method::GET, path),
            };
            let page = self.read(request).await.expect(200);
            items.extend(page["items"].as_array().expect("a list has items").iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return items,
            }
        }
    }
}
