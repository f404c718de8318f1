//! Which replicas there are, followed over time.

use std::{collections::BTreeSet, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use lifecycle::{OnExit, Tasks};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{replica::Replica, replicas::host};

/// How often names are looked up.
const EVERY: Duration = Duration::from_secs(5);
/// How soon again, where calls fail.
const SOONEST: Duration = Duration::from_millis(500);
/// How long a look-up may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks for the addresses of `host:port`.
pub(crate) type LookUp = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Asks the system.
pub(crate) fn system() -> LookUp {
    Arc::new(|place| async move { tokio::net::lookup_host(place).await.map(Iterator::collect) }.boxed())
}

/// One replica to call: where it is, and the host that was named for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) address: Arc<str>,
    pub(crate) host: Arc<str>,
}

/// What is at an address.
pub(crate) trait At: Clone + Send + Sync + 'static {
    fn address(&self) -> &Arc<str>;
}

impl At for Arc<Replica> {
    fn address(&self) -> &Arc<str> {
        &self.address
    }
}

impl At for contracts::Replica {
    fn address(&self) -> &Arc<str> {
        &self.address
    }
}

/// The replicas of a service, which come and go.
#[derive(Clone)]
pub(crate) struct Followed {
    replicas: watch::Receiver<Arc<[Arc<Replica>]>>,
    wanted: Arc<Notify>,
}

impl Followed {
    pub(crate) const fn new(replicas: watch::Receiver<Arc<[Arc<Replica>]>>, wanted: Arc<Notify>) -> Self {
        Self { replicas, wanted }
    }

    pub(crate) fn now(&self) -> Arc<[Arc<Replica>]> {
        Arc::clone(&self.replicas.borrow())
    }

    /// Calls fail: look for others soon.
    pub(crate) fn look_again(&self) {
        self.wanted.notify_one();
    }
}

/// Places that are looked up, again and again.
pub(crate) struct Resolver<T, F> {
    /// Each with the targets that it last had. One that was never found is a target itself, whose name is looked up when it
    /// is called: there is always something to call.
    places: Vec<(String, Vec<Target>)>,
    look_up: LookUp,
    make: F,
    sender: watch::Sender<Arc<[T]>>,
    wanted: Arc<Notify>,
}

