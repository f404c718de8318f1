//! What happens to every request, whatever its route.
//!
//! The order, outermost first, and why:
//! 1. [`observe`]: gives the request its ids and writes what every answer has, problem documents included, so that
//!    nothing inside can answer without them; counts and logs.
//! 2. [`encoding`]: makes answers smaller, whoever gives them.
//! 3. [`cors`]: answers browsers that ask for a page of an allowed origin, which they do without a credential.
//! 4. [`subprotocol`]: finds the credential of a browser that opens a WebSocket.
//! 5. [`audit`]: notes what was denied, by whichever of the following.
//! 6. [`usage`]: counts what each key asks for.
//! 7. [`guard`]: refuses what a web page of somebody else sends, before anything is done for it.
//! 8. [`admission`]: refuses who does not say who they are, who may not, and who asks too often, before they take up room.
//! 9. [`audit`] again: notes what those who were let in want done, before it is done, and how it has ended.
//! 10. [`limits`]: refuses what there is no room for, then bounds how long the rest takes.
//! 11. panics: innermost, so that one request's panic ends as its problem, with the limits above released in good order.

mod admission;
mod audit;
mod cors;
mod encoding;
mod guard;
mod headers;
mod limits;
mod observe;
mod subprotocol;
mod usage;

use std::{any::Any, sync::Arc};

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use tower_http::catch_panic::CatchPanicLayer;

pub(crate) use self::{
    audit::{Concerns, Denials},
    observe::request_id,
    usage::Labels,
};
use crate::{app::App, problem::Problem};

/// The stack around all routes, the fallback included. The last layer added is the outermost.
pub(crate) fn apply(router: Router<Arc<App>>, app: &Arc<App>) -> Router<Arc<App>> {
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(app), limits::limit))
        .layer(from_fn_with_state(Arc::clone(app), audit::record))
        .layer(from_fn_with_state(Arc::clone(app), admission::admit))
        .layer(from_fn_with_state(Arc::clone(app), guard::guard))
        .layer(from_fn_with_state(Arc::clone(app), usage::count))
        .layer(from_fn_with_state(Arc::clone(app), audit::audit))
        .layer(from_fn(subprotocol::present))
        .layer(from_fn_with_state(Arc::clone(app), cors::cors))
        .layer(encoding::layer())
        .layer(from_fn(encoding::mark))
        .layer(from_fn_with_state(Arc::clone(app), observe::observe))
}

#[expect(clippy::needless_pass_by_value, reason = "the layer hands the panic over")]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned());
    Problem::internal(format!("a handler panicked: {text}")).into_response()
}
