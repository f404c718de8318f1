//! What the registry answered last, for the time when it cannot be reached.
//!
//! Reads of agents are answered from here then, and say so: `X-Stale: true`, and `Age` in seconds. It is never asked while the
//! registry answers, so it makes nothing older than it has to be.

use std::{future::Future, sync::Arc, time::Duration};

use domain::{Clock, Timestamp};
use errors::{Code, Error};

use crate::{problem::Problem, reply::Reply};

/// Bytes of all answers that are remembered.
const MOST_BYTES: u64 = 32 << 20;
/// What an answer takes besides its text, about.
const OVERHEAD: usize = 256;
/// How long an answer is remembered.
const REMEMBERED: Duration = Duration::from_hours(1);

/// The last answers by what was asked.
pub(crate) struct Memory {
    clock: Arc<dyn Clock>,
    answers: moka::sync::Cache<String, (Timestamp, Arc<[u8]>)>,
}

impl Memory {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let weigh = |question: &String, answer: &(Timestamp, Arc<[u8]>)| {
            u32::try_from(question.len() + answer.1.len() + OVERHEAD).unwrap_or(u32::MAX)
        };
        let answers = moka::sync::Cache::builder().weigher(weigh).max_capacity(MOST_BYTES).time_to_live(REMEMBERED);
        Self { clock, answers: answers.build() }
    }

    /// What `call` answers, as `reply` writes it; what it answered last where nobody can be reached.
    pub(crate) async fn or_stale<T>(
        &self,
        question: String,
        call: impl Future<Output = Result<T, Error>>,
        reply: impl FnOnce(T) -> Result<Reply, Problem>,
    ) -> Result<Reply, Problem> {
        let error = match call.await {
            Ok(answer) => {
                let reply = reply(answer)?;
                self.answers.insert(question, (self.clock.now(), reply.body.as_slice().into()));
                return Ok(reply);
            }
            Err(error) => error,
        };
        if !matches!(error.code, Code::Unavailable | Code::Timeout) {
            self.answers.invalidate(&question);
            return Err(error.into());
        }
        let Some((at, body)) = self.answers.get(&question) else { return Err(error.into()) };
        tracing::debug!(error = errors::chain(&error), "the registry cannot be reached, going by memory");
        Ok(Reply::stale(body.to_vec(), self.clock.now().since(at)))
    }
}
