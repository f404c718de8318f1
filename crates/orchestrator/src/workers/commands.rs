//! Commands and questions of callers.

use std::sync::atomic::Ordering;

use domain::{ExecutionId, Namespace};
use tokio::sync::oneshot;
use workflow::{
    Command, Execution, Explanation, Holder, Status,
    invariant::{is_what_the_log_says, shown_is_committed},
};

use super::{Census, Comparison, Input, Live, Reply, Starting, worker::Worker};
use crate::{
    app::{Loaded, Snapshot},
    error::OrchestratorError,
    hash::HashSet,
    metrics,
};

impl Worker {
    pub(super) fn start(&mut self, starting: Starting) {
        let id = starting.start.execution_id;
        if self.loading.contains_key(&id) {
            return self.load(id, Some(Input::Start(Box::new(starting))));
        }
        if let Some(live) = self.find(id) {
            // The same start again answers with what the first one made.
            if live.execution.namespace() != Some(&starting.start.namespace) {
                let _ = starting.reply.send(Err(OrchestratorError::IdTaken(id.to_string())));
                return;
            }
            self.answer(id, starting.reply, |live| live.snapshot(false));
            if let Some(ended) = starting.ended {
                self.wait_for_end(id, ended);
            }
        } else if !starting.is_fresh {
            // It may have been started, have ended and be out of memory since the caller looked.
            self.load(id, Some(Input::Start(Box::new(starting))));
        } else {
            self.begin(starting);
        }
    }

    /// Starts what the log does not have.
    pub(super) fn begin(&mut self, starting: Starting) {
        let id = starting.start.execution_id;
        if self.find(id).is_some() {
            return self.start(starting);
        }
        let most = self.shared.settings.max_executions;
        let is_full = self.shared.live.load(Ordering::Relaxed) >= most;
        if is_full && !self.has_room_below(starting.start.parent.as_ref()) {
            let _ = starting.reply.send(Err(OrchestratorError::TooManyExecutions(most)));
            return;
        }
        let Starting { start, compiled, reply, ended, .. } = starting;
        metrics::started(&compiled.name);
        let execution = Execution::new(compiled.plan.clone());
        let Some(held) = self.shared.holdings.held(id) else {
            let _ = reply.send(Err(OrchestratorError::Moved));
            return;
        };
        let live = Live::new(Loaded { execution, hash: [0; 32], breach: None, compiled }, held, self.batch);
        self.insert(id, live);
        let parent = start.parent.clone();
        match self.decide(id, Command::Start(start)) {
            Ok(()) => {
                self.count_child(parent.as_ref());
                self.answer(id, reply, |live| live.snapshot(false));
            }
            Err(rejected) => {
                self.remove(id);
                let _ = reply.send(Err(OrchestratorError::Rejected(rejected)));
                return;
            }
        }
        if let Some(ended) = ended {
            self.wait_for_end(id, ended);
        }
    }

    pub(super) fn command(&mut self, id: ExecutionId, namespace: Namespace, command: Command, reply: Reply<Snapshot>) {
        if !self.live.contains_key(&id) {
            let Some(live) = self.unretire(id) else {
                return self.load(id, Some(Input::Command { id, namespace, command, reply }));
            };
            self.insert(id, live);
        }
        if self.is_foreign(id, &namespace) {
            let _ = reply.send(Err(OrchestratorError::ExecutionNotFound(id)));
        } else {
            match self.decide(id, command) {
                _ if !self.is_certain(id) => drop(reply.send(Err(OrchestratorError::Moved))),
                Ok(()) => self.answer(id, reply, |live| live.snapshot(false)),
                Err(rejected) => self.refuse_after_commit(id, reply, OrchestratorError::Rejected(rejected)),
            }
        }
        self.retire(id);
    }

    /// Is a command answered by how things are? Where it has decided something, the commit finds out whether another has the
    /// shard by now. Where it has not, nobody does: once the lease has ended, memory may be old.
    pub(super) fn is_certain(&self, id: ExecutionId) -> bool {
        self.open.has_events(id) || self.shared.holdings.may_speak_of(id).is_some()
    }

    pub(super) fn get(&mut self, id: ExecutionId, namespace: Namespace, with_steps: bool, reply: Reply<Snapshot>) {
        if self.find(id).is_none() {
            return self.load(id, Some(Input::Get { id, namespace, with_steps, reply }));
        }
        if self.is_foreign(id, &namespace) {
            let _ = reply.send(Err(OrchestratorError::ExecutionNotFound(id)));
            return;
        }
        self.answer(id, reply, |live| live.snapshot(with_steps));
    }

