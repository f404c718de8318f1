//! What could not be delivered: look at, send again, remove.

use std::sync::Arc;

use axum::extract::State;
use contracts::communication::v1 as wire_api;
use domain::Payload;
use errors::Error;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Done, Nothing, Page,
    wire::{self, DeadLetterKind},
};
use crate::{
    app::{self, App},
    context::Context,
    extract::{OptionalBody, Path},
    problem::Problem,
    query::Query,
    reply::Reply,
    words::{Cursor, DeadLetterId, Limit, Moment, Name},
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
    /// `delivery_limit`, `expired` or `rejected`.
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
        })
    }
}

/// A message that is on its way again.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Replayed {
    /// `msg_…`
    message_id: String,
}

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
    /// Also those that were sent again.
    #[param(required = false)]
    include_replayed: bool,
    /// At most this many.
    #[param(inline, required = false, nullable = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(inline, required = false, nullable = false)]
    cursor: Option<Cursor>,
}

/// List dead letters.
#[utoipa::path(get, path = "/api/v1/dead-letters", tag = "dead letters", params(DeadLetterFilter), responses(
    (status = 200, description = "newest first", body = Page<DeadLetter>),
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
        include_replayed: filter.include_replayed,
        page_size: filter.limit.map_or(0, |limit| limit.0),
        page_token: filter.cursor.map(|cursor| cursor.0).unwrap_or_default(),
    };
    let page = app.call(app.dead_letters().list_dead_letters(context.request(request))).await?;
    let letters: Result<Vec<_>, _> =
        page.dead_letters.into_iter().map(|letter| DeadLetter::from_wire(Some(letter))).collect();
    Reply::ok(&Page::new(letters?, page.next_page_token))
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

/// Send a dead letter's message again.
#[utoipa::path(post, path = "/api/v1/dead-letters/{id}/replay", tag = "dead letters",
    request_body = inline(Option<Nothing>),
    params(("id" = inline(DeadLetterId), Path, description = "the dead letter")),
    responses((status = 202, description = "queued again, under the same message id", body = Replayed)))]
pub(crate) async fn replay_dead_letter(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<DeadLetterId>,
    OptionalBody { value: Nothing {}, .. }: OptionalBody<Nothing>,
) -> Result<Reply, Problem> {
    let (app, context) = (&app, &context);
    // The dead letter's own id makes the call idempotent; the record only keeps the answer.
    let replay = |id: domain::DeadLetterId| async move {
        let request =
            wire_api::ReplayDeadLetterRequest { namespace: context.namespace.clone(), dead_letter_id: id.to_string() };
        let answer = app.call(app.dead_letters().replay_dead_letter(context.request(request))).await?;
        let location = format!("/api/v1/messages/{}", answer.message_id);
        Ok(Reply::new(StatusCode::ACCEPTED, &Replayed { message_id: answer.message_id })?.at(location))
    };
    app.idempotency.once(context, b"", id.0, replay).await
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
