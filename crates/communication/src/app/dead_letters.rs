//! Dead letters: looking at them, sending them again, removing them.
//!
//! A message is replayed here. A task is not: its execution is retried, which is the orchestrator's business, and whoever has
//! seen to that says so, and the letter is marked.

use std::{collections::HashSet, convert::Infallible, sync::Arc};

use domain::{Clock, DeadLetterId, Namespace};
use lifecycle::{OnExit, Tasks, crash_point};
use store::Page;
use tokio::sync::oneshot;

use super::{
    directory::Directory,
    model::{DeadLetter, Kind, Mailbox},
};
use crate::{
    error::CommunicationError,
    store::{LetterFilter, Span, Store},
    transport::Transport,
};

/// The use cases of dead letters.
pub(crate) struct DeadLetters {
    pub(crate) directory: Arc<Directory>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
}

/// What is on its way again.
#[derive(Debug)]
pub(crate) enum Replayed {
    /// The message of this id.
    Message(String),
    /// The execution of this id.
    Execution(String),
}

/// What became of some letters that were to be replayed.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    pub(crate) replayed: u32,
    pub(crate) failures: Vec<(DeadLetterId, CommunicationError)>,
    /// Those of tasks that were not replayed before.
    pub(crate) tasks: Vec<DeadLetter>,
    /// The last letter of this part, where there are more.
    pub(crate) last: Option<DeadLetterId>,
}

impl DeadLetters {
    /// One dead letter.
    pub(crate) async fn get(&self, namespace: &Namespace, id: &str) -> Result<DeadLetter, CommunicationError> {
        let found = self.store.letter(namespace, id).await.map_err(CommunicationError::Database)?;
        found.ok_or_else(|| CommunicationError::DeadLetterNotFound(id.to_owned()))
    }

    /// Dead letters, newest first, at most `limit`.
    pub(crate) async fn list(
        &self,
        filter: &LetterFilter,
        before: Option<DeadLetterId>,
        limit: usize,
    ) -> Result<Page<DeadLetter>, CommunicationError> {
        self.store.letters(filter, Span::NewestBefore(before), limit).await.map_err(CommunicationError::Database)
    }

    /// Queues the message again, with a fresh count and without its expiry (which may have been what killed it). A second
    /// replay changes nothing. One whose agent is gone stays dead: it would be lost where nobody looks. A task's letter is marked
    /// where its execution was retried.
    pub(crate) async fn replay(
        &self,
        namespace: &Namespace,
        id: &str,
        execution_retried: bool,
    ) -> Result<Replayed, CommunicationError> {
        let letter = self.get(namespace, id).await?;
        match letter.kind {
            Kind::Task => {
                if !execution_retried && letter.replayed_at.is_none() {
                    return Err(CommunicationError::NotReplayable(Box::new(letter)));
                }
                let marked = self.store.mark_replayed(namespace, id, self.clock.now()).await;
                marked.map_err(CommunicationError::Database)?;
                Ok(Replayed::Execution(letter.execution_id().to_owned()))
            }
            Kind::Message => {
                if letter.replayed_at.is_none() {
                    self.find_agent(&letter).await?;
                }
                let is_again = letter.replayed_at.is_some()
                    || !self.revive(namespace, vec![letter.id]).await?.is_empty()
                    || self.get(namespace, id).await?.replayed_at.is_some();
                if !is_again {
                    return Err(CommunicationError::MessageNotFound(letter.subject_id));
                }
                Ok(Replayed::Message(letter.subject_id))
            }
        }
    }

    /// The same for the first letters of those that a filter names, oldest first.
    pub(crate) async fn replay_some(
        &self,
        filter: &LetterFilter,
        after: Option<DeadLetterId>,
        until: DeadLetterId,
        limit: usize,
    ) -> Result<Replays, CommunicationError> {
        let page = self.some(filter, after, until, limit).await?;
        let mut replays = Replays { last: last(&page), ..Replays::default() };
        for missing in missing(filter, after, &page) {
            replays.failures.push((missing, CommunicationError::DeadLetterNotFound(missing.to_string())));
        }
        let mut messages = Vec::new();
        for letter in page.rows {
            match letter.kind {
                _ if letter.replayed_at.is_some() => replays.replayed += 1,
                Kind::Task => replays.tasks.push(letter),
                Kind::Message => messages.push(letter),
            }
        }
        let messages = self.admit(messages, &mut replays).await?;
        let ids = messages.iter().map(|letter| letter.id).collect();
        let revived = self.revive(&filter.namespace, ids).await?;
        for letter in messages {
            if revived.contains(&letter.id) || self.is_replayed(&filter.namespace, letter.id).await? {
                replays.replayed += 1;
            } else {
                replays.failures.push((letter.id, CommunicationError::MessageNotFound(letter.subject_id)));
            }
        }
        Ok(replays)
    }

    /// Those that can be replayed; the others fail.
    async fn admit(
        &self,
        letters: Vec<DeadLetter>,
        replays: &mut Replays,
    ) -> Result<Vec<DeadLetter>, CommunicationError> {
        let (mut admitted, mut gone) = (Vec::new(), HashSet::new());
        let mut rooms = Rooms { transport: &*self.transport, taken: Vec::new() };
        for letter in letters {
            let mailbox = mailbox(&letter);
            let found = if gone.contains(&mailbox) {
                Err(CommunicationError::AgentNotFound(letter.target.clone()))
            } else {
                self.find_agent(&letter).await
            };
            // One at a time always finds room, since its message was accepted; many must not fill the memory.
            match found.and_then(|()| rooms.take(&letter)) {
                Ok(()) => admitted.push(letter),
                Err(failure @ CommunicationError::AgentNotFound(_)) => {
                    gone.insert(mailbox);
                    replays.failures.push((letter.id, failure));
                }
                Err(failure @ CommunicationError::MailboxFull(_)) => replays.failures.push((letter.id, failure)),
                // The registry is away: nothing has been replayed so far, and all of it can be tried again.
                Err(error) => return Err(error),
            }
        }
        Ok(admitted)
    }

