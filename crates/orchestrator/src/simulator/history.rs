//! One history, from its seed to its end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use domain::{Clock, ExecutionId, Namespace};
use rand::Rng;
use tokio::time::Instant;
use workflow::Limits;

use super::{
    clients::Run,
    ground::{Ground, Sabotage, Trouble},
    workflows,
    world::World,
};
use crate::{app::Plans, error::OrchestratorError, store::WorkflowRow};

/// How long everything may take to end once trouble is over.
const LONGEST: Duration = Duration::from_mins(3);

/// How much came about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    histories: u64,
    commits: u64,
    fenced: u64,
    ended: u64,
    certain: u64,
    repeated: u64,
    lives: u64,
    takeovers: u64,
    children: u64,
    locks: u64,
    continued: u64,
    pruned: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.histories += other.histories;
        self.commits += other.commits;
        self.fenced += other.fenced;
        self.ended += other.ended;
        self.certain += other.certain;
        self.repeated += other.repeated;
        self.lives += other.lives;
        self.takeovers += other.takeovers;
        self.children += other.children;
        self.locks += other.locks;
        self.continued += other.continued;
        self.pruned += other.pruned;
    }

    pub(super) const fn has_seen_everything(&self) -> bool {
        self.fenced > 0
            && self.ended > 0
            && self.certain > 0
            && self.repeated > 0
            && self.lives > self.histories
            && self.takeovers > 0
            && self.children > 0
            && self.locks > 0
            && self.continued > 0
            && self.pruned > 0
    }
}

/// Lives through it. What is wrong is in the ground.
pub(super) async fn live(ground: &Arc<Ground>) -> Tally {
    let world = World::new(ground);
    let runs = prepare(&world).await;
    ground.set_trouble(trouble(ground));
    world.boot();
    for run in &runs {
        World::beside(Arc::clone(run).live(Arc::clone(&world)));
    }
    let steps = ground.dice().random_range(4..24);
    for _ in 0..steps {
        pass(&world, ground.while_of(50..1_500)).await;
        world.misfortune();
        if ground.breached().is_some() {
            return Tally::default();
        }
    }
    world.calm();
    let calm = Instant::now();
    while ground.breached().is_none() && !is_over(&world, &runs) {
        pass(&world, Duration::from_millis(500)).await;
        world.boot();
        if calm.elapsed() > LONGEST {
            ground.breach(|| format!("I8: {} after the last trouble", unfinished(&world, &runs)));
        }
    }
    // Who takes shards over at once does not wait for a lease: whoever had them does not know yet.
    if ground.chance(0.5) || world.is_alone {
        // Whoever was stopped finds out what it has lost.
        pass(&world, Duration::from_secs(8)).await;
    }
    if ground.breached().is_none() {
        finish(&world, &runs).await;
    }
    tally(&world, &runs)
}

/// Time passes.
async fn pass(world: &Arc<World>, time: Duration) {
    tokio::time::sleep(time).await;
    world.communication.advance();
    world.look();
}

/// Each history has its own troubles.
fn trouble(ground: &Ground) -> Trouble {
    let mut dice = ground.dice();
    let mut up_to = |most: f64| if dice.random_bool(0.4) { 0.0 } else { dice.random_range(0.0..most) };
    Trouble {
        slow: up_to(0.3),
        fails: up_to(0.1),
        unanswered: up_to(0.1),
        crash: up_to(0.05),
        late: up_to(0.5),
        cut: up_to(0.05),
        twice: up_to(0.3),
        lost_session: up_to(0.3),
        away: up_to(0.3),
        broker: up_to(0.3),
        theft: if ground.sabotage == Sabotage::TwoOwners { 0.1 } else { 0.0 },
    }
}

