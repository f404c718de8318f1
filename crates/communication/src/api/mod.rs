//! The gRPC services: decoding, calling `app`, encoding. One file per service; the two streams have one each.

mod credentials;
mod dead_letters;
mod exchange_tasks;
mod messages;
mod open_session;
mod outgoing;
mod topics;
mod wire;

use std::{sync::Arc, time::Duration};

use contracts::communication::v1::{
    agent_session_service_server::AgentSessionServiceServer, credential_service_server::CredentialServiceServer,
    dead_letter_service_server::DeadLetterServiceServer, message_service_server::MessageServiceServer,
    task_service_server::TaskServiceServer, topic_service_server::TopicServiceServer,
};
use domain::Clock;
use lifecycle::Tasks;
use tonic::service::Routes;

use crate::{
    app::{Credentials, DeadLetters, Directory, Hub, Messages, Progress},
    transport::Live,
};

/// What a session and an orchestrator's stream are held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamLimits {
    pub(crate) heartbeat_interval: Duration,
    pub(crate) session_lease: Duration,
    pub(crate) max_credits: u32,
    pub(crate) session_buffer: usize,
    pub(crate) orchestrator_buffer: usize,
}

/// Everything that calls need.
pub(crate) struct Context {
    pub(crate) hub: Arc<Hub>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) messages: Messages,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) live: Arc<dyn Live>,
    pub(crate) progress: Progress,
    pub(crate) credentials: Credentials,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
    pub(crate) limits: StreamLimits,
}

/// All services. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Api(Arc<Context>);

impl Api {
    pub(crate) fn new(context: Context) -> Self {
        Self(Arc::new(context))
    }

    /// All services, with the limits that all services have.
    pub(crate) fn routes(&self) -> Routes {
        macro_rules! server {
            ($server:ident) => {
                $server::new(self.clone())
                    .max_decoding_message_size(contracts::MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(contracts::MAX_MESSAGE_BYTES)
            };
        }
        Routes::new(server!(AgentSessionServiceServer))
            .add_service(server!(CredentialServiceServer))
            .add_service(server!(TaskServiceServer))
            .add_service(server!(MessageServiceServer))
            .add_service(server!(DeadLetterServiceServer))
            .add_service(server!(TopicServiceServer))
            .prepare()
    }
}
