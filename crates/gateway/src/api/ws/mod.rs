//! `GET /api/v1/ws`: live updates of executions over a WebSocket, as many as a client asks for.
//!
//! A subscription is the same stream as `GET /api/v1/executions/{id}/events`, and takes the same room of `max_streams`. The
//! connection's own task speaks over the socket when it has answered the request ([`After`]), so that a socket counts as a
//! connection for as long as it is open, and a stop waits for it.
//!
//! It does not tell of topics and messages, and nothing can be changed through it: what changes something is a request, which
//! is limited, noted and answered.

mod message;
mod session;
mod subscription;

use std::sync::Arc;

use axum::{
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::{IntoResponse as _, Response},
};
use futures::FutureExt as _;
use http::{HeaderValue, StatusCode, header};
use tokio::sync::oneshot;

use self::session::{Session, Whose};
use crate::{
    api::lasting::Lasting, app::App, auth::Asking, connections::After, context::Context, middleware::Denials,
    problem::Problem, rate::Caller,
};

/// Where it is.
pub(crate) const PATH: &str = "/api/v1/ws";
/// What is spoken.
const PROTOCOL: &str = "troupe.v1";

/// Bytes of a frame, and of a message, that a client sends: far more than any that is understood.
const LARGEST: usize = 16 << 10;
/// Bytes that wait to be sent: the largest event, and what surrounds it.
const MOST_UNSENT: usize = 2 * contracts::MAX_MESSAGE_BYTES;

/// Follow executions over a WebSocket.
///
/// `{"type": "subscribe", "execution_id": …, "after": …}` is answered with every event of the execution after that one, and then with
/// each as it happens; see docs/websocket.md. A browser, which can add no headers, presents its key or token as a subprotocol:
/// `troupe.key.…` or `troupe.bearer.…`, besides `troupe.v1`.
#[utoipa::path(get, path = "/api/v1/ws", tag = "executions",
    responses((status = 101, description = "the connection is a WebSocket now")))]
pub(crate) async fn open_socket(
    State(app): State<Arc<App>>,
    Asking(principal): Asking,
    context: Context,
    lasting: Lasting,
    axum::Extension(caller): axum::Extension<Caller>,
    axum::Extension(denials): axum::Extension<Denials>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return refused(&rejection),
    };
    let Ok(room) = Arc::clone(&app.sockets).try_acquire_owned() else {
        return Problem::overloaded("too many WebSockets at once (setting max_connections)").into_response();
    };
    let (give, take) = oneshot::channel();
    let upgrade = upgrade.protocols([PROTOCOL]).max_frame_size(LARGEST).max_message_size(LARGEST);
    let upgrade = upgrade.read_buffer_size(LARGEST).max_write_buffer_size(MOST_UNSENT);
    let mut response = upgrade.on_upgrade(|socket| async move { drop(give.send(socket)) });
    let session = Session::new(app, Whose { principal, caller, context, lasting, denials });
    let after = async move {
        // It fails where the connection broke before it was one.
        if let Ok(socket) = take.await {
            session.run(socket).await;
        }
        drop(room);
    };
    response.extensions_mut().insert(After::new(after.boxed()));
    response
}

fn refused(rejection: &WebSocketUpgradeRejection) -> Response {
    let detail = format!("this path is a WebSocket: {rejection}");
    let problem = Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail);
    let wanted = [
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
    ];
    (wanted, problem).into_response()
}
