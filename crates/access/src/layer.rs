//! Around gRPC clients and servers: for whom a call is made, and whether they may.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use errors::{Code, Error};
use futures::future::Either;
use http::{Request, Response};
use tokio::task::futures::TaskLocalFuture;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::{
    Principal, Reach, current,
    current::{nobody, scoped},
    rule,
};

/// Our own RPCs; others (health, reflection) tell nothing of what namespaces hold.
const OURS: &str = "/troupe.";

/// May somebody call this RPC?
pub fn authorize(path: &str, principal: &Principal) -> Result<(), Error> {
    if !path.starts_with(OURS) {
        return Ok(());
    }
    let Some(rule) = rule(path) else {
        return Err(Error::new(Code::Forbidden, "forbidden", "nobody may call this RPC"));
    };
    if !principal.may(rule.permission) {
        let message = format!("this needs the permission {}", rule.permission);
        return Err(Error::new(Code::Forbidden, "forbidden", message));
    }
    if rule.beyond_namespaces && principal.reach != Reach::Everything {
        let message = "this concerns more than the namespace that this credential is bound to";
        return Err(Error::new(Code::Forbidden, "namespace_forbidden", message));
    }
    Ok(())
}

/// A call, made for somebody.
pub type Acting<F> = TaskLocalFuture<Arc<Principal>, F>;

/// Calls a service for somebody.
pub fn call_as<S: Service<R>, R>(service: &mut S, principal: &Arc<Principal>, request: R) -> Acting<S::Future> {
    scoped(principal, || service.call(request))
}

/// A layer around the clients of a service in the same process: what it calls, it calls as itself, for whomever it works.
#[derive(Clone, Debug)]
pub struct ActingAs(Arc<Principal>);

impl ActingAs {
    /// As the service of this name.
    pub fn service(name: &'static str) -> Self {
        Self(Arc::new(Principal::service(name)))
    }
}

/// A client under [`ActingAs`].
#[derive(Clone, Debug)]
pub struct Acts<S> {
    inner: S,
    principal: Arc<Principal>,
}

impl<S> Layer<S> for ActingAs {
    type Service = Acts<S>;

    fn layer(&self, inner: S) -> Acts<S> {
        Acts { inner, principal: Arc::clone(&self.0) }
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Acts<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Acting<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        call_as(&mut self.inner, &self.principal, request)
    }
}

/// A layer around a server that is called in the same process: whoever the caller works for must be allowed to.
///
/// There is nobody in between who could say that they are somebody else, so there is nothing to sign.
#[derive(Clone, Copy, Debug, Default)]
pub struct Authorize;

/// A server under [`Authorize`].
#[derive(Clone, Debug)]
pub struct Authorized<S>(S);

impl<S> Layer<S> for Authorize {
    type Service = Authorized<S>;

    fn layer(&self, inner: S) -> Authorized<S> {
        Authorized(inner)
    }
}

impl<S, B> Service<Request<B>> for Authorized<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let allowed = match current() {
            Some(principal) => authorize(path, &principal),
            None if path.starts_with(OURS) => Err(nobody()),
            None => Ok(()),
        };
        match allowed {
            Ok(()) => Either::Left(self.0.call(request)),
            Err(error) => Either::Right(ready(Ok(Status::from(error).into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use domain::Namespace;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{Kind, Role, acting_as};

    fn refusal(path: &str, role: Role, reach: Reach) -> Option<&'static str> {
        authorize(path, &Principal::of_role(Kind::Key, "key_1", role, reach)).err().map(|error| error.reason)
    }

    #[tokio::test]
    async fn a_call_of_which_it_was_forgotten_for_whom_it_is_made_is_refused() {
        let answer = tower::service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Body::empty())));
        let server = Authorize.layer(answer);
        let call = async |path: &str| {
            let answer = server.clone().oneshot(Request::builder().uri(path).body(()).unwrap()).await.unwrap();
            Status::from_header_map(answer.headers()).map(|status| status.code())
        };
        let list = "/troupe.registry.v1.RegistryService/ListAgents";
        assert_eq!(call(list).await, Some(tonic::Code::Unauthenticated));
        assert_eq!(acting_as(Arc::new(Principal::anonymous()), call(list)).await, None);
        assert_eq!(call("/grpc.health.v1.Health/Check").await, None, "it tells nothing of what namespaces hold");
    }

    #[test]
    fn nobody_calls_what_their_role_does_not_have_and_no_role_has_what_services_tell_each_other() {
        let start = "/troupe.orchestrator.v1.ExecutionService/StartExecution";
        assert_eq!(refusal(start, Role::Viewer, Reach::Everything), Some("forbidden"));
        assert_eq!(refusal(start, Role::Operator, Reach::Everything), None);
        for internal in ["ExecutionService/ReportChild", "ExecutionService/Unheard"] {
            let path = format!("/troupe.orchestrator.v1.{internal}");
            assert_eq!(refusal(&path, Role::Admin, Reach::Everything), Some("forbidden"), "{path}");
        }
        let liveness = "/troupe.orchestrator.v1.ExecutionService/CheckLiveness";
        let bound = Reach::Namespace(Namespace::default());
        assert_eq!(refusal(liveness, Role::Admin, bound), Some("namespace_forbidden"));
        assert_eq!(refusal(liveness, Role::Viewer, Reach::Everything), None);
        let report = "/troupe.orchestrator.v1.ExecutionService/ReportChild";
        authorize(report, &Principal::service("orchestrator")).unwrap();
    }
}
