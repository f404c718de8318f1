//! Communication and its agents, as an orchestrator sees them: several replicas, the message broker between them, and agents
//! that are slow, lose their sessions, come back, and answer twice. What a replica says and hears keeps to the contract
//! (`task.proto`); what is lost is lost with a stream.

mod door;
mod post;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use contracts::{
    Link, Links, Replica,
    communication::v1::{
        ExchangeTasksResponse, OrchestratorEvent, Task, TaskAlive, TaskBegun, TaskEnqueued, TaskHandedOver,
        TaskRefused, TaskRequeued, TaskUnknown, orchestrator_event::Event, task::Target,
        task_service_server::TaskServiceServer, task_update::Update,
    },
};
use tokio::time::Instant;
use tonic::Status;

use self::{
    door::{Door, Outgoing},
    post::{Entry, Lot, Place, Post, kind, result, served, told},
};
use super::{
    agents,
    database::Database,
    ground::{Ground, Sabotage},
};

/// Between the end of a task and another offer of its result to everybody.
const OFFERED_AGAIN: Duration = Duration::from_secs(5);
/// Tasks of one kind that the agents of a replica take, as it says.
const CAPACITY: u32 = 4;

/// All replicas.
pub(super) struct Communication {
    ground: Arc<Ground>,
    database: Arc<Database>,
    posts: Mutex<Posts>,
}

#[derive(Default)]
struct Posts {
    posts: Vec<Post>,
    /// Tasks with the message broker, with who dispatched them under which epoch.
    broker: VecDeque<Lot>,
    /// Results that agents keep until they are acknowledged.
    results: BTreeMap<String, agents::Ended>,
    streams: u64,
    turns: u64,
    repeated: u64,
}

impl Communication {
    pub(super) fn new(ground: &Arc<Ground>, database: &Arc<Database>, count: usize) -> Arc<Self> {
        let posts = Posts { posts: (0..count).map(|_| Post::default()).collect(), ..Posts::default() };
        Arc::new(Self { ground: Arc::clone(ground), database: Arc::clone(database), posts: Mutex::new(posts) })
    }

    /// The ways of one orchestrator to all of them.
    pub(super) fn links(self: &Arc<Self>) -> Links {
        let count = self.posts().posts.len();
        let replica = |number| {
            let server = TaskServiceServer::new(Door { communication: Arc::clone(self), number });
            Replica { address: format!("post-{number}").into(), link: Link::new(server) }
        };
        let (_, replicas) = tokio::sync::watch::channel((0..count).map(replica).collect());
        Links::watched(replicas)
    }