    pub(super) fn explain(
        &mut self,
        id: ExecutionId,
        namespace: Namespace,
        places: Vec<(Holder, u32)>,
        reply: Reply<(Status, Explanation)>,
    ) {
        if self.find(id).is_none() {
            return self.load(id, Some(Input::Explain { id, namespace, places, reply }));
        }
        if let Some(live) = self.live.get_mut(&id) {
            live.places = places.into_iter().collect();
        }
        if self.is_foreign(id, &namespace) {
            let _ = reply.send(Err(OrchestratorError::ExecutionNotFound(id)));
            return;
        }
        self.answer(id, reply, |live| (live.execution.status(), live.execution.explain(live)));
    }

    /// Answers at the commit of the end; at once where that was before.
    pub(super) fn wait_for_end(&mut self, id: ExecutionId, ended: oneshot::Sender<Snapshot>) {
        if let Some(live) = self.ended.get(&id) {
            let _ = ended.send(live.snapshot(false));
        } else if let Some(live) = self.live.get_mut(&id) {
            live.waiting.push(ended);
        } else {
            self.load(id, Some(Input::Await { id, ended }));
        }
    }

    pub(super) fn find(&self, id: ExecutionId) -> Option<&Live> {
        self.live.get(&id).or_else(|| self.ended.get(&id))
    }

    pub(super) fn is_foreign(&self, id: ExecutionId, namespace: &Namespace) -> bool {
        self.find(id).is_none_or(|live| live.execution.namespace() != Some(namespace))
    }

    /// Answers a caller with what is known now, as soon as all of that is committed (I1).
    pub(super) fn answer<T: Send + 'static>(
        &mut self,
        id: ExecutionId,
        reply: Reply<T>,
        show: impl FnOnce(&Live) -> T,
    ) {
        let Some(live) = self.find(id) else { return };
        let shown = show(live);
        if live.pending == 0 {
            self.shared.violations.check(id, shown_is_committed(live.execution.last_sequence(), live.committed));
            let _ = reply.send(Ok(shown));
            return;
        }
        self.open.share(id).replies.push(Box::new(move |is_committed| {
            // A caller that has gone needs no answer.
            let _ = reply.send(if is_committed { Ok(shown) } else { Err(OrchestratorError::NotCommitted) });
        }));
    }

    /// Refuses what the state does not allow, as soon as that state is committed.
    fn refuse_after_commit(&mut self, id: ExecutionId, reply: Reply<Snapshot>, error: OrchestratorError) {
        if self.live.get(&id).is_none_or(|live| live.pending == 0) {
            let _ = reply.send(Err(error));
            return;
        }
        self.open.share(id).replies.push(Box::new(move |is_committed| {
            let _ = reply.send(Err(if is_committed { error } else { OrchestratorError::NotCommitted }));
        }));
    }

    /// Everything here that nothing will wake (I7), and what the database knows and memory does not.
    pub(super) fn census(&self, known: &[ExecutionId]) -> Census {
        let is_stuck = |id: ExecutionId, live: &Live| live.pending == 0 && !self.lost(id, live).is_nothing();
        let stuck = self.live.iter().filter(|(id, live)| is_stuck(**id, live)).map(|(id, _)| *id).collect();
        let here: HashSet<_> = self.live.keys().chain(self.ended.keys()).chain(self.loading.keys()).collect();
        let missing = known.iter().filter(|id| !here.contains(id)).copied().collect();
        Census { live: self.live.values().filter(|live| !live.is_ended()).count(), stuck, missing }
    }

    pub(super) fn compare(&self, replayed: &Execution) -> Comparison {
        // Once the lease has ended another may have gone on with it: what is here is then old, and not wrong.
        let is_ours = |id: &ExecutionId| self.shared.holdings.may_speak_of(*id).is_some();
        let Some(live) = replayed.id().filter(is_ours).and_then(|id| self.find(id)) else {
            return Comparison::NotInMemory;
        };
        if live.execution.last_sequence() > replayed.last_sequence() {
            return Comparison::Ahead;
        }
        // Memory is never behind the log.
        match is_what_the_log_says(&live.execution, replayed) {
            Ok(()) => Comparison::Same,
            Err(breach) => Comparison::Different(breach),
        }
    }
}
