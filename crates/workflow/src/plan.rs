//! A definition, checked and compiled: ids are indexes, durations are numbers, expressions are parsed.
//!
//! A plan is immutable and shared by all executions of its version. Nothing here can be wrong any more: what could be is a
//! fault in [`crate::definition`].

use std::{collections::HashMap, ops::Range, time::Duration};

use crate::{
    StepIndex, Target,
    expression::{Condition, Template},
};

/// The place of a scope in its plan; 0 is the definition itself.
pub type ScopeIndex = u32;

/// A checked and compiled definition.
#[derive(Debug)]
pub struct Plan {
    /// The workflow's name.
    pub name: String,
    /// All steps: those of the definition in their order, then those of its blocks.
    pub steps: Vec<Step>,
    /// The definition itself, then its blocks.
    pub scopes: Vec<Scope>,
    /// JSON Schema that the input must fit.
    pub input_schema: Option<serde_json::Value>,
    /// How long an execution may take; absent: for ever.
    pub timeout: Option<Duration>,
    /// How many tasks of one execution are out at once.
    pub max_parallel: u32,
    /// 0 to 9, 9 the most urgent; the default of its steps.
    pub priority: u8,
    /// How many executions with the same key run at once.
    pub concurrency: Option<Concurrency>,
    /// Entries that the log of one run may have.
    pub max_history: u64,
    pub(crate) by_id: HashMap<String, StepIndex>,
}

impl Plan {
    /// From so many entries of a run on somebody should hear that it is about to be too long.
    pub fn long_history(&self) -> u64 {
        self.max_history / 5 * 4
    }

    /// May its executions be continued?
    pub fn continues(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.kind, StepKind::End(End::Continued(_))))
    }
}

/// A list of steps that depend on each other: the definition, or a block.
#[derive(Debug)]
pub struct Scope {
    /// Its steps in [`Plan::steps`].
    pub steps: Range<StepIndex>,
    /// What its output is made of; absent: an object with the outputs of the steps nothing depends on, by id.
    pub output: Option<Template>,
}

/// How many executions with the same key run at once.
#[derive(Debug)]
pub struct Concurrency {
    /// Evaluates to the key.
    pub key: Template,
    /// How many.
    pub limit: u32,
}

/// A compiled step.
#[derive(Debug)]
pub struct Step {
    /// As in the definition.
    pub id: String,
    /// In which of [`Plan::scopes`] it is.
    pub scope: ScopeIndex,
    /// What it does.
    pub kind: StepKind,
    /// Steps of its scope that must end first.
    pub depends_on: Vec<StepIndex>,
    /// Steps of its scope that wait for this one.
    pub dependents: Vec<StepIndex>,
    /// What the ends of its dependencies mean for it.
    pub join: Join,
    /// Steps to withdraw once its join has settled: those that only it waits for.
    pub cancel_rest: Vec<StepIndex>,
    /// Where it evaluates to false the step is skipped.
    pub when: Option<Condition>,
    /// One instance per item.
    pub for_each: Option<ForEach>,
    /// Its work again and again.
    pub repeat: Option<Repeat>,
    /// What no other step may hold while it is at work.
    pub mutex: Option<Mutex>,
    /// Nobody waits for it: of a `for_each` for its instances, of a child execution for its end.
    pub detach: bool,
    /// When attempts fail.
    pub retry: Retry,
    /// Per attempt; of a task from hand-over to result.
    pub timeout: Option<Duration>,
    /// Between two signs of life of the agent.
    pub heartbeat_timeout: Option<Duration>,
    /// How its work is undone.
    pub compensate: Option<Compensation>,
    /// When it fails for good.
    pub on_failure: OnFailure,
    /// What a skip of this step means to its dependents.
    pub on_skip: OnSkip,
    /// 0 to 9, 9 the most urgent.
    pub priority: u8,
}

/// What a step does.
#[derive(Debug)]
pub enum StepKind {
    /// An agent does something; its result is the output.
    Task {
        /// Who.
        target: Target,
        /// What.
        action: String,
        /// With what.
        input: Template,
    },
    /// Agents vote; the decision's record is the output.
    Decision(Decision),
    /// It waits for a signal; the signal's payload is the output.
    Signal {
        /// Which.
        name: Template,
        /// How long.
        timeout: Option<Duration>,
        /// What then.
        on_timeout: OnTimeout,
        /// Only a signal counts that comes while it waits; others keep theirs until a step takes them.
        transient: bool,
    },
    /// It waits for time; the output is `null`.
    Sleep(Duration),
    /// It waits for a point in time, as RFC 3339 writes it; the output is `null`.
    SleepUntil(Template),
    /// Its own steps; the scope's output is the output.
    Block(ScopeIndex),
    /// A child execution; its output is the output.
    Workflow(Child),
    /// It tells the outside; what came of it is the output.
    Emit(Emission),
    /// It withdraws steps of its scope, or of one around it; the output is `null`.
    Cancel(Vec<StepIndex>),
    /// It ends the execution.
    End(End),
}

/// A child execution.
#[derive(Debug)]
pub struct Child {
    /// The name of its workflow, in the same namespace.
    pub name: String,
    /// Which version; absent: the newest when it starts.
    pub version: Option<u32>,
    /// With what.
    pub input: Template,
}

/// What is told to the outside.
#[derive(Debug)]
pub struct Emission {
    /// To whom.
    pub to: Recipient,
    /// What.
    pub payload: Template,
}

