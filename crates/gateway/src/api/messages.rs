//! Messages to agents, and what became of them.

use std::sync::Arc;

use axum::extract::State;
use contracts::communication::v1::{self as wire_api, message::Recipient};
use domain::Payload;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Page,
    wire::{self, MessageStatus},
};
use crate::{
    app::{self, App},
    context::Context,
    extract::{Body, Path},
    fields::Fields,
    json::Any,
    problem::Problem,
    query::Query,
    reply::Reply,
    words::{AgentId, Cursor, Key, Lifetime, Limit, MessageId, Moment, Name, Priority, Target},
};

/// A message to send.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"payload": {"text": "hello"}, "type": "greeting", "correlation_id": "order-4711"}))]
pub(crate) struct NewMessage {
    /// Any JSON value; passed through unread.
    payload: Any,
    /// What kind of message this is, for the receiver; `message` unless said otherwise.
    #[serde(rename = "type", default)]
    kind: Option<Name>,
    /// Ties an answer to its question.
    #[serde(default)]
    correlation_id: Option<Key>,
    /// The agent that answers should go to.
    #[serde(default)]
    reply_to: Option<AgentId>,
    /// Dead-lettered as `expired` where it was not delivered within this time.
    #[serde(default)]
    expires_in: Option<Lifetime>,
    /// Within a priority a mailbox keeps its order.
    #[serde(default)]
    priority: Option<Priority>,
}

/// A message to send, and whom to.
// The fields of `NewMessage` again: serde refuses no unknown fields where a struct is flattened into another.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"to": "capability:greet", "payload": {"text": "hello"}, "type": "greeting"}))]
pub(crate) struct AddressedMessage {
    /// An agent's id, or `type:` and a type, or `capability:` and a capability: then a live agent is chosen.
    to: Target,
    /// Any JSON value; passed through unread.
    payload: Any,
    /// What kind of message this is, for the receiver; `message` unless said otherwise.
    #[serde(rename = "type", default)]
    kind: Option<Name>,
    /// Ties an answer to its question.
    #[serde(default)]
    correlation_id: Option<Key>,
    /// The agent that answers should go to.
    #[serde(default)]
    reply_to: Option<AgentId>,
    /// Dead-lettered as `expired` where it was not delivered within this time.
    #[serde(default)]
    expires_in: Option<Lifetime>,
    /// Within a priority a mailbox keeps its order.
    #[serde(default)]
    priority: Option<Priority>,
}

impl AddressedMessage {
    fn split(self) -> (Recipient, NewMessage) {
        let Self { to, payload, kind, correlation_id, reply_to, expires_in, priority } = self;
        let to = match to.0.split_once(':') {
            Some(("type", name)) => Recipient::AgentType(name.to_owned()),
            Some((_, name)) => Recipient::Capability(name.to_owned()),
            None => Recipient::AgentId(to.0),
        };
        (to, NewMessage { payload, kind, correlation_id, reply_to, expires_in, priority })
    }
}

/// An accepted message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SentMessage {
    /// `msg_…`
    message_id: String,
    /// Where it is.
    status: MessageStatus,
}

/// What a message became.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageEvent {
    /// What it became.
    status: MessageStatus,
    /// When.
    at: Moment,
    /// More, for people.
    detail: Option<String>,
}

/// A message and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Message {
    /// `msg_…`
    id: String,
    /// The sending agent; null where a client sent it.
    sender: Option<String>,
    /// The agent that it is for.
    agent_id: Option<String>,
    /// What kind of message this is.
    #[serde(rename = "type")]
    kind: String,
    /// As it was sent.
    #[schema(value_type = serde_json::Value)]
    payload: Payload,
    /// Ties an answer to its question.
    correlation_id: Option<String>,
    /// The agent that answers should go to.
    reply_to: Option<String>,
    /// 0 to 9, 9 the most urgent.
    priority: u32,
    /// Where it is.
    status: MessageStatus,
    /// How often it was handed over.
    deliveries: u32,
    /// When it was accepted.
    created_at: Moment,
    /// When it becomes a dead letter.
    expires_at: Option<Moment>,
    /// When it was first handed over.
    delivered_at: Option<Moment>,
    /// When it was dealt with.
    acked_at: Option<Moment>,
    /// Oldest first; empty in lists.
    history: Vec<MessageEvent>,
}

