//! With which credentials sessions are open, and which of those are good no more.
//!
//! An agent's access token is known by its signature, so that nobody has to be asked when a session is opened. What was revoked
//! gateways know: they ask what is in use here, and say what of it is good no more. That is kept in memory alone: after a restart it
//! is asked for and said again.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use access::{Credential, Keys, Principal};
use domain::{Clock, SessionId};
use errors::{Code, Error};
use moka::{policy::EvictionPolicy, sync::Cache};
use tokio::sync::watch;

use super::Mailbox;

/// Revoked families that are remembered. One that is forgotten opens a session until it is asked for again.
const MOST_REVOKED: u64 = 100_000;
/// How often it is looked whether a token has expired: the clock may be set, and goes on where the machine sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Credentials of this replica's sessions.
pub(crate) struct Credentials {
    revoked: Cache<String, ()>,
    sessions: Mutex<BTreeMap<SessionId, Renewable>>,
}

/// A session that ends with its credential.
struct Renewable {
    mailbox: Mailbox,
    present: watch::Sender<Present>,
}

/// What a session is open with now.
#[derive(Clone)]
struct Present {
    credential: Credential,
    is_revoked: bool,
}

impl Credentials {
    pub(crate) fn new() -> Self {
        // Then every token of theirs has expired.
        let life = Keys::LONGEST_OF_AGENT + Keys::SKEW;
        let revoked = Cache::builder().max_capacity(MOST_REVOKED).eviction_policy(EvictionPolicy::lru());
        Self { revoked: revoked.time_to_live(life).build(), sessions: Mutex::default() }
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<SessionId, Renewable>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes with what a session is opened, until what it answers is dropped. Refuses what is known to be revoked.
    pub(crate) fn hold(
        &self,
        session: SessionId,
        mailbox: &Mailbox,
        credential: Credential,
    ) -> Result<Held<'_>, Error> {
        let family = credential.family.clone();
        let (sender, present) = watch::channel(Present { credential, is_revoked: false });
        self.sessions().insert(session, Renewable { mailbox: mailbox.clone(), present: sender });
        let held = Held { credentials: self, session, present };
        // Looked at after it was noted: whoever revokes notes first and looks then.
        self.check(&family).map(|()| held)
    }

    /// Another credential for a session of the same agent, which is still whose it was when it was opened: in a session nothing asks
    /// for scopes.
    pub(crate) fn renew(&self, session: SessionId, principal: &Principal, credential: Credential) -> Result<(), Error> {
        let sessions = self.sessions();
        let theirs = |renewable: &&Renewable| principal.reaches(&renewable.mailbox.namespace);
        let Some(renewable) = sessions.get(&session).filter(theirs) else {
            return Err(Self::not_found(session));
        };
        access::fence_agent(Some(principal), &renewable.mailbox.namespace, Some(renewable.mailbox.agent))?;
        self.check(&credential.family)?;
        renewable.present.send_replace(Present { credential, is_revoked: false });
        Ok(())
    }

    /// There is nothing to renew.
    pub(crate) fn not_found(session: SessionId) -> Error {
        let message = format!("this replica has no session {session} that ends with a token");
        Error::not_found("session_not_found", message)
    }

    /// What is in use, the newest sessions first, after one of them; at most so many.
    pub(crate) fn in_use(&self, after: Option<SessionId>, most: usize) -> Vec<(SessionId, String)> {
        let older = (Bound::Unbounded, after.map_or(Bound::Unbounded, Bound::Excluded));
        let sessions = self.sessions();
        let newest = sessions.range(older).rev().take(most);
        newest.map(|(id, renewable)| (*id, renewable.present.borrow().credential.family.clone())).collect()
    }

    /// These are good no more.
    pub(crate) fn revoke(&self, families: Vec<String>) {
        let families: HashSet<_> = families.into_iter().collect();
        for family in &families {
            self.revoked.insert(family.clone(), ());
        }
        for renewable in self.sessions().values() {
            renewable.present.send_if_modified(|present| {
                let ends = !present.is_revoked && families.contains(&present.credential.family);
                present.is_revoked |= ends;
                ends
            });
        }
    }

    fn check(&self, family: &str) -> Result<(), Error> {
        if self.revoked.contains_key(family) { Err(revoked()) } else { Ok(()) }
    }
}

fn revoked() -> Error {
    let message = "the token, or the key that it comes from, was revoked";
    Error::new(Code::Unauthenticated, "token_revoked", message)
}

/// A session's credential. Forgotten when it is dropped.
pub(crate) struct Held<'a> {
    credentials: &'a Credentials,
    session: SessionId,
    present: watch::Receiver<Present>,
}

