//! Real servers and a resolver of our own, which says what it likes: where agents end up.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// Answers everybody with the same, and remembers what they said.
struct Site {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    _serving: futures::future::AbortHandle,
}

impl Site {
    /// On this address; one that is told to redirect leads there.
    async fn at(address: &str, redirect: Option<&str>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let head = match redirect {
            Some(to) => format!("302 Found\r\nlocation: {}", to.replace("PORT", &address.port().to_string())),
            None => "200 OK".to_owned(),
        };
        let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi");
        let words = Arc::clone(&heard);
        let (serving, handle) = futures::future::abortable(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut said = vec![0; 4_096];
                let length = stream.read(&mut said).await.unwrap_or(0);
                words.lock().unwrap().push(String::from_utf8_lossy(&said[..length]).into_owned());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
        drop(tokio::spawn(serving));
        Self { address, heard, _serving: handle }
    }

    fn heard(&self) -> usize {
        self.heard.lock().unwrap().len()
    }
}

/// A client that may call these hosts on any port, and what its resolver answers: the first time the first, and the last from then on.
fn client(allow: &[&str], answers: &'static [&'static [&'static str]]) -> (Client, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let resolver = Resolver(Box::new(move |_, port| {
        let number = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        let found = answers[number].iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect();
        Box::pin(async { Ok(found) })
    }));
    let allow = Allow(allow.iter().map(|host| format!("{host}:*")).collect());
    (Client { allow, resolver, max_response: 1_000, max_timeout: DEFAULT_TIMEOUT }, asked)
}

async fn called(client: &Client, url: &str) -> Result<Answer, Failure> {
    let headers = BTreeMap::from([("authorization".to_owned(), "Bearer secret".to_owned())]);
    let request = Request { method: get(), url: url.to_owned(), headers, body: None, timeout: None };
    follow(client, None, "key", &request).await
}

fn code(outcome: Result<Answer, Failure>) -> String {
    outcome.expect_err("it is refused").code.to_string()
}

#[tokio::test]
async fn a_name_that_is_bound_anew_leads_nowhere_else() {
    let good = Site::at("127.0.0.1:0", None).await;
    let port = good.address.port();
    let inside = Site::at(&format!("127.0.0.2:{port}"), None).await;
    let (client, asked) = client(&["rebinding.test", "127.0.0.1"], &[&["127.0.0.1"], &["127.0.0.2"]]);
    let url = format!("http://rebinding.test:{port}/");
    // What was checked is what is connected to: it is not asked for again in between.
    assert_eq!(called(&client, &url).await.unwrap().status, 200);
    assert_eq!((asked.load(Ordering::SeqCst), good.heard(), inside.heard()), (1, 1, 0));
    assert_eq!(code(called(&client, &url).await), "host_not_allowed");
    assert_eq!((good.heard(), inside.heard()), (1, 0));
}

#[tokio::test]
async fn a_host_is_called_on_the_ports_that_are_named_and_no_redirect_leads_to_others() {
    let other = Site::at("127.0.0.1:0", None).await;
    let first = Site::at("127.0.0.1:0", Some(&format!("http://site.test:{}/", other.address.port()))).await;
    let (mut client, _) = client(&[], &[&["127.0.0.1"]]);
    let own = first.address.port();
    let url = format!("http://site.test:{own}/");
    for (allow, called_first) in [
        (["site.test".to_owned(), "127.0.0.1:*".to_owned()], 0),
        ([format!("site.test:{own}"), format!("127.0.0.1:{own}")], 1),
    ] {
        client.allow = Allow(allow.to_vec());
        assert_eq!(code(called(&client, &url).await), "host_not_allowed", "{:?}", client.allow);
        assert_eq!((first.heard(), other.heard()), (called_first, 0), "{:?}", client.allow);
    }
}

/// Of each lookup, addresses of which one is inside.
const ANSWERS: [&[&[&str]]; 4] = [
    &[&["127.0.0.1", "127.0.0.2"]],
    &[&["127.0.0.1", "169.254.169.254"]],
    &[&["127.0.0.1", "::ffff:10.0.0.1"]],
    &[&["127.0.0.1", "fd00::1"]],
];

#[tokio::test]
async fn one_address_inside_among_others_is_refused_before_anything_is_called() {
    let good = Site::at("127.0.0.1:0", None).await;
    let url = format!("http://mixed.test:{}/", good.address.port());
    for answers in ANSWERS {
        let (client, _) = client(&["mixed.test", "127.0.0.1"], answers);
        assert_eq!(code(called(&client, &url).await), "host_not_allowed", "{answers:?}");
    }
    assert_eq!(good.heard(), 0);
}

