//! What the door of this process has refused, until a gateway comes for it.
//!
//! Gateways alone write the audit log, and no service calls a gateway: so what is denied at a service's own port waits here until one
//! of them asks, which each does every few seconds, and is handed over once. Anybody can make many of these: they are noted
//! [so many a second](access::Sieve), apart for strangers and for those who are known, and so many wait; the others are counted. Nothing
//! here waits for anything or fails, so no call is slower or other for being noted.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use access::{Principal, Sieve, network};
use contracts::access::v1::{
    Denial, TakeDenialsRequest, TakeDenialsResponse,
    denial_service_server::{DenialService, DenialServiceServer},
};
use domain::Clock;
use errors::Error;
use http::{HeaderValue, Request, Uri};
use tonic::{
    Response, Status,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use trace::CORRELATION_ID;

use crate::metrics::DENIED;

/// So many wait for a gateway, and go with one answer; what comes then is left out, since the first ones tell more.
const MOST_WAITING: usize = 1_000;
/// Bytes of a path, which whoever calls may have made up.
const MOST_OF_PATH: usize = 512;
/// Bytes of what ties requests together, as the gateway takes it.
const MOST_OF_CORRELATION: usize = 128;

/// Notes what is refused, and serves it. Cloning is cheap.
#[derive(Clone)]
pub struct Denials(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    strangers: Sieve<Option<IpAddr>>,
    known: Sieve<Arc<Principal>>,
    waiting: Mutex<VecDeque<Denial>>,
}

impl std::fmt::Debug for Denials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Denials")
    }
}

/// What is known of a call before it is answered; most are not refused, so it is made text later.
#[derive(Debug)]
pub(crate) struct Attempt {
    uri: Uri,
    address: Option<IpAddr>,
    correlation: Option<HeaderValue>,
}

impl Attempt {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let extensions = request.extensions();
        let over_tls = || extensions.get::<TlsConnectInfo<TcpConnectInfo>>().map(TlsConnectInfo::get_ref);
        let connection = extensions.get::<TcpConnectInfo>().or_else(over_tls);
        Self {
            uri: request.uri().clone(),
            address: connection.and_then(TcpConnectInfo::remote_addr).map(|peer| peer.ip().to_canonical()),
            correlation: request.headers().get(CORRELATION_ID).cloned(),
        }
    }

    fn path(&self) -> String {
        self.uri.path().bytes().filter(u8::is_ascii_graphic).take(MOST_OF_PATH).map(char::from).collect()
    }

    fn correlation_id(&self) -> String {
        let said = self.correlation.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_one = said.len() <= MOST_OF_CORRELATION && said.bytes().all(|byte| byte.is_ascii_graphic());
        if is_one { said.to_owned() } else { String::new() }
    }
}

impl Denials {
    /// Nothing yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (strangers, known, waiting) = (Sieve::default(), Sieve::default(), Mutex::default());
        Self(Arc::new(Inner { clock, strangers, known, waiting }))
    }

    /// What hands them over.
    pub fn server(&self) -> DenialServiceServer<Self> {
        DenialServiceServer::new(self.clone())
    }

    /// Notes a refusal, where it is for who has called, and where there is room.
    pub(crate) fn note(&self, attempt: &Attempt, principal: Option<&Arc<Principal>>, error: &Error) {
        let (Self(inner), at) = (self, self.0.clock.now());
        let may_be_noted = match principal {
            Some(principal) => inner.known.takes(at, Arc::clone(principal)),
            None => inner.strangers.takes(at, attempt.address.map(network)),
        };
        let (seconds, nanos) = at.to_seconds_and_nanos();
        let text = |text: Option<String>| text.unwrap_or_default();
        let denial = Denial {
            at: Some(prost_types::Timestamp { seconds, nanos }),
            path: attempt.path(),
            actor: text(principal.map(ToString::to_string)),
            role: text(principal.and_then(|principal| principal.role).map(|role| role.to_string())),
            namespace: text(principal.and_then(|principal| principal.namespace()).map(ToString::to_string)),
            address: text(attempt.address.map(|address| address.to_string())),
            status: error.code.http().as_u16().into(),
            code: error.reason.to_owned(),
            correlation_id: attempt.correlation_id(),
        };
        let is_noted = may_be_noted && self.keep(denial);
        metrics::counter!(DENIED, "outcome" => if is_noted { "noted" } else { "omitted" }).increment(1);
    }

    fn keep(&self, denial: Denial) -> bool {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = waiting.len() < MOST_WAITING;
        if has_room {
            waiting.push_back(denial);
        }
        has_room
    }
}

#[tonic::async_trait]
impl DenialService for Denials {
    async fn take_denials(
        &self,
        _: tonic::Request<TakeDenialsRequest>,
    ) -> Result<Response<TakeDenialsResponse>, Status> {
        let waiting = std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Response::new(TakeDenialsResponse { denials: waiting.into() }))
    }
}
