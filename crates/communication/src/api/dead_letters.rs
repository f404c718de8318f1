//! `DeadLetterService`.

use contracts::communication::v1::{
    GetDeadLetterRequest, GetDeadLetterResponse, ListDeadLettersRequest, ListDeadLettersResponse,
    PurgeDeadLetterRequest, PurgeDeadLetterResponse, ReplayDeadLetterRequest, ReplayDeadLetterResponse,
    dead_letter_service_server::DeadLetterService,
};
use store::{PageSize, PageToken};
use tonic::{Request, Response, Status};

use super::{Api, wire};
use crate::{app::letters, store::DeadLetterFilter};

#[tonic::async_trait]
impl DeadLetterService for Api {
    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let size = PageSize::from_field(request.page_size);
        let filter = DeadLetterFilter {
            namespace: letters::namespace(&request.namespace)?,
            kind: wire::wanted_kind(request.kind)?,
            reason: wire::non_empty(request.reason),
            include_replayed: request.include_replayed,
            before: PageToken::parse(&request.page_token)?,
            limit: size.limit(),
        };
        let rows = self.0.letters.dead_letters(&filter).await?;
        let (rows, next) = size.cut(rows, |last| PageToken::after(last.id));
        let dead_letters = rows.into_iter().map(wire::dead_letter).collect();
        Ok(Response::new(ListDeadLettersResponse { dead_letters, next_page_token: next.into_field() }))
    }

    async fn get_dead_letter(
        &self,
        request: Request<GetDeadLetterRequest>,
    ) -> Result<Response<GetDeadLetterResponse>, Status> {
        let request = request.into_inner();
        let namespace = letters::namespace(&request.namespace)?;
        let letter = self.0.letters.dead_letter(&namespace, wire::dead_letter_id(&request.dead_letter_id)?).await?;
        Ok(Response::new(GetDeadLetterResponse { dead_letter: Some(wire::dead_letter(letter)) }))
    }

    async fn replay_dead_letter(
        &self,
        request: Request<ReplayDeadLetterRequest>,
    ) -> Result<Response<ReplayDeadLetterResponse>, Status> {
        let request = request.into_inner();
        let namespace = letters::namespace(&request.namespace)?;
        let message_id = self.0.letters.replay(&namespace, wire::dead_letter_id(&request.dead_letter_id)?).await?;
        Ok(Response::new(ReplayDeadLetterResponse { message_id }))
    }

    async fn purge_dead_letter(
        &self,
        request: Request<PurgeDeadLetterRequest>,
    ) -> Result<Response<PurgeDeadLetterResponse>, Status> {
        let request = request.into_inner();
        let namespace = letters::namespace(&request.namespace)?;
        let purged = self.0.letters.purge(&namespace, wire::dead_letter_id(&request.dead_letter_id)?).await?;
        Ok(Response::new(PurgeDeadLetterResponse { purged }))
    }
}
