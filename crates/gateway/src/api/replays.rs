//! Dead letters get their second chance, one or many; and many are removed.
//!
//! A message is replayed by communication. A task is replayed by a retry of its execution, which is the orchestrator's, and
//! only then its letter is marked: where this process ends between the two, the letter is still there, and a repetition finds
//! that the execution has been retried since the task ended, changes nothing, and marks it.

use std::sync::Arc;

use axum::extract::State;
use contracts::{communication::v1 as wire_api, orchestrator::v1 as orchestrator};
use errors::Error;
use futures::{StreamExt as _, stream};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Nothing, wire::DeadLetterKind};
use crate::{
    app::App,
    context::Context,
    extract::{Body, OptionalBody, Path},
    problem::Problem,
    reply::Reply,
    words::{Cursor, DeadLetterId, Limit, Name, Target},
};

/// Executions that are retried at the same time for one request.
const RETRIES_AT_ONCE: usize = 16;
/// What communication says of a task that somebody has to retry first.
const NOT_REPLAYABLE: &str = "dead_letter_not_replayable";

/// What is on its way again: a message, or the execution of a task.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Replayed {
    /// `msg_…`; null for a task.
    message_id: Option<String>,
    /// `exe_…`; null for a message.
    execution_id: Option<String>,
}

/// Which dead letters, and how many of them at once. Where nothing narrows it, `all` must be said.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "expired", "limit": 500}))]
pub(crate) struct Many {
    /// Of this kind.
    #[serde(default)]
    kind: Option<DeadLetterKind>,
    /// For this reason.
    #[serde(default)]
    reason: Option<Name>,
    /// For this agent, type or capability.
    #[serde(default)]
    target: Option<Target>,
    /// These, replayed before or not.
    #[serde(default)]
    #[schema(max_items = 500)]
    ids: Vec<DeadLetterId>,
    /// Also those that were replayed.
    #[serde(default)]
    include_replayed: bool,
    /// Everything is meant.
    #[serde(default)]
    all: bool,
    /// At most this many with this request.
    #[serde(default)]
    limit: Option<Limit>,
    /// `next_cursor` of the answer before, with the same filter.
    #[serde(default)]
    cursor: Option<Cursor>,
}

impl Many {
    fn into_wire(self) -> (wire_api::DeadLetterFilter, u32, String) {
        let filter = wire_api::DeadLetterFilter {
            kind: self.kind.map_or(0, i32::from),
            reason: self.reason.map(|reason| reason.0).unwrap_or_default(),
            target: self.target.map(|target| target.0).unwrap_or_default(),
            dead_letter_ids: self.ids.iter().map(DeadLetterId::to_string).collect(),
            include_replayed: self.include_replayed,
            all: self.all,
        };
        let cursor = self.cursor.map(|cursor| cursor.0).unwrap_or_default();
        (filter, self.limit.map_or(0, |limit| limit.0), cursor)
    }
}

/// What became of some of them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ManyReplayed {
    /// Letters that are replayed: by this request, or, where they were named by their ids, before it.
    replayed: u32,
    /// Those that could not be, and why.
    failures: Vec<ReplayFailure>,
    /// Give it as `cursor` to go on; null when all are done.
    next_cursor: Option<String>,
}

/// A letter that could not be replayed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReplayFailure {
    /// `dlt_…`
    id: String,
    /// Stable and machine-readable.
    code: String,
    /// What is wrong.
    message: String,
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ManyPurged {
    /// Letters that this request removed.
    purged: u32,
    /// Give it as `cursor` to go on; null when all are done.
    next_cursor: Option<String>,
}

/// Replay a dead letter: send its message again, or retry its task's execution from the failed step.
#[utoipa::path(post, path = "/api/v1/dead-letters/{id}/replay", tag = "dead letters",
    request_body = inline(Option<Nothing>),
    params(("id" = inline(DeadLetterId), Path, description = "the dead letter")),
    responses((status = 202, description = "queued again under the same message id, or retried", body = Replayed, links(
        ("follow" = (operation_id = "get_message", parameters(("id" = "$response.body#/message_id")))),
        ("look" = (operation_id = "get_execution", parameters(("id" = "$response.body#/execution_id")))),
    ))))]
pub(crate) async fn replay_dead_letter(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<DeadLetterId>,
    OptionalBody { value: Nothing {}, .. }: OptionalBody<Nothing>,
) -> Result<Reply, Problem> {
    let (app, context) = (&app, &context);
    // The dead letter's own id makes the call idempotent; the record only keeps the answer.
    let replay = |id: domain::DeadLetterId| async move {
        let id = id.to_string();
        let answer = match mark(app, context, &id, false).await {
            Err(error) if error.reason == NOT_REPLAYABLE => {
                replay_task(app, context, &letter(app, context, &id).await?).await
            }
            answer => answer,
        }?;
        let location = match answer.execution_id.as_str() {
            "" => format!("/api/v1/messages/{}", answer.message_id),
            execution => format!("/api/v1/executions/{execution}"),
        };
        let named = |id: String| Some(id).filter(|id| !id.is_empty());
        let replayed = Replayed { message_id: named(answer.message_id), execution_id: named(answer.execution_id) };
        Ok(Reply::new(StatusCode::ACCEPTED, &replayed)?.at(location))
    };
    app.idempotency.once(context, b"", id.0, replay).await
}

/// Replay many dead letters, oldest first, as far as `limit` goes.
#[utoipa::path(post, path = "/api/v1/dead-letters/replay", tag = "dead letters", request_body = Many,
    responses((status = 200, description = "what became of them; letters that come meanwhile are left out", body = ManyReplayed)))]
