//! What could not be delivered: look at one, remove one. Sending again, and what is done to many, is in `replays`.

use std::sync::Arc;

use axum::extract::State;
use contracts::communication::v1 as wire_api;
use domain::Payload;
use errors::Error;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Done, Page,
    wire::{self, DeadLetterKind},
};
use crate::{
    app::{self, App},
    context::Context,
    extract::Path,
    fields::Fields,
    problem::Problem,
    query::Query,
    reply::Reply,
    words::{Cursor, DeadLetterId, Limit, Moment, Name, Target},
};

/// A message or task that could not be delivered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetter {
    /// `dlt_…`
    id: String,
    /// What died.
    kind: DeadLetterKind,
    /// The message's or task's id.
    subject_id: String,
    /// The agent, `type:…` or `capability:…` that it was for.
    target: String,
    /// `delivery_limit`, `expired`, `rejected` or `agent_deleted`.
    reason: String,
    /// More about the reason.
    detail: Option<String>,
    /// How often it was handed over.
    deliveries: u32,
    /// The message's payload or the task's input.
    #[schema(value_type = serde_json::Value)]
    payload: Payload,
    /// When it died.
    created_at: Moment,
    /// When it was sent again.
    replayed_at: Option<Moment>,
    /// What the task was; null for a message, whose own record tells the same.
    task: Option<DeadTask>,
}

/// A task that died.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadTask {
    /// The execution, which a replay retries.
    execution_id: String,
    /// The step's id in the definition.
    step_id: String,
    /// The instance of a `for_each`, or the voter of a decision.
    index: Option<u32>,
    /// 1 for the first.
    attempt: u32,
    /// What was to be done.
    action: String,
    /// Who had it, oldest first; of very many the last ones.
    hand_overs: Vec<HandOver>,
}

/// A delivery that came to nothing.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HandOver {
    /// The agent.
    agent_id: String,
    /// Its session.
    session_id: String,
    /// When the session got the task.
    at: Moment,
    /// When it came back.
    ended_at: Moment,
    /// Why it came back.
    reason: Option<String>,
}

impl DeadTask {
    fn from_wire(task: wire_api::DeadTask) -> Result<Self, Problem> {
        let hand_over = |over: wire_api::HandOver| {
            Ok(HandOver {
                agent_id: over.agent_id,
                session_id: over.session_id,
                at: wire::required_moment(over.at)?,
                ended_at: wire::required_moment(over.ended_at)?,
                reason: wire::text(over.reason),
            })
        };
        Ok(Self {
            execution_id: task.execution_id,
            step_id: task.step_id,
            index: task.index,
            attempt: task.attempt,
            action: task.action,
            hand_overs: task.hand_overs.into_iter().map(hand_over).collect::<Result<_, Problem>>()?,
        })
    }
}

impl DeadLetter {
    fn from_wire(letter: Option<wire_api::DeadLetter>) -> Result<Self, Problem> {
        let letter = letter.ok_or_else(|| app::lacking("a dead letter"))?;
        Ok(Self {
            id: letter.id,
            kind: DeadLetterKind::from_wire(letter.kind)?,
            subject_id: letter.subject_id,
            target: letter.target,
            reason: letter.reason,
            detail: wire::text(letter.detail),
            deliveries: letter.deliveries,
            payload: wire::payload(&letter.payload)?.unwrap_or_else(Payload::null),
            created_at: wire::required_moment(letter.created_at)?,
            replayed_at: wire::moment(letter.replayed_at)?,
            task: letter.task.map(DeadTask::from_wire).transpose()?,
        })
    }
}

/// What a list can tell of each.
type DeadLetterFields = Fields<DeadLetter>;

/// Which dead letters.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeadLetterFilter {
    /// Of this kind.
    #[param(inline, required = false, nullable = false)]
    kind: Option<DeadLetterKind>,
    /// For this reason.
    #[param(inline, required = false, nullable = false)]
    reason: Option<Name>,
    /// For this agent, type or capability.
    #[param(inline, required = false, nullable = false)]
    target: Option<Target>,
    /// Also those that were sent again.
    #[param(required = false)]
    include_replayed: bool,
    /// Tell no more of each than these, with commas between them.
    #[param(inline, style = Form, explode = false, required = false, nullable = false)]
    fields: Option<DeadLetterFields>,
    /// At most this many.
    #[param(inline, required = false, nullable = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(inline, required = false, nullable = false)]
    cursor: Option<Cursor>,
}

/// List dead letters.
#[utoipa::path(get, path = "/api/v1/dead-letters", tag = "dead letters", params(DeadLetterFilter), responses(
    (status = 200, description = "newest first", body = Page<DeadLetter>, links(
        ("get" = (operation_id = "get_dead_letter", parameters(("id" = "$response.body#/items/0/id")))),
        ("replay" = (operation_id = "replay_dead_letter", parameters(("id" = "$response.body#/items/0/id")))),
        ("purge" = (operation_id = "purge_dead_letter", parameters(("id" = "$response.body#/items/0/id")))),
    )),
))]
pub(crate) async fn list_dead_letters(
    State(app): State<Arc<App>>,
    context: Context,
    Query(filter): Query<DeadLetterFilter>,
) -> Result<Reply, Problem> {
    let request = wire_api::ListDeadLettersRequest {
        namespace: context.namespace.clone(),
        kind: filter.kind.map_or(0, i32::from),
        reason: filter.reason.map(|reason| reason.0).unwrap_or_default(),
        target: filter.target.map(|target| target.0).unwrap_or_default(),
        include_replayed: filter.include_replayed,
        page_size: filter.limit.map_or(0, |limit| limit.0),
        page_token: filter.cursor.map(|cursor| cursor.0).unwrap_or_default(),
    };
    let page = app.call(app.dead_letters().list_dead_letters(context.request(request))).await?;
    let letters: Result<Vec<_>, _> =
        page.dead_letters.into_iter().map(|letter| DeadLetter::from_wire(Some(letter))).collect();
    Reply::ok(&Page::new(letters?, page.next_page_token))?.with_fields(filter.fields.as_ref())
}

/// Get a dead letter.
#[utoipa::path(get, path = "/api/v1/dead-letters/{id}", tag = "dead letters",
    params(("id" = inline(DeadLetterId), Path, description = "the dead letter")),
    responses((status = 200, description = "the dead letter", body = DeadLetter)))]
pub(crate) async fn get_dead_letter(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<DeadLetterId>,
) -> Result<Reply, Problem> {
    let request =
        wire_api::GetDeadLetterRequest { namespace: context.namespace.clone(), dead_letter_id: id.to_string() };
    let answer = app.call(app.dead_letters().get_dead_letter(context.request(request))).await?;
    Reply::ok(&DeadLetter::from_wire(answer.dead_letter)?)
}

/// Remove a dead letter for good.
#[utoipa::path(delete, path = "/api/v1/dead-letters/{id}", tag = "dead letters",
    params(("id" = inline(DeadLetterId), Path, description = "the dead letter")),
    responses((status = 200, description = "removed", body = Done)))]
pub(crate) async fn purge_dead_letter(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<DeadLetterId>,
) -> Result<Reply, Problem> {
    let request =
        wire_api::PurgeDeadLetterRequest { namespace: context.namespace.clone(), dead_letter_id: id.to_string() };
    let answer = app.call(app.dead_letters().purge_dead_letter(context.request(request))).await?;
    if !answer.purged {
        return Err(Error::not_found("dead_letter_not_found", format!("there is no dead letter {id}")).into());
    }
    Reply::ok(&Done { message: format!("dead letter {id} removed") })
}