impl Held<'_> {
    /// Waits until it is good no more, and says why. Cancel-safe.
    pub(crate) async fn ended(&mut self, clock: &dyn Clock) -> Error {
        loop {
            let Present { credential, is_revoked } = self.present.borrow_and_update().clone();
            if is_revoked {
                return revoked();
            }
            let now = clock.now();
            if credential.expires_at <= now {
                let message = "the token that the session was opened with has expired: open another with a new one";
                return Error::new(Code::Unauthenticated, "token_expired", message);
            }
            // Both arms are cancel-safe. The sender lives as long as the entry does, which is until `self` is dropped.
            tokio::select! {
                () = tokio::time::sleep(credential.expires_at.since(now).min(LOOK_EVERY)) => {}
                _ = self.present.changed() => {}
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.credentials.sessions().remove(&self.session);
    }
}

#[cfg(test)]
mod tests {
    use access::{Kind, Reach, Role};
    use domain::{AgentId, ManualClock, Namespace, Timestamp};

    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn credential(family: &str, seconds: u64) -> Credential {
        Credential { family: family.to_owned(), expires_at: START + Duration::from_secs(seconds) }
    }

    fn namespace(name: &str) -> Namespace {
        Namespace::from_field(name).unwrap()
    }

    fn mailbox() -> Mailbox {
        Mailbox::of_agent(namespace("red"), AgentId::from_parts(1, 1))
    }

    fn bearer(of: &str, agent: AgentId) -> Principal {
        let reach = Reach::Namespace(namespace(of));
        Principal { agent: Some(agent), ..Principal::of_role(Kind::Token, "agt_1", Role::Agent, reach) }
    }

    fn session(number: u128) -> SessionId {
        SessionId::from_parts(1, number)
    }

    async fn lasts(held: &mut Held<'_>, clock: &ManualClock) -> bool {
        tokio::time::timeout(LOOK_EVERY * 2, held.ended(clock)).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_with_its_token_unless_its_own_agent_renews_it() {
        let (credentials, clock) = (Credentials::new(), ManualClock::at(START));
        let own = bearer("red", mailbox().agent);
        let renew = |principal: &Principal, credential| {
            credentials.renew(session(1), principal, credential).map_err(|error| error.reason)
        };
        assert_eq!(renew(&own, credential("fam_1", 60)), Err("session_not_found"), "there is none yet");
        let mut held = credentials.hold(session(1), &mailbox(), credential("fam_1", 60)).unwrap();
        assert!(lasts(&mut held, &clock).await, "it is good");
        clock.set(START + Duration::from_secs(59));
        let other = bearer("red", AgentId::from_parts(1, 2));
        assert_eq!(renew(&other, credential("fam_2", 600)), Err("agent_forbidden"));
        // Another namespace can make a key for whichever agent it names.
        let stranger = bearer("blue", mailbox().agent);
        assert_eq!(renew(&stranger, credential("fam_2", 600)), Err("session_not_found"));
        assert_eq!(renew(&own, credential("fam_2", 600)), Ok(()));
        clock.set(START + Duration::from_secs(599));
        assert!(lasts(&mut held, &clock).await, "another is");
        clock.set(START + Duration::from_mins(10));
        assert_eq!(held.ended(&clock).await.reason, "token_expired");
        drop(held);
        assert_eq!(renew(&own, credential("fam_1", 600)), Err("session_not_found"), "it has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_revoked_ends_its_sessions_and_opens_and_renews_no_other() {
        let (credentials, clock) = (Credentials::new(), ManualClock::at(START));
        let hold = |number, family| credentials.hold(session(number), &mailbox(), credential(family, 60));
        let (mut first, mut second) = (hold(1, "fam_1").unwrap(), hold(2, "fam_2").unwrap());
        let revoking = async { credentials.revoke(vec!["fam_1".to_owned(), "fam_9".to_owned()]) };
        let (ended, ()) = tokio::join!(first.ended(&clock), revoking);
        assert_eq!(ended.reason, "token_revoked");
        assert!(lasts(&mut second, &clock).await, "another's is");
        for family in ["fam_1", "fam_9"] {
            assert_eq!(hold(3, family).err().unwrap().reason, "token_revoked");
            let own = bearer("red", mailbox().agent);
            let renewed = credentials.renew(session(2), &own, credential(family, 60));
            assert_eq!(renewed.unwrap_err().reason, "token_revoked");
        }
        assert!(lasts(&mut second, &clock).await, "it has what it had");
    }

    #[test]
    fn what_is_in_use_is_told_from_the_newest_session_to_the_last() {
        let credentials = Credentials::new();
        let family = |number: u128| format!("fam_{number}");
        let held: Vec<_> = (1..=5)
            .map(|number| credentials.hold(session(number), &mailbox(), credential(&family(number), 60)).unwrap())
            .collect();
        let told = |after| credentials.in_use(after, 2);
        let portion =
            |numbers: &[u128]| numbers.iter().map(|&number| (session(number), family(number))).collect::<Vec<_>>();
        assert_eq!(told(None), portion(&[5, 4]));
        assert_eq!(told(Some(session(4))), portion(&[3, 2]));
        drop(held);
        assert_eq!(told(None), portion(&[]));
    }
}
