//! `kinds20`: the load of `chain3` over 20 kinds of agent, compared with the same over one kind. The agents live in this
//! process, each with a session of its own; each takes one task at a time, so that with enough load all of them work at once.

use std::time::{Duration, Instant};

use agent_sdk::{Agent, Context, Output};
use anyhow::bail;
use contracts::Link;
use lifecycle::{OnExit, Shutdown, Tasks};

use super::{
    NAMESPACE,
    load::Plan,
    meter::Meter,
    report::Report,
    services::Services,
    workflows::{Case, Load},
};

/// Kinds of agent.
const KINDS: u32 = 20;
/// Sessions that share a connection.
const TOGETHER: u32 = 50;
/// How long all agents may take to open their sessions.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long they may take to leave.
const GRACE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// The load over one kind and over [`KINDS`], with so many agents in all each time.
pub(super) async fn measure(
    plan: Plan,
    services: &Services,
    agents: u32,
    meter: Option<&Meter>,
) -> anyhow::Result<Vec<Report>> {
    let one = among("kinds1", 1, plan, services, agents, meter).await?;
    let mut many = among("kinds20", KINDS, plan, services, agents, meter).await?;
    many.against_one_kind = (one.throughput > 0.0).then(|| many.throughput / one.throughput);
    Ok(vec![one, many])
}

async fn among(
    name: &'static str,
    kinds: u32,
    plan: Plan,
    services: &Services,
    agents: u32,
    meter: Option<&Meter>,
) -> anyhow::Result<Report> {
    // At least one of each.
    let crowd = Crowd::gather(services, kinds, agents.max(kinds)).await?;
    let cases = (0..kinds).map(|number| Case::chain3(&format!("bench-{}", kind(kinds, number)), &kind(kinds, number)));
    let load = Load::of(cases.collect(), &services.orchestrator).await?;
    let report = load.measure(name, plan, meter).await;
    let still_there = crowd.are_there();
    crowd.leave().await;
    let report = report?;
    if !still_there {
        bail!("some of the agents lost their sessions meanwhile");
    }
    Ok(report)
}

/// Agents of a population are of no other's kind, so that those of the other are not waited for when they have left.
fn kind(kinds: u32, number: u32) -> String {
    format!("bench-kind-{}-of-{kinds}", number + 1)
}

/// Agents with open sessions.
struct Crowd {
    tasks: Tasks,
    agents: Vec<Context>,
}

impl Crowd {
    /// So many agents of so many kinds in turn, all of them connected.
    async fn gather(services: &Services, kinds: u32, count: u32) -> anyhow::Result<Self> {
        let mut crowd = Self { tasks: Tasks::new(Shutdown::new()), agents: Vec::new() };
        for first in (0..count).step_by(TOGETHER as usize) {
            let link = services.sessions().await?;
            for number in first..count.min(first + TOGETHER) {
                crowd.join(&kind(kinds, number % kinds), number, link.clone());
            }
        }
        let begun = Instant::now();
        while !crowd.are_there() {
            if begun.elapsed() > PATIENCE || crowd.tasks.shutdown().is_draining() {
                let there = crowd.agents.iter().filter(|agent| agent.is_connected()).count();
                crowd.leave().await;
                bail!("only {there} of {count} agents have a session; what does the server's log say?");
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(crowd)
    }

    fn join(&mut self, kind: &str, number: u32, link: Link) {
        let connection = Agent::builder(kind)
            .namespace(NAMESPACE)
            .name(format!("{kind}-{number}"))
            .max_in_flight(1)
            .any_action(|task| async move { Ok(Output::from_json(task.input_bytes().clone())) })
            .link(link);
        self.agents.push(connection.context().clone());
        let shutdown = self.tasks.shutdown().clone();
        self.tasks.spawn("bench.agent", OnExit::StopService, connection.run_until(shutdown));
    }

    fn are_there(&self) -> bool {
        self.agents.iter().all(Context::is_connected)
    }

    async fn leave(self) {
        self.tasks.shutdown().drain();
        // An agent that was refused has been told of: it was never there.
        let _ = self.tasks.join(GRACE).await;
    }
}
