//! Dead letters.

use contracts::communication::v1::{self as communication, dead_letter_service_server::DeadLetterService};
use errors::Error;
use tonic::{Request, Response, Status, async_trait};

use super::{Backend, at, not_found};

#[async_trait]
impl DeadLetterService for Backend {
    async fn list_dead_letters(
        &self,
        request: Request<communication::ListDeadLettersRequest>,
    ) -> Result<Response<communication::ListDeadLettersResponse>, Status> {
        self.called("list_dead_letters", request)?;
        Ok(Response::new(communication::ListDeadLettersResponse::default()))
    }

    async fn get_dead_letter(
        &self,
        request: Request<communication::GetDeadLetterRequest>,
    ) -> Result<Response<communication::GetDeadLetterResponse>, Status> {
        let request = self.called("get_dead_letter", request)?;
        let letter = self.state().task_letters.get(&request.dead_letter_id).cloned();
        let letter = letter.ok_or_else(|| not_found("dead_letter_not_found"))?;
        Ok(Response::new(communication::GetDeadLetterResponse { dead_letter: Some(letter) }))
    }

    async fn replay_dead_letter(
        &self,
        request: Request<communication::ReplayDeadLetterRequest>,
    ) -> Result<Response<communication::ReplayDeadLetterResponse>, Status> {
        let request = self.called("replay_dead_letter", request)?;
        let of_task = {
            let mut state = self.state();
            state.task_letters.get_mut(&request.dead_letter_id).map(|letter| {
                if request.execution_retried {
                    letter.replayed_at = at(2);
                }
                letter.clone()
            })
        };
        let (message_id, execution_id) = match of_task {
            Some(letter) if letter.replayed_at.is_none() => {
                return Err(Error::conflict("dead_letter_not_replayable", "it is a task's").into());
            }
            Some(letter) => (String::new(), letter.subject_id.split('/').next().unwrap_or_default().to_owned()),
            None => ("msg_replayed".to_owned(), String::new()),
        };
        self.answered(communication::ReplayDeadLetterResponse { message_id, execution_id })
    }

    async fn replay_dead_letters(
        &self,
        request: Request<communication::ReplayDeadLettersRequest>,
    ) -> Result<Response<communication::ReplayDeadLettersResponse>, Status> {
        let request = self.called("replay_dead_letters", request)?;
        if request.filter.unwrap_or_default() == communication::DeadLetterFilter::default() {
            return Err(Error::invalid_field("filter", "missing_field", "names nothing").into());
        }
        let tasks = self.state().task_letters.values().filter(|letter| letter.replayed_at.is_none()).cloned().collect();
        let next_page_token = if request.page_token.is_empty() { "more".to_owned() } else { String::new() };
        let failures = Vec::new();
        self.answered(communication::ReplayDeadLettersResponse { replayed: 3, failures, tasks, next_page_token })
    }

    async fn purge_dead_letters(
        &self,
        request: Request<communication::PurgeDeadLettersRequest>,
    ) -> Result<Response<communication::PurgeDeadLettersResponse>, Status> {
        let request = self.called("purge_dead_letters", request)?;
        if request.filter.unwrap_or_default() == communication::DeadLetterFilter::default() {
            return Err(Error::invalid_field("filter", "missing_field", "names nothing").into());
        }
        let next_page_token = String::new();
        Ok(Response::new(communication::PurgeDeadLettersResponse { purged: 2, next_page_token }))
    }

    async fn purge_dead_letter(
        &self,
        request: Request<communication::PurgeDeadLetterRequest>,
    ) -> Result<Response<communication::PurgeDeadLetterResponse>, Status> {
        self.called("purge_dead_letter", request)?;
        Ok(Response::new(communication::PurgeDeadLetterResponse { purged: false }))
    }
}
