//! `coordinator`: splits work to other agents, gathers what they did, and says it in words.
//!
//! [`delegate`] talks to others; the rest is computed from the input alone.

mod delegate;
mod report;

use agent_sdk::AgentBuilder;

pub(super) fn build(agent: AgentBuilder) -> AgentBuilder {
    agent
        .action("delegate", |task| async move { delegate::delegate(&task).await })
        .action("gather", |task| async move { report::gather(&task) })
        .action("summarise", |task| async move { report::summarise(&task) })
        .action("report", |task| async move { report::report(&task) })
}
