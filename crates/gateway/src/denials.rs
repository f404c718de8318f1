//! Takes what other services have refused at their own gRPC ports into the audit log, which gateways alone write.
//!
//! Each replica keeps what it has refused until a gateway asks, and hands it over once. So each gateway asks each of them again and
//! again; a replica that is away or silent is asked again the next time, and keeps no other waiting for longer than one call may take.

use std::{sync::Arc, time::Duration};

use access::{Principal, acting_as};
use contracts::{
    Links, Replica,
    access::v1::{Denial, TakeDenialsRequest, denial_service_client::DenialServiceClient},
};
use domain::Timestamp;
use futures::future::join_all;

use crate::{
    app::App,
    audit::{Bound, Entry, Log},
    middleware::request_id,
};

/// How often they are asked.
const EVERY: Duration = Duration::from_secs(2);
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// For ever.
pub(crate) async fn follow(app: &App, mut services: Vec<Links>) {
    // As itself: nobody has asked for it.
    let own = Arc::new(Principal::service("gateway"));
    acting_as(own, async {
        let mut due = tokio::time::interval(EVERY);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let replicas: Vec<_> = services.iter_mut().map(Links::now).collect();
            join_all(replicas.iter().flat_map(|of_one| of_one.iter()).map(|replica| take(app, replica))).await;
        }
    })
    .await;
}

async fn take(app: &App, replica: &Replica) {
    let mut client = DenialServiceClient::new(replica.link.clone());
    let taken = contracts::deadline::within(PATIENCE, client.take_denials(TakeDenialsRequest {})).await;
    let denials = match taken {
        Ok(Ok(answer)) => answer.into_inner().denials,
        // That a service is away is told by who needs it; what it has refused waits in it.
        Ok(Err(error)) => {
            tracing::debug!(
                replica = &*replica.address,
                error = errors::chain(&error),
                "it does not say what it refused"
            );
            return;
        }
        Err(_) => return,
    };
    for denial in denials {
        // How many there are is bounded where they were noted, each replica for itself.
        app.audit.note_later(entry(&app.audit, denial, request_id(app)), Bound::None);
    }
}

fn entry(log: &Log, denial: Denial, request_id: String) -> Entry {
    let at = denial.at.and_then(|at| Timestamp::from_seconds_and_nanos(at.seconds, at.nanos).ok());
    let rule = access::rule(&denial.path);
    Entry {
        at: at.unwrap_or_else(|| log.now()),
        actor: denial.actor,
        role: denial.role,
        action: rule.map(|rule| rule.permission.to_string()).unwrap_or_default(),
        // A path that is none of ours was made up by who has called.
        route: if rule.is_some() { format!("RPC {}", denial.path) } else { "RPC".to_owned() },
        target: denial.path,
        resource: String::new(),
        details: String::new(),
        namespace: denial.namespace,
        address: denial.address,
        status: u16::try_from(denial.status).unwrap_or_default(),
        code: denial.code,
        correlation_id: denial.correlation_id,
        request_id,
    }
}