/// To whom something is told.
#[derive(Debug)]
pub enum Recipient {
    /// Whoever subscribes to the topic; nobody, where nobody does.
    Topic(Template),
    /// An agent's mailbox.
    Agent(Template),
    /// An execution that waits for this signal, or will.
    Signal {
        /// Which execution.
        execution: Template,
        /// Which signal.
        name: Template,
    },
}

/// How a step ends the execution.
#[derive(Debug)]
pub enum End {
    /// Well, with this output.
    Completed(Template),
    /// By a failure with this code and message.
    Failed {
        /// Stable and machine-readable.
        code: String,
        /// For people.
        message: Template,
    },
    /// As if cancelled for this reason.
    Cancelled(Template),
    /// Not at all: it begins again as new, with this input.
    Continued(Template),
}

/// A vote.
#[derive(Debug)]
pub struct Decision {
    /// What is asked.
    pub question: Template,
    /// What can be chosen: a list of texts.
    pub options: Template,
    /// What the voters get to know besides.
    pub context: Template,
    /// Who may vote: any live agents of a type or with a capability, or these.
    pub voters: Voters,
    /// How the outcome is found.
    pub strategy: Strategy,
    /// With fewer ballots there is no decision.
    pub quorum: u32,
    /// How long to wait for ballots; then those that are in decide.
    pub deadline: Option<Duration>,
}

/// Who may vote.
#[derive(Debug)]
pub enum Voters {
    /// So many distinct live agents, chosen by the registry.
    Any {
        /// Of this type or with this capability.
        target: Target,
        /// How many.
        count: u32,
    },
    /// Exactly these agents.
    These(Vec<domain::AgentId>),
}

/// How a decision's outcome is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// More than half of the ballots.
    Majority,
    /// More ballots than any other option.
    Plurality,
    /// All ballots.
    Unanimous,
    /// More than half of the weight of the ballots.
    Weighted,
    /// Borda count over ranked ballots.
    Ranked,
}

/// When a step with several dependencies starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// When all have completed; one that was skipped spreads unless its `on_skip` says otherwise.
    All,
    /// When the first has completed; skipped only where all were.
    Any,
    /// When so many have completed; skipped where so many cannot any more.
    Count(u32),
}

/// One instance per item.
#[derive(Debug)]
pub struct ForEach {
    /// Evaluates to the list.
    pub items: Template,
    /// How many instances run at once.
    pub max_parallel: u32,
    /// After each instance: is that enough? The others are cut off, or left to themselves where the step is detached.
    pub complete_when: Option<Condition>,
}

/// Work that is done again and again, each iteration with an `iteration` from 0 and the `last` output in scope.
#[derive(Debug)]
pub struct Repeat {
    /// Whether it goes on.
    pub test: Test,
    /// With one iteration more it fails.
    pub max_iterations: u32,
}

/// Whether a loop goes on.
#[derive(Debug)]
pub enum Test {
    /// Asked before each iteration, the first too: while it is true.
    While(Condition),
    /// Asked after each iteration: until it is true.
    Until(Condition),
}

/// What no two units hold at once.
#[derive(Debug)]
pub struct Mutex {
    /// Which.
    pub name: Template,
    /// Among all executions of the namespace, or within this one.
    pub global: bool,
}

/// When attempts fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// All attempts, the first included.
    pub max_attempts: u32,
    /// Before the second attempt.
    pub initial_interval: Duration,
    /// What each further interval is multiplied by.
    pub backoff: f64,
    /// The longest interval.
    pub max_interval: Duration,
    /// Spread each interval between half and the whole of itself, by a hash of the task (SEED's `jitter`): the same in every replay.
    pub jitter: bool,
}

/// How a step's work is undone.
#[derive(Debug)]
pub struct Compensation {
    /// Who.
    pub target: Target,
    /// What.
    pub action: String,
    /// With what; by default `{"input": …, "output": …}` of the work.
    pub input: Option<Template>,
}

/// What a step that failed for good does to the execution.
#[derive(Debug)]
pub enum OnFailure {
    /// It fails.
    Fail,
    /// It goes on; dependents see this output (`null` for plain `continue`).
    Continue(Template),
}

/// What a skipped step means to its dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSkip {
    /// They are skipped, as their `join` says.
    Spread,
    /// The same as completed, with the output `null`.
    CountAsDone,
}

/// What happens when a signal does not come in time.
#[derive(Debug)]
pub enum OnTimeout {
    /// The step fails with `signal_timeout`.
    Fail,
    /// It completes with `{"approved": false, "timed_out": true}`.
    Reject,
    /// It completes with this output.
    Continue(Template),
}

impl Voters {
    /// How many vote, where all that are wanted are there.
    pub fn count(&self) -> u32 {
        match self {
            Self::Any { count, .. } => *count,
            Self::These(agents) => agents.len() as u32,
        }
    }
}

impl Strategy {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Majority, Self::Plurality, Self::Unanimous, Self::Weighted, Self::Ranked];

    /// As definitions write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Majority => "majority",
            Self::Plurality => "plurality",
            Self::Unanimous => "unanimous",
            Self::Weighted => "weighted",
            Self::Ranked => "ranked",
        }
    }
}

impl Plan {
    /// The step with this id.
    pub fn step(&self, id: &str) -> Option<StepIndex> {
        self.by_id.get(id).copied()
    }

    /// Whether a signal of this name is kept until a step takes it; absent where no step can ever wait for it.
    pub(crate) fn keeps_signal(&self, name: &str) -> Option<bool> {
        let waits = self.steps.iter().filter_map(|step| match &step.kind {
            StepKind::Signal { name: waited, transient, .. } => waited.may_be(name).then_some(!transient),
            _ => None,
        });
        waits.reduce(|keeps, also| keeps || also)
    }
}
