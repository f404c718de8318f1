//! `DeadLetterService`.

use contracts::communication::v1::{
    GetDeadLetterRequest, GetDeadLetterResponse, ListDeadLettersRequest, ListDeadLettersResponse,
    PurgeDeadLetterRequest, PurgeDeadLetterResponse, ReplayDeadLetterRequest, ReplayDeadLetterResponse,
    dead_letter_service_server::DeadLetterService,
};
use domain::DeadLetterId;
use store::{PageSize, PageToken};
use tonic::{Request, Response, Status};

use super::{Api, wire};
use crate::store::LetterFilter;

#[tonic::async_trait]
impl DeadLetterService for Api {
    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let filter = LetterFilter {
            namespace: wire::namespace("namespace", &request.namespace)?,
            kind: wire::wanted_kind(request.kind)?,
            reason: Some(request.reason).filter(|reason| !reason.is_empty()),
            include_replayed: request.include_replayed,
            before: PageToken::parse::<DeadLetterId>(&request.page_token)?.map(|id| id.to_string()),
        };
        let size = PageSize::from_field(request.page_size);
        let page = self.0.dead_letters.list(&filter, size.get()).await?;
        let next = page.next(|last| PageToken::after(last.id));
        let dead_letters = page.rows.into_iter().map(wire::dead_letter).collect();
        Ok(Response::new(ListDeadLettersResponse { dead_letters, next_page_token: next.into_field() }))
    }

    async fn get_dead_letter(
        &self,
        request: Request<GetDeadLetterRequest>,
    ) -> Result<Response<GetDeadLetterResponse>, Status> {
        let request = request.into_inner();
        let namespace = wire::namespace("namespace", &request.namespace)?;
        let letter = self.0.dead_letters.get(&namespace, &request.dead_letter_id).await?;
        Ok(Response::new(GetDeadLetterResponse { dead_letter: Some(wire::dead_letter(letter)) }))
    }

    async fn replay_dead_letter(
        &self,
        request: Request<ReplayDeadLetterRequest>,
    ) -> Result<Response<ReplayDeadLetterResponse>, Status> {
        let request = request.into_inner();
        let namespace = wire::namespace("namespace", &request.namespace)?;
        let message_id = self.0.dead_letters.replay(&namespace, &request.dead_letter_id).await?;
        Ok(Response::new(ReplayDeadLetterResponse { message_id }))
    }

    async fn purge_dead_letter(
        &self,
        request: Request<PurgeDeadLetterRequest>,
    ) -> Result<Response<PurgeDeadLetterResponse>, Status> {
        let request = request.into_inner();
        let namespace = wire::namespace("namespace", &request.namespace)?;
        let purged = self.0.dead_letters.purge(&namespace, &request.dead_letter_id).await?;
        Ok(Response::new(PurgeDeadLetterResponse { purged }))
    }
}