impl Message {
    fn from_wire(record: Option<wire_api::MessageRecord>) -> Result<Self, Problem> {
        let record = record.ok_or_else(|| app::lacking("a message's record"))?;
        let message = record.message.ok_or_else(|| app::lacking("a message"))?;
        let event = |event: wire_api::MessageEvent| {
            Ok(MessageEvent {
                status: MessageStatus::from_wire(event.status)?,
                at: wire::required_moment(event.at)?,
                detail: wire::text(event.detail),
            })
        };
        let agent_id = message.recipient.and_then(|recipient| match recipient {
            Recipient::AgentId(id) => Some(id),
            Recipient::Capability(_) | Recipient::AgentType(_) => None,
        });
        Ok(Self {
            id: message.id,
            sender: wire::text(message.sender),
            agent_id,
            kind: message.r#type,
            payload: wire::payload(&message.payload)?.unwrap_or_else(Payload::null),
            correlation_id: wire::text(message.correlation_id),
            reply_to: wire::text(message.reply_to),
            priority: message.priority.unwrap_or(5),
            status: MessageStatus::from_wire(record.status)?,
            deliveries: record.deliveries,
            created_at: wire::required_moment(message.created_at)?,
            expires_at: wire::moment(message.expires_at)?,
            delivered_at: wire::moment(record.delivered_at)?,
            acked_at: wire::moment(record.acked_at)?,
            history: record.history.into_iter().map(event).collect::<Result<_, Problem>>()?,
        })
    }
}

/// What a list can tell of each.
type MessageFields = Fields<Message>;

/// Which messages.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct MessageFilter {
    /// To this agent.
    #[param(inline, required = false, nullable = false)]
    agent_id: Option<AgentId>,
    /// With this status.
    #[param(inline, required = false, nullable = false)]
    status: Option<MessageStatus>,
    /// With this correlation id.
    #[param(inline, required = false, nullable = false)]
    correlation_id: Option<Key>,
    /// Tell no more of each than these, with commas between them.
    #[param(inline, style = Form, explode = false, required = false, nullable = false)]
    fields: Option<MessageFields>,
    /// At most this many.
    #[param(inline, required = false, nullable = false)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(inline, required = false, nullable = false)]
    cursor: Option<Cursor>,
}

/// Send a message to an agent.
#[utoipa::path(post, path = "/api/v1/agents/{id}/message", tag = "messages", request_body = NewMessage,
    params(("id" = inline(AgentId), Path, description = "the agent")),
    responses((status = 202, description = "recorded; it is delivered when the agent has room", body = SentMessage,
        headers(("Location" = String, description = "where to follow it")),
        links(("follow" = (operation_id = "get_message", parameters(("id" = "$response.body#/message_id"))))))))]
pub(crate) async fn send_message(
    State(app): State<Arc<App>>,
    context: Context,
    Path(agent): Path<AgentId>,
    Body { value, bytes }: Body<NewMessage>,
) -> Result<Reply, Problem> {
    send(&app, &context, Recipient::AgentId(agent.to_string()), value, &bytes).await
}

/// Send a message to an agent, or to one of a type or with a capability.
///
/// Of those that live, the less loaded of two that are taken at random gets it; the message says afterwards which one it was.
#[utoipa::path(post, path = "/api/v1/messages", tag = "messages", request_body = AddressedMessage,
    responses((status = 202, description = "recorded; it is delivered when the agent has room", body = SentMessage,
        headers(("Location" = String, description = "where to follow it")),
        links(("follow" = (operation_id = "get_message", parameters(("id" = "$response.body#/message_id"))))))))]