/// The workflows, and the executions of them that there will be.
async fn prepare(world: &Arc<World>) -> Vec<Arc<Run>> {
    let ground = &world.ground;
    let clock: Arc<dyn Clock> = ground.clock();
    let plans = Plans::new(world.store(), 10, Limits::default(), None, true, &clock);
    let mut known = Vec::new();
    let count = ground.dice().random_range(1..=2);
    let mut all: Vec<_> = (0..count).map(|number| workflows::generate(&mut ground.dice(), number)).collect();
    all.push(workflows::Generated { definition: workflows::child_definition(), is_certain: true });
    for (number, generated) in all.into_iter().enumerate() {
        ground.tell("workflow", || format!("{number}: {}", generated.definition));
        let id = World::workflow_id(number);
        let row = WorkflowRow {
            id,
            namespace: Namespace::default(),
            is_archived: false,
            newest: 1,
            created_at: clock.now(),
            updated_at: clock.now(),
            version: 1,
            name: generated.definition["name"].as_str().unwrap().to_owned(),
            description: String::new(),
            definition: generated.definition.to_string(),
            step_count: 1,
        };
        let compiled = match plans.parse(row.definition.as_bytes()) {
            Ok(_) => {
                world.database.add_workflow(row);
                plans.compiled(&Namespace::default(), id, 1).await.unwrap()
            }
            Err(error) => panic!("the generator made a faulty workflow: {error:?}\n{}", generated.definition),
        };
        world.database.add_compiled(&compiled);
        known.push((generated.is_certain, compiled));
    }
    let (_, child) = known.pop().unwrap();
    let count = ground.dice().random_range(2..=6);
    let run = |number: usize| {
        let (workflow, items) = { (ground.one_of(known.len()), ground.one_of(4)) };
        let (is_certain, compiled) = &known[workflow];
        let (id, input) = (ExecutionId::from_parts(1, 1 + number as u128), workflows::input(items));
        let plan = Arc::clone(&compiled.plan);
        let expected = is_certain.then(|| workflows::ideal(&plan, &child.plan, id, input.clone(), ground.seed));
        let (is_accepted, is_done) = Default::default();
        Arc::new(Run { id, workflow, plan, input, expected, is_accepted, is_done })
    };
    (0..count).map(run).collect()
}

fn is_over(world: &World, runs: &[Arc<Run>]) -> bool {
    let tables = world.database.tables();
    let has_ended = |run: &Arc<Run>| {
        run.is_done.load(Ordering::SeqCst)
            && tables.execution(run.id).is_some_and(|execution| execution.status().is_terminal())
    };
    runs.iter().all(has_ended)
        && tables.have_ended()
        && tables.locks.is_empty()
        && world.communication.left_over().is_empty()
}

fn unfinished(world: &World, runs: &[Arc<Run>]) -> String {
    let tables = world.database.tables();
    let state = |run: &Arc<Run>| {
        let status = tables.execution(run.id).map(workflow::Execution::status);
        format!("{} is {status:?}, its client done: {}", run.id, run.is_done.load(Ordering::SeqCst))
    };
    let runs: Vec<_> = runs.iter().map(state).collect();
    let children: Vec<_> = tables.summaries.values().map(|found| (found.id, found.status)).collect();
    let locks = &tables.locks;
    format!(
        "{}; of all {children:?}; locks: {locks:?}; communication has {:?}",
        runs.join(", "),
        world.communication.left_over()
    )
}

/// When all have ended: is it as it should be, and does everybody say the same?
async fn finish(world: &Arc<World>, runs: &[Arc<Run>]) {
    let ground = &world.ground;
    for run in runs {
        let (status, output) = {
            let tables = world.database.tables();
            let execution = tables.execution(run.id);
            (execution.map(workflow::Execution::status), execution.and_then(|execution| execution.output().cloned()))
        };
        if let Some((expected, expected_output)) = &run.expected
            && (status != Some(*expected) || output != *expected_output)
        {
            ground.breach(|| {
                format!("I8: {} ended {status:?} with {output:?}, not {expected:?} with {expected_output:?}", run.id)
            });
        }
    }
    for app in world.apps() {
        match app.liveness().await {
            Ok(liveness) if liveness.stuck.is_empty() => {}
            // It has just found out that another has its shards.
            Err(OrchestratorError::Stopping) => continue,
            found => ground.breach(|| format!("I7: {found:?}")),
        }
        let all: Vec<_> = world.database.tables().summaries.keys().copied().collect();
        for id in all {
            match app.verify(&Namespace::default(), id).await {
                Ok(found) if found.faults.is_empty() => {}
                Err(OrchestratorError::Stopping) => {}
                found => ground.breach(|| format!("I5, I6: {id}: {found:?}")),
            }
        }
    }
    world.look();
}

fn tally(world: &World, runs: &[Arc<Run>]) -> Tally {
    let tables = world.database.tables();
    Tally {
        histories: 1,
        commits: tables.commits,
        fenced: tables.fenced,
        ended: runs.len() as u64,
        certain: runs.iter().filter(|run| run.expected.is_some()).count() as u64,
        repeated: world.communication.repeated(),
        lives: world.lived(),
        takeovers: tables.takeovers,
        children: tables.children,
        locks: tables.taken,
        continued: tables.continued,
        pruned: tables.pruned,
    }
}