#[tokio::test]
async fn a_redirect_is_checked_as_the_first_url_was() {
    for (to, refused) in [
        ("http://127.0.0.2:PORT/", "host_not_allowed"),
        ("//127.0.0.2:PORT/", "host_not_allowed"),
        ("http://other.test:PORT/", "host_not_allowed"),
        ("http://first.test@127.0.0.2:PORT/", "host_not_allowed"),
        ("http://[::ffff:127.0.0.2]:PORT/", "host_not_allowed"),
        ("http://0x7f000002:PORT/", "host_not_allowed"),
        ("http://169.254.169.254/latest/meta-data/", "host_not_allowed"),
        ("file:///etc/passwd", "url_not_allowed"),
        ("gopher://127.0.0.1:PORT/_x", "url_not_allowed"),
        ("data:text/plain,x", "url_not_allowed"),
        ("/again", "too_many_redirects"),
        ("http://", "http_redirect"),
    ] {
        let first = Site::at("127.0.0.1:0", Some(to)).await;
        let inside = Site::at(&format!("127.0.0.2:{}", first.address.port()), None).await;
        let (client, _) = client(&["first.test", "127.0.0.1"], &[&["127.0.0.1"]]);
        let url = format!("http://first.test:{}/", first.address.port());
        assert_eq!(code(called(&client, &url).await), refused, "{to}");
        assert_eq!(inside.heard(), 0, "{to}");
        assert_eq!(first.heard(), if refused == "too_many_redirects" { 1 + MOST_REDIRECTS } else { 1 }, "{to}");
    }
}

#[tokio::test]
async fn a_redirect_to_the_same_name_is_resolved_and_checked_anew() {
    let first = Site::at("127.0.0.1:0", Some("http://first.test:PORT/next")).await;
    let inside = Site::at(&format!("127.0.0.2:{}", first.address.port()), None).await;
    let (client, asked) = client(&["first.test", "127.0.0.1"], &[&["127.0.0.1"], &["127.0.0.2"]]);
    let url = format!("http://first.test:{}/", first.address.port());
    assert_eq!(code(called(&client, &url).await), "host_not_allowed");
    assert_eq!((asked.load(Ordering::SeqCst), first.heard(), inside.heard()), (2, 1, 0));
}

#[tokio::test]
async fn what_is_meant_for_one_host_is_told_to_no_other() {
    let second = Site::at("127.0.0.1:0", None).await;
    let first = Site::at("127.0.0.1:0", Some(&format!("http://second.test:{}/", second.address.port()))).await;
    let (client, _) = client(&["first.test", "second.test", "127.0.0.1"], &[&["127.0.0.1"]]);
    let url = format!("http://first.test:{}/", first.address.port());
    assert_eq!(called(&client, &url).await.unwrap().status, 200);
    assert!(first.heard.lock().unwrap()[0].contains("Bearer secret"));
    assert!(!second.heard.lock().unwrap()[0].contains("secret"));
}

#[tokio::test]
async fn a_body_follows_no_redirect() {
    let second = Site::at("127.0.0.1:0", None).await;
    let first = Site::at("127.0.0.1:0", Some(&format!("http://second.test:{}/", second.address.port()))).await;
    let (client, _) = client(&["first.test", "second.test", "127.0.0.1"], &[&["127.0.0.1"]]);
    let url = format!("http://first.test:{}/", first.address.port());
    let request = serde_json::from_value(json!({ "url": url, "body": "for the first" })).unwrap();
    let answer = follow(&client, None, "key", &request).await.unwrap();
    assert_eq!((answer.status, second.heard()), (302, 0));
}

#[tokio::test]
async fn no_header_names_another_host_or_says_where_a_body_ends() {
    let site = Site::at("127.0.0.1:0", None).await;
    let (client, _) = client(&["site.test", "127.0.0.1"], &[&["127.0.0.1"]]);
    for name in ["host", "Host", "transfer-encoding", "content-length", "connection", "upgrade"] {
        let url = format!("http://site.test:{}/", site.address.port());
        let request = serde_json::from_value(json!({ "url": url, "headers": { name: "1" } })).unwrap();
        assert_eq!(code(follow(&client, None, "key", &request).await), "invalid_input", "{name}");
    }
    assert_eq!(site.heard(), 0);
}