pub(crate) async fn address_message(
    State(app): State<Arc<App>>,
    context: Context,
    Body { value, bytes }: Body<AddressedMessage>,
) -> Result<Reply, Problem> {
    let (to, message) = value.split();
    send(&app, &context, to, message, &bytes).await
}

/// Sends a message, once for each idempotency key.
async fn send(app: &App, context: &Context, to: Recipient, value: NewMessage, bytes: &[u8]) -> Result<Reply, Problem> {
    let fresh = domain::MessageId::generate(&*app.clock);
    let create = |id: domain::MessageId| async move {
        let expires_at = value.expires_in.map(|lifetime| wire::timestamp(app.clock.now() + lifetime.0));
        let message = wire_api::Message {
            id: id.to_string(),
            namespace: context.namespace.clone(),
            recipient: Some(to),
            r#type: value.kind.map_or_else(|| "message".to_owned(), |kind| kind.0),
            payload: value.payload.0.as_bytes().to_vec().into(),
            correlation_id: value.correlation_id.map(|id| id.0).unwrap_or_default(),
            reply_to: value.reply_to.map(|id| id.to_string()).unwrap_or_default(),
            priority: value.priority.map(|priority| priority.0),
            expires_at,
            ..wire_api::Message::default()
        };
        let request = wire_api::SendMessageRequest { message: Some(message) };
        let answer = app.call(app.messages().send_message(context.request(request))).await;
        let answer = answer.map_err(in_message)?;
        let status = MessageStatus::from_wire(answer.status)?;
        let location = format!("/api/v1/messages/{}", answer.message_id);
        Ok(Reply::new(StatusCode::ACCEPTED, &SentMessage { message_id: answer.message_id, status })?.at(location))
    };
    app.idempotency.once(context, bytes, fresh, create).await
}

/// A refusal of a message: its fields are the body's own.
fn in_message(mut error: errors::Error) -> Problem {
    for violation in &mut error.violations {
        if let Some(field) = violation.field.strip_prefix("message.") {
            violation.field = field.to_owned();
        }
    }
    Problem::in_body(error)
}

/// List messages.
#[utoipa::path(get, path = "/api/v1/messages", tag = "messages", params(MessageFilter), responses(
    (status = 200, description = "newest first, without histories", body = Page<Message>),
))]
pub(crate) async fn list_messages(
    State(app): State<Arc<App>>,
    context: Context,
    Query(filter): Query<MessageFilter>,
) -> Result<Reply, Problem> {
    let request = wire_api::ListMessagesRequest {
        namespace: context.namespace.clone(),
        agent_id: filter.agent_id.map(|id| id.to_string()).unwrap_or_default(),
        status: filter.status.map_or(0, i32::from),
        correlation_id: filter.correlation_id.map(|id| id.0).unwrap_or_default(),
        page_size: filter.limit.map_or(0, |limit| limit.0),
        page_token: filter.cursor.map(|cursor| cursor.0).unwrap_or_default(),
    };
    let page = app.call(app.messages().list_messages(context.request(request))).await?;
    let messages: Result<Vec<_>, _> = page.records.into_iter().map(|record| Message::from_wire(Some(record))).collect();
    Reply::ok(&Page::new(messages?, page.next_page_token))?.with_fields(filter.fields.as_ref())
}

/// Follow a message.
#[utoipa::path(get, path = "/api/v1/messages/{id}", tag = "messages",
    params(("id" = inline(MessageId), Path, description = "the message")),
    responses((status = 200, description = "the message with its history", body = Message)))]
pub(crate) async fn get_message(
    State(app): State<Arc<App>>,
    context: Context,
    Path(id): Path<MessageId>,
) -> Result<Reply, Problem> {
    let request = wire_api::GetMessageRequest { namespace: context.namespace.clone(), message_id: id.to_string() };
    let answer = app.call(app.messages().get_message(context.request(request))).await?;
    Reply::ok(&Message::from_wire(answer.record)?)
}
