//! What every way of carrying live messages does; then what only Redis can do.

use std::net::SocketAddr;

use testkit::{Network, Proxy};

use super::{
    super::live::{Feed, FeedLimits, Live, LiveDirect, LiveError, LiveLimits, LiveMessage, LiveRedis, Notice},
    *,
};

const LIVE_LIMITS: LiveLimits = LiveLimits { subscriptions: 8, feed: FeedLimits { messages: 4, bytes: 1 << 20 } };

/// A process that publishes and listens.
struct Node {
    live: Arc<dyn Live>,
    tasks: Tasks,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.shutdown().cut();
    }
}

impl Node {
    fn direct() -> Self {
        Self { live: Arc::new(LiveDirect::new(LIVE_LIMITS)), tasks: Tasks::new(Shutdown::new()) }
    }

    fn redis(address: SocketAddr, database: u8) -> Self {
        // A busy machine is no dead Redis. Pauses are short, so that tests are.
        let settings = settings::Redis {
            timeout: Duration::from_secs(1),
            max_pause: Duration::from_millis(200),
            ..settings::Redis::at(format!("redis://{address}/{database}"))
        };
        let redis = ::store::Redis::open(&settings, "communication").unwrap().unwrap();
        let live = Arc::new(LiveRedis::new(redis, LIVE_LIMITS));
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("live", OnExit::StopService, Arc::clone(&live).run(tasks.shutdown().clone()));
        Self { live, tasks }
    }

    async fn listen(&self, namespace: &Namespace, patterns: &[&str]) -> Listener {
        let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        Listener { feed: self.live.subscribe(namespace.clone(), patterns).await.unwrap(), heard: Vec::new() }
    }

    async fn publish(&self, namespace: &Namespace, messages: &[(&str, &str)]) {
        self.try_publish(namespace, messages).await.unwrap();
    }

    async fn try_publish(&self, namespace: &Namespace, messages: &[(&str, &str)]) -> Result<(), LiveError> {
        self.live.publish(messages.iter().map(|message| published(namespace, *message)).collect()).await
    }
}

/// Somebody who listens.
struct Listener {
    feed: Feed,
    heard: Vec<Notice>,
}

impl Listener {
    /// The next notices, as many as there are expected.
    async fn expect(&mut self, expected: &[Notice]) {
        while self.heard.len() < expected.len() {
            let more = timeout(PATIENCE, self.feed.next()).await;
            self.heard.extend(more.unwrap_or_else(|_| panic!("no more than {:?}", self.heard)));
        }
        let rest = self.heard.split_off(expected.len());
        assert_eq!(std::mem::replace(&mut self.heard, rest), expected);
    }

    /// What it hears up to a message.
    async fn until(&mut self, last: &Notice) -> Vec<Notice> {
        let mut heard = std::mem::take(&mut self.heard);
        while heard.last() != Some(last) {
            heard.extend(timeout(PATIENCE, self.feed.next()).await.expect("it comes in time"));
        }
        heard
    }
}

fn published(namespace: &Namespace, (topic, payload): (&str, &str)) -> LiveMessage {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    LiveMessage { namespace: namespace.clone(), topic: topic.parse().unwrap(), payload }
}

fn message(namespace: &Namespace, topic: &str, payload: &str) -> Notice {
    Notice::Message(Arc::new(published(namespace, (topic, payload))))
}

/// A namespace that no other test, and no earlier run, has.
fn namespace() -> Namespace {
    MessageId::generate(&SystemClock).to_string().parse().unwrap()
}

fn redis() -> (Node, Node) {
    let address = Servers::shared().address("redis");
    (Node::redis(address, 0), Node::redis(address, 0))
}

macro_rules! conforms {
    ($($name:ident)*) => {
        mod direct {
            $(#[tokio::test]
            async fn $name() {
                let node = super::Node::direct();
                super::$name(&node, &node).await;
            })*
        }

        mod redis {
            $(#[tokio::test]
            async fn $name() {
                let (here, there) = super::redis();
                super::$name(&here, &there).await;
            })*
        }
    };
}

conforms! {
    everybody_whom_it_concerns_hears_it_once
    the_order_of_a_publisher_is_kept
    nothing_crosses_namespaces
    a_slow_subscriber_is_told_what_it_lost
    dropping_a_subscription_ends_it
}

/// `there` listens to what `here` publishes; so does `here` itself.
async fn everybody_whom_it_concerns_hears_it_once(here: &Node, there: &Node) {
    let own = namespace();
    let mut exact = there.listen(&own, &["a.b"]).await;
    let mut one = there.listen(&own, &["a.*"]).await;
    let mut any = here.listen(&own, &["#", "a.#", "a.b"]).await;
    here.publish(&own, &[("a.b", "1"), ("a", "2"), ("a.c", "3"), ("a.b.c", "4"), ("a.b", "5")]).await;
    let told = |topic: &str, payload: &str| message(&own, topic, payload);
    exact.expect(&[told("a.b", "1"), told("a.b", "5")]).await;
    one.expect(&[told("a.b", "1"), told("a.c", "3"), told("a.b", "5")]).await;
    // It may have lost the first, as five are more than it holds.
    let heard = any.until(&told("a.b", "5")).await;
    let all =
        [("a.b", "1"), ("a", "2"), ("a.c", "3"), ("a.b.c", "4"), ("a.b", "5")].map(|(topic, text)| told(topic, text));
    assert!(heard == all || heard == [&[Notice::Lost(1)], &all[1..]].concat(), "{heard:?}");
}

