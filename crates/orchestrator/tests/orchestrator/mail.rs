//! Messages and topics of the communication service that the test plays: they are noted.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use contracts::communication::v1::{
    GetMessageRequest, GetMessageResponse, ListMessagesRequest, ListMessagesResponse, Message, PublishRequest,
    PublishResponse, SendMessageRequest, SendMessageResponse, SubscribeRequest, SubscribeResponse,
    message_service_server::MessageService, topic_service_server::TopicService,
};
use errors::Error;
use futures::Stream;
use tonic::{Request, Response, Status};

/// Cloning is cheap; all clones are one post office.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mail {
    /// By id, as the real one keeps them.
    pub(crate) messages: Arc<Mutex<BTreeMap<String, Message>>>,
    pub(crate) published: Arc<Mutex<Vec<PublishRequest>>>,
    /// How many messages it refuses first, for now.
    pub(crate) full: Arc<AtomicUsize>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl MessageService for Mail {
    async fn send_message(&self, request: Request<SendMessageRequest>) -> Answer<SendMessageResponse> {
        let message = request.into_inner().message.unwrap();
        let is_full = |left: usize| left.checked_sub(1);
        if self.full.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_full).is_ok() {
            return Err(Error::new(errors::Code::Exhausted, "mailbox_full", "for now").into());
        }
        if message.recipient.as_ref().is_some_and(|to| format!("{to:?}").contains("nobody")) {
            return Err(Error::not_found("agent_not_found", "there is no such agent").into());
        }
        let message_id = message.id.clone();
        self.messages.lock().unwrap().insert(message_id.clone(), message);
        Ok(Response::new(SendMessageResponse { message_id, ..SendMessageResponse::default() }))
    }

    async fn get_message(&self, _: Request<GetMessageRequest>) -> Answer<GetMessageResponse> {
        Err(Status::unimplemented("the orchestrator does not call this"))
    }

    async fn list_messages(&self, _: Request<ListMessagesRequest>) -> Answer<ListMessagesResponse> {
        Err(Status::unimplemented("the orchestrator does not call this"))
    }
}

#[tonic::async_trait]
impl TopicService for Mail {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn publish(&self, request: Request<PublishRequest>) -> Answer<PublishResponse> {
        self.published.lock().unwrap().push(request.into_inner());
        Ok(Response::new(PublishResponse {}))
    }

    async fn subscribe(&self, _: Request<SubscribeRequest>) -> Answer<Self::SubscribeStream> {
        Err(Status::unimplemented("the orchestrator does not call this"))
    }
}
