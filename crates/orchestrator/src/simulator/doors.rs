//! The way from one replica to another: a call is answered in the process of whom it is for, as long as that lives, or by nobody.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use contracts::{Link, orchestrator::v1::execution_service_server::ExecutionServiceServer};
use tokio::sync::oneshot;
use tonic::Status;

use super::{ground::Ground, process::Process};
use crate::{Cluster, api::Api};

type Server = ExecutionServiceServer<Api>;

/// Who answers where. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Doors {
    ground: Arc<Ground>,
    open: Arc<Mutex<BTreeMap<String, (Process, Server)>>>,
}

impl Doors {
    pub(super) fn new(ground: &Arc<Ground>) -> Self {
        Self { ground: Arc::clone(ground), open: Arc::default() }
    }

    pub(super) fn open(&self, address: &str, process: Process, api: Api) {
        self.open.lock().unwrap().insert(address.to_owned(), (process, Server::new(api)));
    }

    pub(super) fn cluster(&self, address: &str) -> Cluster {
        let doors = self.clone();
        Cluster { address: address.to_owned(), connect: Arc::new(move |address| doors.connect(address)) }
    }

    fn connect(&self, address: &str) -> Link {
        let (doors, address) = (self.clone(), address.to_owned());
        Link::new(tower::service_fn(move |request| {
            let (doors, address) = (doors.clone(), address.clone());
            async move {
                let is_cut = || doors.ground.chance(doors.ground.trouble().cut);
                let there = doors.open.lock().unwrap().get(&address).cloned();
                let there = there.filter(|(process, _)| !process.is_over() && !is_cut());
                let Some((process, mut server)) = there else { return Err(gone()) };
                let (reply, answer) = oneshot::channel();
                process.spawn(async move {
                    // Who asked may be gone.
                    let caller = Arc::new(access::Principal::service("orchestrator"));
                    let _ = reply.send(access::call_as(&mut server, &caller, request).await);
                });
                let answered = answer.await;
                if is_cut() {
                    return Err(gone());
                }
                match answered {
                    Ok(answered) => answered.map_err(|never| match never {}),
                    Err(_) => Err(gone()),
                }
            }
        }))
    }
}

fn gone() -> Status {
    Status::unavailable("the connection broke")
}