pub(crate) async fn replay_dead_letters(
    State(app): State<Arc<App>>,
    context: Context,
    Body { value, bytes }: Body<Many>,
) -> Result<Reply, Problem> {
    let fresh = domain::DeadLetterId::generate(&*app.clock);
    let (app, context) = (&app, &context);
    // What was replayed is not replayed again; the record, under an id that nothing has, only keeps the answer.
    let replay = |_: domain::DeadLetterId| async move {
        let (filter, page_size, page_token) = value.into_wire();
        let namespace = context.namespace.clone();
        let request = wire_api::ReplayDeadLettersRequest { namespace, filter: Some(filter), page_size, page_token };
        let answer = app.call(app.dead_letters().replay_dead_letters(context.request(request))).await;
        let answer = answer.map_err(in_many)?;
        let mut failures: Vec<_> = answer.failures.into_iter().map(ReplayFailure::from).collect();
        let mut replayed = answer.replayed;
        let mut tasks = stream::iter(answer.tasks)
            .map(|letter| async move {
                let outcome = replay_task(app, context, &letter).await;
                (letter.id, outcome)
            })
            .buffer_unordered(RETRIES_AT_ONCE);
        while let Some((id, outcome)) = tasks.next().await {
            match outcome {
                Ok(_) => replayed += 1,
                Err(error) => failures.push(ReplayFailure::of(id, error)?),
            }
        }
        Reply::ok(&ManyReplayed { replayed, failures, next_cursor: next(answer.next_page_token) })
    };
    app.idempotency.once(context, &bytes, fresh, replay).await
}

/// Remove many dead letters for good, oldest first, as far as `limit` goes.
#[utoipa::path(post, path = "/api/v1/dead-letters/purge", tag = "dead letters", request_body = Many,
    responses((status = 200, description = "what was removed; letters that come meanwhile are left out", body = ManyPurged)))]
pub(crate) async fn purge_dead_letters(
    State(app): State<Arc<App>>,
    context: Context,
    Body { value, .. }: Body<Many>,
) -> Result<Reply, Problem> {
    let (filter, page_size, page_token) = value.into_wire();
    let namespace = context.namespace.clone();
    let request = wire_api::PurgeDeadLettersRequest { namespace, filter: Some(filter), page_size, page_token };
    let answer = app.call(app.dead_letters().purge_dead_letters(context.request(request))).await.map_err(in_many)?;
    Reply::ok(&ManyPurged { purged: answer.purged, next_cursor: next(answer.next_page_token) })
}

fn next(token: String) -> Option<String> {
    Some(token).filter(|token| !token.is_empty())
}

/// A refusal of a filter: its fields are the body's own.
fn in_many(mut error: Error) -> Problem {
    for violation in &mut error.violations {
        let field = match violation.field.as_str() {
            "filter" => "",
            "filter.dead_letter_ids" => "/ids",
            "page_token" => "/cursor",
            field => field.strip_prefix("filter.").unwrap_or(field),
        };
        violation.field = field.to_owned();
    }
    Problem::in_body(error)
}

async fn letter(app: &App, context: &Context, id: &str) -> Result<wire_api::DeadLetter, Error> {
    let request =
        wire_api::GetDeadLetterRequest { namespace: context.namespace.clone(), dead_letter_id: id.to_owned() };
    let answer = app.call(app.dead_letters().get_dead_letter(context.request(request))).await?;
    answer.dead_letter.ok_or_else(|| Error::not_found("dead_letter_not_found", format!("there is no dead letter {id}")))
}

/// Retries the execution, then marks the letter.
async fn replay_task(
    app: &App,
    context: &Context,
    letter: &wire_api::DeadLetter,
) -> Result<wire_api::ReplayDeadLetterResponse, Error> {
    let request = orchestrator::RetryExecutionRequest {
        namespace: context.namespace.clone(),
        // The first part of a task's id.
        execution_id: letter.subject_id.split('/').next().unwrap_or_default().to_owned(),
        task_id: letter.subject_id.clone(),
    };
    app.call(app.executions().retry_execution(context.request(request))).await?;
    mark(app, context, &letter.id, true).await
}

/// Replays a message, or marks a task's letter.
async fn mark(
    app: &App,
    context: &Context,
    id: &str,
    execution_retried: bool,
) -> Result<wire_api::ReplayDeadLetterResponse, Error> {
    let request = wire_api::ReplayDeadLetterRequest {
        namespace: context.namespace.clone(),
        dead_letter_id: id.to_owned(),
        execution_retried,
    };
    app.call(app.dead_letters().replay_dead_letter(context.request(request))).await
}

impl From<wire_api::DeadLetterFailure> for ReplayFailure {
    fn from(failure: wire_api::DeadLetterFailure) -> Self {
        Self { id: failure.dead_letter_id, code: failure.code, message: failure.message }
    }
}

impl ReplayFailure {
    /// Of this letter alone; what is wrong with a service behind is wrong with all of them, and fails the request.
    fn of(id: String, error: Error) -> Result<Self, Problem> {
        use errors::Code;
        match error.code {
            Code::Unavailable | Code::Timeout | Code::Internal | Code::Unauthenticated | Code::Forbidden => {
                Err(error.into())
            }
            Code::Invalid | Code::NotFound | Code::Exists | Code::Conflict | Code::WrongState | Code::Exhausted => {
                Ok(Self { id, code: error.reason.to_owned(), message: error.message })
            }
        }
    }
}
