//! Nobody crosses namespaces, whichever replica they ask: the one that holds an execution, or another, which would pass the call on
//! in its own name.

use std::sync::Arc;

use access::{Kind, Principal, Reach, Role, acting_as};
use contracts::{
    Link,
    orchestrator::v1::{
        CancelExecutionRequest, ExplainExecutionRequest, GetExecutionRequest, ListEventsRequest, PauseExecutionRequest,
        ReportChildRequest, ResumeExecutionRequest, RetryExecutionRequest, ReviewLocksRequest, SignalExecutionRequest,
        StartExecutionRequest, VerifyExecutionRequest, WatchEventsRequest,
        execution_service_client::ExecutionServiceClient,
    },
};
use settings::Database;

use crate::world::{World, new_id, reason};

testkit::conformance! {
    nobody_of_another_namespace_is_let_in_at_any_replica
}

/// What each RPC about one execution of `red` says.
macro_rules! refusals {
    ($client:expr, $id:expr, $($method:ident: $request:ident),+ $(,)?) => {
        [$((stringify!($method), reason($client.$method($request {
            namespace: "red".to_owned(),
            execution_id: $id.to_owned(),
            ..$request::default()
        }).await.map(|_| ())))),+]
    };
}

#[expect(clippy::needless_update, reason = "some of the requests have nothing else")]
async fn refused(client: &mut ExecutionServiceClient<Link>, id: &str) {
    let refusals = refusals!(
        client, id,
        start_execution: StartExecutionRequest,
        get_execution: GetExecutionRequest,
        cancel_execution: CancelExecutionRequest,
        pause_execution: PauseExecutionRequest,
        resume_execution: ResumeExecutionRequest,
        retry_execution: RetryExecutionRequest,
        signal_execution: SignalExecutionRequest,
        list_events: ListEventsRequest,
        watch_events: WatchEventsRequest,
        explain_execution: ExplainExecutionRequest,
        verify_execution: VerifyExecutionRequest,
        report_child: ReportChildRequest,
    );
    let others: Vec<_> = refusals.into_iter().filter(|(_, refusal)| *refusal != "namespace_forbidden").collect();
    assert!(others.is_empty(), "of {id}: {others:?}");
    let locks = client.review_locks(ReviewLocksRequest { execution_id: id.to_owned() }).await;
    assert_eq!(reason(locks), "namespace_forbidden", "review_locks of {id}");
}

async fn nobody_of_another_namespace_is_let_in_at_any_replica(place: Database) {
    let world = World::on(&place).await;
    let blue = Reach::Namespace("blue".parse().unwrap());
    let stranger = Arc::new(Principal::of_role(Kind::Key, "key_1", Role::Admin, blue));
    // Of twenty shards each replica has some, but for one time in half a million.
    for id in std::iter::repeat_with(new_id).take(20) {
        for replica in world.mates.iter().map(|mate| &mate.replica).chain([world.replica()]) {
            acting_as(Arc::clone(&stranger), refused(&mut ExecutionServiceClient::new(replica.link()), &id)).await;
        }
    }
}