impl<T: At, F: Fn(&Target) -> T + Send + Sync + 'static> Resolver<T, F> {
    /// `wanted` asks for a look before it is time.
    pub(crate) fn new(
        places: &[String],
        look_up: LookUp,
        wanted: Arc<Notify>,
        make: F,
    ) -> (Self, watch::Receiver<Arc<[T]>>) {
        let places: Vec<_> = places
            .iter()
            .map(|place| {
                let target = Target { address: Arc::from(place.as_str()), host: Arc::from(host(place)) };
                (place.clone(), vec![target])
            })
            .collect();
        let (sender, found) = watch::channel(Arc::from([]));
        let resolver = Self { places, look_up, make, sender, wanted };
        resolver.publish();
        (resolver, found)
    }

    /// Follows names in a task; addresses stay as they are.
    pub(crate) fn spawn(self, tasks: &Tasks) {
        if self.places.iter().all(|(place, _)| place.parse::<SocketAddr>().is_ok()) {
            return;
        }
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("rpc.resolver", OnExit::Continue, async move {
            // Both arms are cancel-safe.
            tokio::select! {
                () = self.run() => {}
                () = shutdown.draining() => {}
            }
            Ok::<(), Infallible>(())
        });
    }

    /// Until nobody can call any more.
    async fn run(mut self) {
        loop {
            let begun = Instant::now();
            self.round().await;
            // All arms are cancel-safe.
            tokio::select! {
                () = self.sender.closed() => return,
                () = sleep(EVERY) => {}
                () = self.wanted.notified() => sleep_until(begun + SOONEST).await,
            }
        }
    }

    /// Looks every name up. One that is not found keeps the addresses that it had: it is rather the directory that fails than
    /// all replicas at once.
    async fn round(&mut self) {
        for (place, targets) in &mut self.places {
            if place.parse::<SocketAddr>().is_ok() {
                continue;
            }
            let found = timeout(PATIENCE, (self.look_up)(place.clone())).await.map_err(io::Error::from);
            match found.and_then(|found| found) {
                Ok(found) if !found.is_empty() => {
                    let host: Arc<str> = Arc::from(host(place));
                    let found: BTreeSet<_> = found.into_iter().collect();
                    let target =
                        |found: SocketAddr| Target { address: Arc::from(found.to_string()), host: Arc::clone(&host) };
                    *targets = found.into_iter().map(target).collect();
                }
                Ok(_) => tracing::debug!(place, "a name has no addresses"),
                Err(error) => tracing::debug!(place, %error, "a name cannot be looked up"),
            }
        }
        self.publish();
    }

    /// Tells of changes. What stays keeps its connection.
    fn publish(&self) {
        let mut wanted: Vec<_> = self.places.iter().flat_map(|(_, targets)| targets).collect();
        let mut seen = BTreeSet::new();
        wanted.retain(|target| seen.insert(Arc::clone(&target.address)));
        let before = Arc::clone(&self.sender.borrow());
        if before.iter().map(At::address).eq(wanted.iter().map(|target| &target.address)) {
            return;
        }
        let kept = |target: &Target| before.iter().find(|there| *there.address() == target.address).cloned();
        let now = wanted.iter().map(|target| kept(target).unwrap_or_else(|| (self.make)(target))).collect();
        self.sender.send_replace(now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tonic::transport::Endpoint;

    use super::*;

    /// Answers that a test changes.
    #[derive(Clone, Default)]
    struct Directory(Arc<Mutex<Vec<SocketAddr>>>);

    impl Directory {
        fn says(&self, addresses: &[&str]) {
            *self.0.lock().unwrap() = addresses.iter().map(|address| address.parse().unwrap()).collect();
        }

        fn look_up(&self) -> LookUp {
            let directory = self.clone();
            Arc::new(move |_| {
                let found = directory.0.lock().unwrap().clone();
                async move { if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) } }.boxed()
            })
        }
    }

    fn make(target: &Target) -> Arc<Replica> {
        let channel = Endpoint::from_static("http://nowhere:1").connect_lazy();
        Arc::new(Replica::new("test", Arc::clone(&target.address), channel))
    }

    fn addresses(found: &watch::Receiver<Arc<[Arc<Replica>]>>) -> Vec<String> {
        found.borrow().iter().map(|replica| replica.address.to_string()).collect()
    }

    #[tokio::test]
    async fn a_name_stands_for_all_its_addresses_as_they_come_and_go() {
        let directory = Directory::default();
        let places = ["svc:1".to_owned(), "10.0.0.9:1".to_owned()];
        let (mut resolver, found) = Resolver::new(&places, directory.look_up(), Arc::default(), make);
        resolver.round().await;
        assert_eq!(addresses(&found), ["svc:1", "10.0.0.9:1"], "what is not found is called by its name");
        directory.says(&["10.0.0.2:1", "10.0.0.1:1", "10.0.0.9:1"]);
        resolver.round().await;
        assert_eq!(addresses(&found), ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.9:1"], "each once");
        let kept = Arc::clone(&found.borrow()[1]);
        directory.says(&["10.0.0.2:1", "10.0.0.3:1"]);
        resolver.round().await;
        assert_eq!(addresses(&found), ["10.0.0.2:1", "10.0.0.3:1", "10.0.0.9:1"]);
        assert!(Arc::ptr_eq(&kept, &found.borrow()[0]), "what stays keeps its connection");
        directory.says(&[]);
        resolver.round().await;
        assert_eq!(addresses(&found).len(), 3, "a directory that fails takes nothing away");
    }

    #[tokio::test]
    async fn failing_calls_have_names_looked_up_again() {
        let directory = Directory::default();
        directory.says(&["10.0.0.1:1"]);
        let wanted = Arc::new(Notify::new());
        let (resolver, mut found) =
            Resolver::new(&["svc:1".to_owned()], directory.look_up(), Arc::clone(&wanted), make);
        let tasks = Tasks::new(lifecycle::Shutdown::new());
        resolver.spawn(&tasks);
        found.changed().await.unwrap();
        directory.says(&["10.0.0.2:1"]);
        wanted.notify_one();
        timeout(EVERY / 2, found.changed()).await.expect("sooner than by itself").unwrap();
        assert_eq!(addresses(&found), ["10.0.0.2:1"]);
        tasks.shutdown().drain();
        tasks.join(PATIENCE).await.unwrap();
    }
}
