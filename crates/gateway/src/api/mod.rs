//! The routes: one file per resource, each handler decodes, calls the service behind, and encodes.
//!
//! [`router`] registers a route and its description in one step, so that neither can miss the other.

mod agents;
mod audit;
mod control;
mod dead_letters;
mod events;
mod executions;
mod health;
mod keys;
mod lasting;
mod liveness;
mod messages;
mod pages;
mod replays;
mod selection;
mod signals;
mod streams;
mod tokens;
mod topics;
mod wire;
mod workflow_runs;
mod workflows;
mod ws;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::{health::Check, pages::with_pages, streams::EVENT_STREAM, ws::PATH as WEBSOCKET};
use crate::{app::App, openapi};

/// Every described route, and the description.
pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(agents::list_agents, agents::create_agent))
        .routes(routes!(agents::get_agent, agents::update_agent, agents::delete_agent))
        .routes(routes!(selection::select_agents))
        .routes(routes!(messages::send_message))
        .routes(routes!(messages::list_messages, messages::address_message))
        .routes(routes!(messages::get_message))
        .routes(routes!(topics::publish))
        .routes(routes!(topics::watch_topics))
        .routes(routes!(workflows::list_workflows, workflows::create_workflow))
        .routes(routes!(workflows::get_workflow, workflows::update_workflow, workflows::archive_workflow))
        .routes(routes!(workflow_runs::execute_workflow))
        .routes(routes!(workflow_runs::workflow_status))
        .routes(routes!(workflow_runs::cancel_workflow))
        .routes(routes!(executions::list_executions))
        .routes(routes!(executions::get_execution))
        .routes(routes!(executions::explain_execution))
        .routes(routes!(executions::verify_execution))
        .routes(routes!(events::list_events))
        .routes(routes!(ws::open_socket))
        .routes(routes!(liveness::check_liveness))
        .routes(routes!(control::cancel_execution))
        .routes(routes!(control::pause_execution))
        .routes(routes!(control::resume_execution))
        .routes(routes!(control::retry_execution))
        .routes(routes!(signals::signal_execution))
        .routes(routes!(dead_letters::list_dead_letters))
        .routes(routes!(dead_letters::get_dead_letter, dead_letters::purge_dead_letter))
        .routes(routes!(replays::replay_dead_letter))
        .routes(routes!(replays::replay_dead_letters))
        .routes(routes!(replays::purge_dead_letters))
        .routes(routes!(keys::list_keys, keys::create_key))
        .routes(routes!(keys::get_key, keys::revoke_key))
        .routes(routes!(keys::rotate_key))
        .routes(routes!(tokens::issue_token))
        .routes(routes!(tokens::revoke_token))
        .routes(routes!(tokens::who_am_i))
        .routes(routes!(audit::list_audit))
        .routes(routes!(audit::export_audit))
        .routes(routes!(audit::verify_audit))
        .routes(routes!(health::health))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(pages::metrics))
        .routes(routes!(pages::openapi_document))
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// In the list's order.
    items: Vec<T>,
    /// Give it as `cursor` to get the next page; null on the last one.
    next_cursor: Option<String>,
}

impl<T> Page<T> {
    fn new(items: Vec<T>, next_page_token: String) -> Self {
        Self { items, next_cursor: Some(next_page_token).filter(|token| !token.is_empty()) }
    }
}

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
pub(crate) enum Sort {
    /// Oldest first.
    #[serde(rename = "created_at")]
    Oldest,
    /// Newest first.
    #[serde(rename = "-created_at")]
    Newest,
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Done {
    /// A sentence for people.
    message: String,
}

/// Nothing to say; an empty body or `{}`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}