    fn posts(&self) -> MutexGuard<'_, Posts> {
        self.posts.lock().unwrap()
    }

    /// Everything that is here, in words: nothing, once all executions have ended.
    pub(super) fn left_over(&self) -> Vec<String> {
        let posts = self.posts();
        let here = posts.posts.iter().flat_map(|post| post.tasks.keys().chain(post.foreign.keys()));
        here.chain(posts.results.keys()).cloned().collect()
    }

    /// Results that came again after an acknowledgement of the first.
    pub(super) fn repeated(&self) -> u64 {
        self.posts().repeated
    }

    /// A replica begins anew: its streams and all that it knew are gone.
    pub(super) fn restart(self: &Arc<Self>, number: usize) {
        self.ground.tell(format!("post-{number}"), || "begins anew".to_owned());
        let mut posts = self.posts();
        let Posts { posts: all, broker, .. } = &mut *posts;
        let post = &mut all[number];
        let life = post.life + 1;
        for entry in std::mem::replace(post, Post { life, ..Post::default() }).tasks.into_values() {
            // The broker has no acknowledgement of it.
            if entry.came_from_broker {
                broker.push_back(Lot { task: entry.task, replica: entry.replica, epoch: entry.epoch });
            }
        }
        // Agents that kept a result bring it to whoever is there.
        let kept: Vec<_> = posts.results.keys().cloned().collect();
        drop(posts);
        for id in kept {
            agents::bring_again(self, id);
        }
    }

    /// The streams of a replica break.
    pub(super) fn hang_up(&self, number: usize) {
        self.ground.tell(format!("post-{number}"), || "hangs up".to_owned());
        for (_, outgoing) in self.posts().posts[number].attached.values() {
            let _ = outgoing.send(Err(Status::unavailable("hung up")));
        }
    }

    /// Agents come and go.
    pub(super) fn staff(self: &Arc<Self>) {
        let away = self.ground.trouble().away;
        for post in &mut self.posts().posts {
            let mut serving = Vec::new();
            for target in agents::kinds() {
                let kind = kind(Some(&target));
                let is_away = self.ground.chance(away);
                let has_changed = if is_away { post.unserved.insert(kind) } else { post.unserved.remove(&kind) };
                if has_changed {
                    serving.push(served(target, if is_away { 0 } else { CAPACITY }));
                }
            }
            let frame = ExchangeTasksResponse { serving, updates: Vec::new() };
            if !frame.serving.is_empty() {
                post.attached.values().for_each(|(_, outgoing)| drop(outgoing.send(Ok(frame.clone()))));
            }
        }
        self.serve();
    }

    /// Time has passed.
    pub(super) fn advance(self: &Arc<Self>) {
        for post in &self.posts().posts {
            for (id, entry) in &post.tasks {
                if let Place::Ended { ended, since } = &entry.place
                    && since.elapsed() >= OFFERED_AGAIN
                {
                    post.tell(&self.ground, None, &result(id, ended));
                }
            }
            for (id, ended) in &post.foreign {
                post.tell(&self.ground, None, &result(id, ended));
            }
        }
        self.serve();
    }

    /// Takes from the broker what has come there, and hands over what can be handed over.
    fn serve(self: &Arc<Self>) {
        let mut posts = self.posts();
        let lots = std::mem::take(&mut posts.broker);
        for lot in lots {
            let number = self.ground.one_of(posts.posts.len());
            // Until the result that is there already is acknowledged.
            if let Some(lot) = posts.posts[number].take_lot(&self.ground, lot) {
                posts.broker.push_back(lot);
            }
        }
        let Posts { posts: all, turns, .. } = &mut *posts;
        let begun: Vec<_> =
            all.iter_mut().enumerate().flat_map(|(number, post)| post.hand_over(&self.ground, number, turns)).collect();
        drop(posts);
        for work in begun {
            agents::begin(self, work);
        }
    }

    /// How many replicas there are.
    pub(super) fn count(&self) -> usize {
        self.posts().posts.len()
    }

    pub(super) fn ground(&self) -> &Arc<Ground> {
        &self.ground
    }

    /// Does the agent still have the task, as far as its replica knows?
    fn holds(posts: &Posts, work: &agents::Work) -> bool {
        let post = &posts.posts[work.post];
        let held = post.tasks.get(&work.task.id).map(|entry| &entry.place);
        post.life == work.life && matches!(held, Some(Place::Held { turn, .. }) if *turn == work.turn)
    }

    /// An agent shows that it works.
    pub(super) fn alive(&self, work: &agents::Work, has_begun: bool) {
        let posts = self.posts();
        if Self::holds(&posts, work) {
            let post = &posts.posts[work.post];
            let update = if has_begun { Update::Alive(TaskAlive {}) } else { Update::Begun(TaskBegun {}) };
            let replica = post.tasks.get(&work.task.id).map(|entry| entry.replica.as_str());
            post.tell(&self.ground, replica, &told(&work.task.id, &work.agent, update));
        }
    }

    /// The session that had the task is gone: another gets it.
    pub(super) fn session_lost(self: &Arc<Self>, work: &agents::Work) {
        let mut posts = self.posts();
        if !Self::holds(&posts, work) {
            return;
        }
        self.ground.tell(format!("post-{}", work.post), || format!("loses the session with {}", work.task.id));
        let post = &mut posts.posts[work.post];
        let Some(entry) = post.tasks.get_mut(&work.task.id) else { return };
        entry.place = Place::Queued { told_waiting: false };
        let (replica, reason) = (entry.replica.clone(), "the session was lost".to_owned());
        post.tell(&self.ground, Some(&replica), &told(&work.task.id, "", Update::Requeued(TaskRequeued { reason })));
        drop(posts);
        self.serve();
    }

    /// An agent keeps a result from now on, until it is acknowledged.
    pub(super) fn keep(&self, id: &str, ended: &agents::Ended) {
        self.posts().results.insert(id.to_owned(), ended.clone());
    }

    pub(super) fn kept(&self, id: &str) -> Option<agents::Ended> {
        self.posts().results.get(id).cloned()
    }

    /// An agent gives a result to a replica.
    pub(super) fn end(&self, number: usize, id: &str, ended: &agents::Ended) {
        self.ground.tell(format!("post-{number}"), || format!("gets the result of {id} from {}", ended.agent));
        let mut posts = self.posts();
        let post = &mut posts.posts[number];
        let replica = match post.tasks.get_mut(id) {
            Some(Entry { place: Place::Ended { .. }, .. }) => return,
            Some(entry) => {
                entry.place = Place::Ended { ended: ended.clone(), since: Instant::now() };
                Some(entry.replica.clone())
            }
            None => {
                post.foreign.entry(id.to_owned()).or_insert_with(|| ended.clone());
                None
            }
        };
        post.tell(&self.ground, replica.as_deref(), &result(id, ended));
    }

    fn attach(&self, number: usize, replica: &str, outgoing: Outgoing) -> u64 {
        self.ground.tell(format!("post-{number}"), || format!("meets {replica}"));
        let mut posts = self.posts();
        posts.streams += 1;
        let stream = posts.streams;
        let post = &mut posts.posts[number];
        let is_here = |target: &Target| !post.unserved.contains(&kind(Some(target)));
        let serving = agents::kinds().into_iter().filter(is_here).map(|target| served(target, CAPACITY)).collect();
        let _ = outgoing.send(Ok(ExchangeTasksResponse { serving, updates: Vec::new() }));
        if post.attached.insert(replica.to_owned(), (stream, outgoing)).is_some() {
            post.forget_unheld(replica);
        }
        let mut updates = Vec::new();
        for (id, entry) in &mut post.tasks {
            let is_ours = entry.replica == replica;
            match &entry.place {
                Place::Ended { ended, .. } if is_ours || !post.attached.contains_key(&entry.replica) => {
                    replica.clone_into(&mut entry.replica);
                    updates.push(result(id, ended));
                }
                Place::Held { agent, session, .. } if is_ours => {
                    let handed = TaskHandedOver { session_id: session.clone(), delivery: entry.deliveries };
                    updates.push(told(id, agent, Update::HandedOver(handed)));
                }
                Place::Ended { .. } | Place::Held { .. } | Place::Queued { .. } => {}
            }
        }
        updates.extend(post.foreign.iter().map(|(id, ended)| result(id, ended)));
        for update in updates {
            post.tell(&self.ground, Some(replica), &update);
        }
        stream
    }

    fn detach(&self, number: usize, life: u64, replica: &str, stream: u64) {
        let mut posts = self.posts();
        let post = &mut posts.posts[number];
        if post.life == life && post.is_current(replica, stream) {
            post.attached.remove(replica);
            post.forget_unheld(replica);
        }
    }

    /// An orchestrator says something; false where nobody listens to this stream any more.
    fn hear(self: &Arc<Self>, number: usize, life: u64, from: (&str, u64), events: Vec<OrchestratorEvent>) -> bool {
        let (replica, stream) = from;
        for OrchestratorEvent { event, epoch } in events {
            let mut posts = self.posts();
            let post = &mut posts.posts[number];
            if post.life != life || !post.is_current(replica, stream) {
                return false;
            }
            match event {
                Some(Event::Dispatch(task)) => self.dispatch(&mut posts, number, replica, epoch, task),
                Some(Event::Locate(locate)) => {
                    let id = &locate.task_id;
                    if !post.take_over(&self.ground, replica, id, epoch, true) {
                        if let Some(ended) = post.foreign.get(id) {
                            post.tell(&self.ground, Some(replica), &result(id, ended));
                        } else if !post.take_over_enqueued(&self.ground, replica, id, epoch, false) {
                            post.tell(&self.ground, Some(replica), &told(id, "", Update::Unknown(TaskUnknown {})));
                        }
                    }
                }
                Some(Event::Cancel(cancel)) if !post.is_outdated(&cancel.task_id, epoch) => {
                    let id = &cancel.task_id;
                    if let Some((.., is_withdrawn)) = post.enqueued.get_mut(id) {
                        *is_withdrawn = true;
                    }
                    if post.tasks.get(id).is_some_and(|entry| !matches!(entry.place, Place::Ended { .. })) {
                        post.tasks.remove(id);
                    }
                }
                Some(Event::Ack(ack)) if !post.is_outdated(&ack.task_id, epoch) => {
                    self.acknowledged(&mut posts, number, &ack.task_id);
                }
                Some(Event::Disown(disown)) => post.disown(&self.ground, replica, &disown.task_id),
                Some(Event::Cancel(_) | Event::Ack(_)) => {
                    self.ground.tell(replica, || "speaks of what another has".to_owned());
                }
                Some(Event::Attach(_)) | None => {
                    self.ground.breach(|| "an orchestrator attached twice over one stream".to_owned());
                }
            }
        }
        self.serve();
        true
    }

    fn dispatch(&self, posts: &mut Posts, number: usize, replica: &str, epoch: i64, task: Task) {
        let id = task.id.clone();
        self.ground.tell(format!("post-{number}"), || format!("gets {id} from {replica}, epoch {epoch}"));
        if !self.database.tables().has_task(&id) {
            self.ground.breach(|| format!("I3: {id} went out before it was committed"));
        }
        let trouble = self.ground.trouble();
        let post = &mut posts.posts[number];
        if post.take_over(&self.ground, replica, &id, epoch, false)
            || post.take_over_enqueued(&self.ground, replica, &id, epoch, true)
        {
            return;
        }
        if let Some(ended) = post.foreign.get(&id) {
            return post.tell(&self.ground, Some(replica), &result(&id, ended));
        }
        if self.ground.sabotage == Sabotage::LostTasks && self.ground.chance(0.1) {
            post.enqueued.insert(id, (replica.to_owned(), epoch, false));
            return;
        }
        if self.ground.chance(trouble.broker) {
            if self.ground.chance(0.2) {
                let refused = TaskRefused { reason: "the queue is full".to_owned() };
                return post.tell(&self.ground, Some(replica), &told(&id, "", Update::Refused(refused)));
            }
            post.enqueued.insert(id.clone(), (replica.to_owned(), epoch, false));
            post.tell(&self.ground, Some(replica), &told(&id, "", Update::Enqueued(TaskEnqueued {})));
            posts.broker.push_back(Lot { task, replica: replica.to_owned(), epoch });
            return;
        }
        let place = Place::Queued { told_waiting: false };
        let entry = Entry { task, replica: replica.to_owned(), epoch, deliveries: 0, came_from_broker: false, place };
        post.tasks.insert(id, entry);
    }

    /// A result is in the log, or void (I1): its agent may forget it.
    fn acknowledged(&self, posts: &mut Posts, number: usize, id: &str) {
        self.ground.tell(format!("post-{number}"), || format!("may forget the result of {id}"));
        if self.database.tables().is_current(id) {
            self.ground.breach(|| format!("I1: the result of {id} is acknowledged, and not in the log"));
        }
        let post = &mut posts.posts[number];
        let has_ended = post.tasks.get(id).is_some_and(|entry| matches!(entry.place, Place::Ended { .. }));
        if has_ended {
            post.tasks.remove(id);
        } else if !post.tasks.contains_key(id) {
            if let Some((.., is_withdrawn)) = post.enqueued.get_mut(id) {
                *is_withdrawn = true;
            }
            if post.foreign.remove(id).is_none() {
                return;
            }
        } else {
            return;
        }
        if posts.results.remove(id).is_none() {
            posts.repeated += 1;
        }
    }
}
