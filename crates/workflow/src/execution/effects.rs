//! What the outside world owes to the state.

use serde::Deserialize;

use super::{
    Execution,
    apply::Cut,
    mutex::global_mutex,
    state::{Phase, Run},
};
use crate::{
    Effect, Errand, ErrandKind, Event, Holder, Lock, Parent, Purpose, Target, TaskKey, TaskOrder, Telling, Unit,
    decision::VOTE,
    plan::{StepKind, Voters},
};

impl Execution {
    /// What must be done after a transition is committed: what its events ask for, and to withdraw what they cut off. What was
    /// asked for and given up within the transition is nobody's business.
    pub(super) fn effects(&self, events: &[Event], cut: Cut) -> Vec<Effect> {
        let mut effects = Vec::new();
        let (mut sent, mut asked) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::StepScheduled { task, .. } => {
                    sent.push(*task);
                    effects.extend(self.task_effect(*task));
                }
                Event::DecisionOpened { unit, .. } => effects.extend(self.voters_wanted(*unit)),
                Event::TurnAwaited { .. } => {
                    asked.push(Holder::Execution);
                    effects.extend(self.turn_wanted());
                }
                Event::MutexAwaited { unit, .. } => {
                    asked.push(Holder::Unit(*unit));
                    effects.extend(self.mutex_wanted(*unit));
                }
                Event::Completed { .. } | Event::Failed { .. } | Event::Cancelled { .. } => effects.push(Effect::Ended),
                _ => {}
            }
        }
        let Cut { tasks, children, locks } = cut;
        let tasks = tasks.into_iter().filter(|(task, _)| !sent.contains(task));
        effects.extend(tasks.map(|(task, reason)| Effect::Withdraw { task, reason }));
        effects.extend(children.into_iter().map(|(child, reason)| Effect::CancelChild { child, reason }));
        let locks = locks.into_iter().filter(|(holder, _)| !asked.contains(holder));
        effects.extend(locks.map(|(holder, lock)| Effect::Release { holder, lock }));
        effects
    }

    /// Everything that is owed now: what a shell does after it has rebuilt the state from the log.
    pub fn outstanding(&self) -> Vec<Effect> {
        let tasks = self.state.out.iter().chain(self.state.errands.keys());
        let mut effects: Vec<_> = tasks.filter_map(|task| self.task_effect(*task)).collect();
        effects.extend(self.searches());
        effects.extend(self.locks_wanted());
        effects
    }

    /// The [`Effect::FindVoters`] among what is owed now.
    pub fn searches(&self) -> impl Iterator<Item = Effect> {
        self.state.waiting.iter().filter_map(|unit| self.voters_wanted(*unit))
    }

    /// The [`Effect::Acquire`] among what is owed now.
    pub fn locks_wanted(&self) -> impl Iterator<Item = Effect> {
        let turn = self.turn_wanted().into_iter();
        turn.chain(self.state.waiting.iter().filter_map(|unit| self.mutex_wanted(*unit)))
    }

    /// The tasks of the [`Effect::Run`] among what is owed now.
    pub fn errands(&self) -> impl Iterator<Item = TaskKey> {
        self.state.errands.keys().copied()
    }

    /// The lock that is shared with other executions and that the holder has, or waits for.
    pub fn lock_of(&self, holder: Holder) -> Option<Lock> {
        match holder {
            Holder::Execution => {
                let turn = self.state.turn.as_ref().filter(|_| self.state.end.is_none())?;
                Some(turn.lock.clone())
            }
            Holder::Unit(unit) => {
                let run = self.state.run(unit).filter(|run| run.phase == Phase::Locking);
                let waits = run.and_then(|run| run.mutex.as_ref()).filter(|held| held.is_outside());
                let name = waits.map(|held| &held.key.name).or_else(|| self.state.kept_for(unit))?;
                Some(global_mutex(name))
            }
        }
    }

    fn turn_wanted(&self) -> Option<Effect> {
        let turn = self.state.turn.as_ref().filter(|_| self.state.is_queued())?;
        Some(Effect::Acquire { holder: Holder::Execution, lock: turn.lock.clone() })
    }

    fn mutex_wanted(&self, unit: Unit) -> Option<Effect> {
        let run = self.state.run(unit).filter(|run| run.phase == Phase::Locking)?;
        let held = run.mutex.as_ref().filter(|held| held.is_outside())?;
        Some(Effect::Acquire { holder: Holder::Unit(unit), lock: global_mutex(&held.key.name) })
    }

    fn task_effect(&self, task: TaskKey) -> Option<Effect> {
        self.task_order(task).map(Effect::Dispatch).or_else(|| self.errand(task).map(Effect::Run))
    }

    /// The task as it is to be dispatched, where it is out with an agent.
    pub fn task_order(&self, task: TaskKey) -> Option<TaskOrder> {
        if !self.state.out.contains(&task) {
            return None;
        }
        let unit = task.unit;
        let step = self.plan.steps.get(unit.step as usize)?;
        let (target, action, input) = match (task.purpose, &step.kind) {
            (Purpose::Undo, _) => {
                let undo = self.state.run(unit)?.undo.as_ref()?;
                let compensation = step.compensate.as_ref()?;
                (compensation.target.clone(), compensation.action.clone(), undo.input.clone()?)
            }
            (Purpose::Work, StepKind::Decision(_)) => {
                let frame = self.state.frames.get(unit.frame)?;
                let voter = frame.step(unit.step)?.many.as_ref()?.voters.get(unit.index? as usize)?;
                let input = self.state.run(frame.parent?)?.input.clone()?;
                (Target::AgentId(voter.agent_id), VOTE.to_owned(), input)
            }
            (Purpose::Work, StepKind::Task { target, action, .. }) => {
                (target.clone(), action.clone(), self.state.run(unit)?.input.clone()?)
            }
            (Purpose::Work, _) => return None,
        };
        let (priority, timeout, heartbeat_timeout) = (step.priority, step.timeout, step.heartbeat_timeout);
        // Of a group it is the time for all of it, not for its undo.
        let timeout = timeout.filter(|_| matches!(step.kind, StepKind::Task { .. } | StepKind::Decision(_)));
        Some(TaskOrder { task, target, action, input, priority, timeout, heartbeat_timeout })
    }

    /// What the shell itself is to do, where the task is one of its own.
    pub fn errand(&self, task: TaskKey) -> Option<Errand> {
        #[derive(Deserialize)]
        struct Told {
            to: Telling,
            payload: domain::Payload,
        }
        let at = *self.state.errands.get(&task)?;
        let step = self.plan.steps.get(task.unit.step as usize)?;
        let input = self.state.run(task.unit)?.input.clone()?;
        let head = self.state.head.as_ref()?;
        let what = match &step.kind {
            StepKind::Workflow(child) => ErrandKind::Start {
                child: self.state.child(task)?,
                name: child.name.clone(),
                version: child.version,
                input,
                parent: Parent {
                    execution_id: head.id,
                    task_id: self.plan.task_id(head.id, task),
                    detached: step.detach,
                    depth: head.parent.as_ref().map_or(0, |parent| parent.depth) + 1,
                },
            },
            StepKind::Emit(_) => {
                let Told { to, payload } = input.parse().ok()?;
                ErrandKind::Tell { to, payload, at }
            }
            _ => return None,
        };
        Some(Errand { task, what })
    }

    /// What a decision that wants voters wants; none where it has them, or has ended, and for any other step.
    pub fn voters_wanted(&self, unit: Unit) -> Option<Effect> {
        let StepKind::Decision(decision) = &self.plan.steps.get(unit.step as usize)?.kind else { return None };
        let Voters::Any { target, count } = &decision.voters else { return None };
        let (voters, count, quorum) = (target.clone(), *count, decision.quorum);
        self.state.wants_voters(unit).then_some(Effect::FindVoters { unit, voters, count, quorum })
    }

    /// The child execution of a unit, where it has one at work.
    pub(super) fn child_of(&self, unit: Unit, run: &Run) -> Option<domain::ExecutionId> {
        let is_child = matches!(self.plan.steps[unit.step as usize].kind, StepKind::Workflow(_)) && run.attempt > 0;
        let task = unit.task(Purpose::Work, run.attempt);
        is_child.then(|| self.state.child(task))?
    }
}
