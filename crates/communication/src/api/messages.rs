//! `MessageService`.

use contracts::communication::v1::{
    GetMessageRequest, GetMessageResponse, ListMessagesRequest, ListMessagesResponse, SendMessageRequest,
    SendMessageResponse, message_service_server::MessageService,
};
use errors::Error;
use store::{PageSize, PageToken};
use tonic::{Request, Response, Status};

use super::{Api, wire};
use crate::{app::letters, store::MessageFilter};

#[tonic::async_trait]
impl MessageService for Api {
    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        let message = request.into_inner().message;
        let message =
            message.ok_or_else(|| Error::invalid_field("message", "missing_field", "must hold the message"))?;
        let sent = self.0.letters.send(message, None).await?;
        let (message_id, status) = self.0.letters.recorded(sent).await?;
        Ok(Response::new(SendMessageResponse { message_id, status: wire::status(status).into() }))
    }

    async fn get_message(&self, request: Request<GetMessageRequest>) -> Result<Response<GetMessageResponse>, Status> {
        let request = request.into_inner();
        let namespace = letters::namespace(&request.namespace)?;
        let (row, history) = self.0.letters.get(&namespace, &request.message_id).await?;
        Ok(Response::new(GetMessageResponse { record: Some(wire::record(row, history)) }))
    }

    async fn list_messages(
        &self,
        request: Request<ListMessagesRequest>,
    ) -> Result<Response<ListMessagesResponse>, Status> {
        let request = request.into_inner();
        let size = PageSize::from_field(request.page_size);
        let filter = MessageFilter {
            namespace: letters::namespace(&request.namespace)?,
            agent_id: wire::non_empty(request.agent_id),
            status: wire::wanted_status(request.status)?,
            correlation_id: wire::non_empty(request.correlation_id),
            before: PageToken::parse(&request.page_token)?,
            limit: size.limit(),
        };
        let rows = self.0.letters.list(&filter).await?;
        let (rows, next) = size.cut(rows, |last| PageToken::after(last.sequence));
        let records = rows.into_iter().map(|row| wire::record(row, Vec::new())).collect();
        Ok(Response::new(ListMessagesResponse { records, next_page_token: next.into_field() }))
    }
}
