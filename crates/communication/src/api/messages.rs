//! `MessageService`.

use contracts::communication::v1::{
    GetMessageRequest, GetMessageResponse, ListMessagesRequest, ListMessagesResponse, SendMessageRequest,
    SendMessageResponse, message_service_server::MessageService,
};
use store::{PageSize, PageToken};
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::{Api, wire};
use crate::{spans, store::MessageFilter};

#[tonic::async_trait]
impl MessageService for Api {
    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        let message = request.into_inner().message.ok_or_else(|| wire::missing("message"))?;
        let mut draft = wire::draft(wire::At::part("message"), message)?;
        draft.sender = access::speaking_as(draft.sender)?;
        let span = spans::sent(&mut draft);
        let (id, status) = self.0.messages.send(draft).instrument(span).await?;
        Ok(Response::new(SendMessageResponse { message_id: id.to_string(), status: wire::status(status).into() }))
    }

    async fn get_message(&self, request: Request<GetMessageRequest>) -> Result<Response<GetMessageResponse>, Status> {
        let request = request.into_inner();
        let namespace = wire::namespace("namespace", &request.namespace)?;
        let record = self.0.messages.get(&namespace, &request.message_id).await?;
        Ok(Response::new(GetMessageResponse { record: Some(wire::record(record)) }))
    }

    async fn list_messages(
        &self,
        request: Request<ListMessagesRequest>,
    ) -> Result<Response<ListMessagesResponse>, Status> {
        let request = request.into_inner();
        let filter = MessageFilter {
            namespace: wire::namespace("namespace", &request.namespace)?,
            agent: wire::optional_agent_id("agent_id", &request.agent_id)?,
            status: wire::wanted_status(request.status)?,
            correlation_id: Some(request.correlation_id).filter(|id| !id.is_empty()),
            before: PageToken::parse(&request.page_token)?,
        };
        let size = PageSize::from_field(request.page_size);
        let page = self.0.messages.list(&filter, size.get()).await?;
        let next = page.next(|last| PageToken::after(last.sequence));
        let records = page.rows.into_iter().map(wire::record).collect();
        Ok(Response::new(ListMessagesResponse { records, next_page_token: next.into_field() }))
    }
}