async fn the_order_of_a_publisher_is_kept(here: &Node, there: &Node) {
    let own = namespace();
    let mut listener = there.listen(&own, &["count.#"]).await;
    for number in 0..100 {
        let text = number.to_string();
        here.publish(&own, &[("count.up", &text)]).await;
        listener.expect(&[message(&own, "count.up", &text)]).await;
    }
    for number in (0..100).step_by(4) {
        let texts: Vec<_> = (number..number + 4).map(|number| number.to_string()).collect();
        let burst: Vec<_> = texts.iter().map(|text| ("count.up", text.as_str())).collect();
        here.publish(&own, &burst).await;
        let expected: Vec<_> = texts.iter().map(|text| message(&own, "count.up", text)).collect();
        listener.expect(&expected).await;
    }
}

async fn nothing_crosses_namespaces(here: &Node, there: &Node) {
    let (one, other) = (namespace(), namespace());
    let mut first = there.listen(&one, &["#"]).await;
    let mut second = there.listen(&other, &["#"]).await;
    here.publish(&one, &[("a", "1")]).await;
    here.publish(&other, &[("a", "2")]).await;
    here.publish(&one, &[("a", "3")]).await;
    first.expect(&[message(&one, "a", "1"), message(&one, "a", "3")]).await;
    second.expect(&[message(&other, "a", "2")]).await;
}

async fn a_slow_subscriber_is_told_what_it_lost(here: &Node, there: &Node) {
    let own = namespace();
    let mut slow = there.listen(&own, &["slow.#"]).await;
    let mut quick = there.listen(&own, &["#"]).await;
    for number in 0..10 {
        let text = number.to_string();
        here.publish(&own, &[("slow", &text)]).await;
        quick.expect(&[message(&own, "slow", &text)]).await;
    }
    let kept = ["6", "7", "8", "9"].map(|text| message(&own, "slow", text));
    slow.expect(&[&[Notice::Lost(6)], kept.as_slice()].concat()).await;
    // It goes on as if nothing had been.
    here.publish(&own, &[("slow", "10")]).await;
    slow.expect(&[message(&own, "slow", "10")]).await;
}

async fn dropping_a_subscription_ends_it(here: &Node, there: &Node) {
    let own = namespace();
    let pattern = || vec!["a".parse().unwrap()];
    let mut taken = Vec::new();
    for _ in 0..LIVE_LIMITS.subscriptions {
        taken.push(there.live.subscribe(own.clone(), pattern()).await.unwrap());
    }
    assert!(matches!(there.live.subscribe(own.clone(), pattern()).await, Err(LiveError::TooMany)));
    drop(taken);
    let mut late = there.listen(&own, &["a"]).await;
    here.publish(&own, &[("a", "1")]).await;
    late.expect(&[message(&own, "a", "1")]).await;
}

#[tokio::test]
async fn databases_of_one_redis_are_apart() {
    let address = Servers::shared().address("redis");
    let (one, other) = (Node::redis(address, 1), Node::redis(address, 2));
    let own = namespace();
    let mut listener = one.listen(&own, &["#"]).await;
    other.publish(&own, &[("a", "1")]).await;
    one.publish(&own, &[("a", "2")]).await;
    listener.expect(&[message(&own, "a", "2")]).await;
}

#[tokio::test]
async fn a_lost_connection_is_told_when_it_is_back() {
    let address = Servers::shared().address("redis");
    let proxy = Proxy::to(address).await;
    let (far, near) = (Node::redis(proxy.address(), 0), Node::redis(address, 0));
    let own = namespace();
    let mut listener = far.listen(&own, &["#"]).await;
    near.publish(&own, &[("a", "1")]).await;
    listener.expect(&[message(&own, "a", "1")]).await;

    proxy.set(Network::Cut);
    let refused = far.try_publish(&own, &[("a", "2")]).await;
    assert!(matches!(refused, Err(LiveError::Unavailable(_))), "{refused:?}");
    near.publish(&own, &[("a", "3")]).await;
    proxy.set(Network::Open);
    listener.expect(&[Notice::Gap]).await;
    near.publish(&own, &[("a", "4")]).await;
    listener.expect(&[message(&own, "a", "4")]).await;
    // Whoever comes now has missed nothing.
    let mut late = far.listen(&own, &["#"]).await;
    near.publish(&own, &[("a", "5")]).await;
    late.expect(&[message(&own, "a", "5")]).await;
}

#[tokio::test]
async fn without_redis_publishers_and_subscribers_are_refused_soon() {
    let proxy = Proxy::to(Servers::shared().address("redis")).await;
    proxy.set(Network::Silent);
    let node = Node::redis(proxy.address(), 0);
    let own = namespace();
    let begun = Instant::now();
    let refused = node.try_publish(&own, &[("a", "1")]).await;
    assert!(matches!(refused, Err(LiveError::Unavailable(Some(_)))), "{refused:?}");
    let refused = node.live.subscribe(own.clone(), vec!["a".parse().unwrap()]).await;
    assert!(matches!(refused, Err(LiveError::Unavailable(None))));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    proxy.set(Network::Open);
    let subscribe = || node.live.subscribe(own.clone(), vec!["a".parse().unwrap()]);
    testkit::eventually("Redis to be used again", async || subscribe().await.map_err(|error| error.to_string())).await;
}