    /// `agent_not_found` where the agent of a message is gone.
    async fn find_agent(&self, letter: &DeadLetter) -> Result<(), CommunicationError> {
        match mailbox(letter) {
            Some(mailbox) => self.directory.get(&mailbox).await.map(drop),
            None => Ok(()),
        }
    }

    /// Somebody else may have been faster.
    async fn is_replayed(&self, namespace: &Namespace, id: DeadLetterId) -> Result<bool, CommunicationError> {
        match self.get(namespace, &id.to_string()).await {
            Ok(letter) => Ok(letter.replayed_at.is_some()),
            Err(CommunicationError::DeadLetterNotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn some(
        &self,
        filter: &LetterFilter,
        after: Option<DeadLetterId>,
        until: DeadLetterId,
        limit: usize,
    ) -> Result<Page<DeadLetter>, CommunicationError> {
        // Who names a letter means it, replayed or not.
        let include_replayed = filter.include_replayed || !filter.ids.is_empty();
        let filter = LetterFilter { include_replayed, ..filter.clone() };
        let found = self.store.letters(&filter, Span::OldestWithin(after, until), limit).await;
        found.map_err(CommunicationError::Database)
    }

    /// Records the replays and takes the messages back, as one, also where the caller goes away in between. What a replica that
    /// ends leaves behind here is relayed by another. Answers with the letters for which that was done now.
    async fn revive(
        &self,
        namespace: &Namespace,
        ids: Vec<DeadLetterId>,
    ) -> Result<HashSet<DeadLetterId>, CommunicationError> {
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        let (reply, revived) = oneshot::channel();
        let (store, transport, now) = (Arc::clone(&self.store), Arc::clone(&self.transport), self.clock.now());
        let namespace = namespace.clone();
        self.tasks.spawn("communication.replay", OnExit::Continue, async move {
            let revived = store.replay(&namespace, &ids, now).await.map(|revived| {
                crash_point("communication.replay.recorded");
                let revive = |(letter, envelope)| {
                    transport.revive(Arc::new(envelope), now);
                    letter
                };
                revived.into_iter().map(revive).collect()
            });
            // Nobody has to listen.
            let _ = reply.send(revived);
            Ok::<_, Infallible>(())
        });
        revived.await.map_err(|_| CommunicationError::Stopping)?.map_err(CommunicationError::Database)
    }

    /// Removes one for good; false where there was none.
    pub(crate) async fn purge(&self, namespace: &Namespace, id: DeadLetterId) -> Result<bool, CommunicationError> {
        Ok(self.purge_all(namespace, &[id]).await? > 0)
    }

    /// Removes the first letters of those that a filter names, oldest first. Answers with how many those were, and with the
    /// last one where there are more.
    pub(crate) async fn purge_some(
        &self,
        filter: &LetterFilter,
        after: Option<DeadLetterId>,
        until: DeadLetterId,
        limit: usize,
    ) -> Result<(u64, Option<DeadLetterId>), CommunicationError> {
        let page = self.some(filter, after, until, limit).await?;
        let ids: Vec<_> = page.rows.iter().map(|letter| letter.id).collect();
        Ok((self.purge_all(&filter.namespace, &ids).await?, last(&page)))
    }

    async fn purge_all(&self, namespace: &Namespace, ids: &[DeadLetterId]) -> Result<u64, CommunicationError> {
        let purged = self.store.purge(namespace, ids, self.clock.now()).await;
        let purged = purged.map_err(CommunicationError::Database)?;
        crash_point("communication.purge.recorded");
        Ok(purged)
    }
}

fn last(page: &Page<DeadLetter>) -> Option<DeadLetterId> {
    page.rows.last().filter(|_| !page.is_last).map(|letter| letter.id)
}

/// The letters that are named by their ids and that this part would hold if there were any such.
fn missing(filter: &LetterFilter, after: Option<DeadLetterId>, page: &Page<DeadLetter>) -> Vec<DeadLetterId> {
    let found: HashSet<_> = page.rows.iter().map(|letter| letter.id).collect();
    let is_here = |id: &DeadLetterId| {
        after.is_none_or(|after| *id > after) && last(page).is_none_or(|last| *id <= last) && !found.contains(id)
    };
    filter.ids.iter().copied().filter(is_here).collect()
}

/// Where the message of a letter goes. Its target is always an agent; where it were none, the replay finds out.
fn mailbox(letter: &DeadLetter) -> Option<Mailbox> {
    let agent = letter.target.parse().ok()?;
    Some(Mailbox::of_agent(letter.namespace.clone(), agent))
}

/// Room in mailboxes, taken to see whether there is enough; given back before the messages take their own.
struct Rooms<'a> {
    transport: &'a dyn Transport,
    taken: Vec<(Mailbox, usize)>,
}

impl Rooms<'_> {
    fn take(&mut self, letter: &DeadLetter) -> Result<(), CommunicationError> {
        let Some(mailbox) = mailbox(letter) else { return Ok(()) };
        if self.transport.reserve(&mailbox, letter.payload.len()).is_err() {
            return Err(CommunicationError::MailboxFull(letter.target.clone()));
        }
        self.taken.push((mailbox, letter.payload.len()));
        Ok(())
    }
}

impl Drop for Rooms<'_> {
    fn drop(&mut self) {
        for (mailbox, bytes) in self.taken.drain(..) {
            self.transport.release(&mailbox, bytes);
        }
    }
}
