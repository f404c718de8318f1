//! From a log back to a state (I4, I5).

use std::sync::Arc;

use domain::ExecutionId;
use workflow::{
    Breach, Event, Execution, Recorded,
    invariant::{chained, follows},
};

use super::{Compiled, Plans};
use crate::{error::OrchestratorError, store::Store};

/// Events that one read of a log gets.
const PAGE: usize = 1_000;

/// An execution rebuilt from its log.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) execution: Execution,
    /// Of the last event.
    pub(crate) hash: [u8; 32],
    /// The first event that is not what was written (I6).
    pub(crate) breach: Option<Breach>,
    pub(crate) compiled: Arc<Compiled>,
}

/// Replays a log; `None` where there is none.
pub(crate) async fn load(
    store: &dyn Store,
    plans: &Plans,
    id: ExecutionId,
) -> Result<Option<Loaded>, OrchestratorError> {
    let unreadable = |message: String| OrchestratorError::Unreadable(id, message);
    let mut loaded: Option<Loaded> = None;
    loop {
        let after = loaded.as_ref().map_or(0, |loaded| loaded.execution.last_sequence());
        let page = store.events(id, after, PAGE).await?;
        for row in page.rows {
            let event = Event::decode(&row.data).map_err(|error| unreadable(errors::chain(&error)))?;
            let hash = <[u8; 32]>::try_from(row.hash.as_slice()).map_err(|error| unreadable(error.to_string()))?;
            let mut next = match loaded.take() {
                Some(loaded) => loaded,
                None => begin(plans, id, &event).await?,
            };
            follows(next.execution.last_sequence(), row.sequence).map_err(|breach| unreadable(breach.what))?;
            if let Err(breach) = chained(&next.hash, row.sequence, row.at, &row.data, &row.hash) {
                next.breach.get_or_insert(breach);
            }
            next.execution.apply(&Recorded { sequence: row.sequence, at: row.at, event });
            next.hash = hash;
            loaded = Some(next);
        }
        if page.is_last {
            return Ok(loaded);
        }
    }
}

async fn begin(plans: &Plans, id: ExecutionId, first: &Event) -> Result<Loaded, OrchestratorError> {
    let Event::Accepted { namespace, workflow_id, workflow_version, .. } = first else {
        return Err(OrchestratorError::Unreadable(id, "the first event is not `accepted`".to_owned()));
    };
    let compiled = plans.compiled(namespace, *workflow_id, *workflow_version).await?;
    Ok(Loaded { execution: Execution::new(Arc::clone(&compiled.plan)), hash: [0; 32], breach: None, compiled })
}
