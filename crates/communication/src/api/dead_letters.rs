//! `DeadLetterService`.

mod wire;

use bytes::Bytes;
use contracts::communication::v1::{
    GetDeadLetterRequest, GetDeadLetterResponse, ListDeadLettersRequest, ListDeadLettersResponse,
    PurgeDeadLetterRequest, PurgeDeadLetterResponse, PurgeDeadLettersRequest, PurgeDeadLettersResponse,
    ReplayDeadLetterRequest, ReplayDeadLetterResponse, ReplayDeadLettersRequest, ReplayDeadLettersResponse,
    dead_letter_service_server::DeadLetterService,
};
use domain::DeadLetterId;
use store::{PageSize, PageToken};
use tonic::{Request, Response, Status};

use self::wire::Walk;
use super::{Api, wire::namespace};
use crate::{
    app::{DeadLetter, Replayed},
    store::LetterFilter,
};

#[tonic::async_trait]
impl DeadLetterService for Api {
    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let filter = LetterFilter {
            namespace: namespace("namespace", &request.namespace)?,
            kind: wire::wanted_kind("kind", request.kind)?,
            reason: wire::wanted(request.reason),
            target: wire::wanted(request.target),
            ids: Vec::new(),
            include_replayed: request.include_replayed,
        };
        let before = PageToken::parse::<DeadLetterId>(&request.page_token)?;
        let size = PageSize::from_field(request.page_size);
        let page = self.0.dead_letters.list(&filter, before, size.get()).await?;
        let next = page.next(|last| PageToken::after(last.id));
        let dead_letters = page.rows.into_iter().map(wire::dead_letter).collect();
        Ok(Response::new(ListDeadLettersResponse { dead_letters, next_page_token: next.into_field() }))
    }

    async fn get_dead_letter(
        &self,
        request: Request<GetDeadLetterRequest>,
    ) -> Result<Response<GetDeadLetterResponse>, Status> {
        let request = request.into_inner();
        let namespace = namespace("namespace", &request.namespace)?;
        let letter = self.0.dead_letters.get(&namespace, &request.dead_letter_id).await?;
        Ok(Response::new(GetDeadLetterResponse { dead_letter: Some(wire::dead_letter(letter)) }))
    }

    async fn replay_dead_letter(
        &self,
        request: Request<ReplayDeadLetterRequest>,
    ) -> Result<Response<ReplayDeadLetterResponse>, Status> {
        let request = request.into_inner();
        let namespace = namespace("namespace", &request.namespace)?;
        let replay = self.0.dead_letters.replay(&namespace, &request.dead_letter_id, request.execution_retried);
        let (message_id, execution_id) = match replay.await? {
            Replayed::Message(id) => (id, String::new()),
            Replayed::Execution(id) => (String::new(), id),
        };
        Ok(Response::new(ReplayDeadLetterResponse { message_id, execution_id }))
    }

    async fn replay_dead_letters(
        &self,
        request: Request<ReplayDeadLettersRequest>,
    ) -> Result<Response<ReplayDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let filter = wire::filter(namespace("namespace", &request.namespace)?, request.filter)?;
        let walk = Walk::begin_or_go_on(&request.page_token, &*self.0.clock)?;
        let size = PageSize::from_field(request.page_size);
        let replays = self.0.dead_letters.replay_some(&filter, walk.after, walk.until, size.get()).await?;
        let without_payload = |letter| wire::dead_letter(DeadLetter { payload: Bytes::new(), ..letter });
        Ok(Response::new(ReplayDeadLettersResponse {
            replayed: replays.replayed,
            failures: replays.failures.into_iter().map(wire::failure).collect(),
            tasks: replays.tasks.into_iter().map(without_payload).collect(),
            next_page_token: walk.next(replays.last),
        }))
    }

    async fn purge_dead_letter(
        &self,
        request: Request<PurgeDeadLetterRequest>,
    ) -> Result<Response<PurgeDeadLetterResponse>, Status> {
        let request = request.into_inner();
        let namespace = namespace("namespace", &request.namespace)?;
        // What is no id names none.
        let purged = match request.dead_letter_id.parse() {
            Ok(id) => self.0.dead_letters.purge(&namespace, id).await?,
            Err(_) => false,
        };
        Ok(Response::new(PurgeDeadLetterResponse { purged }))
    }

    async fn purge_dead_letters(
        &self,
        request: Request<PurgeDeadLettersRequest>,
    ) -> Result<Response<PurgeDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let filter = wire::filter(namespace("namespace", &request.namespace)?, request.filter)?;
        let walk = Walk::begin_or_go_on(&request.page_token, &*self.0.clock)?;
        let size = PageSize::from_field(request.page_size);
        let (purged, last) = self.0.dead_letters.purge_some(&filter, walk.after, walk.until, size.get()).await?;
        let purged = u32::try_from(purged).unwrap_or(u32::MAX);
        Ok(Response::new(PurgeDeadLettersResponse { purged, next_page_token: walk.next(last) }))
    }
}
