//! Use cases: what sessions, orchestrators and senders may do. Knows neither tonic nor SQL.

mod broker;
mod credentials;
mod dead_letters;
mod directory;
mod hub;
mod journal;
mod messages;
mod model;
mod outbox;
mod progress;

pub(crate) use self::{
    broker::{Attachment, Broker, Limits, Opening, QueueKey, Report},
    credentials::{Credentials, Held},
    dead_letters::{DeadLetters, Replayed},
    directory::{AgentInfo, Directory, Hello, Registry},
    hub::Hub,
    journal::{Change, Entry, Journal, Recorded},
    messages::{Draft, Messages, Submitted},
    model::{
        DeadLetter, DeadTask, Envelope, HandOver, Kind, MAX_PRIORITY, Mailbox, Message, Outcome, Reason, Served,
        Status, Target, Task, TaskId, ToAgent, ToOrchestrator, Update, What, awaited_by,
    },
    outbox::{Outbox, Weigh},
    progress::{Progress, Shown, dropped},
};
