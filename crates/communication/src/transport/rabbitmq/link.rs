//! Connections to RabbitMQ, and what is declared there.
//!
//! - `mailbox.<namespace>.<agent>`: a queue per mailbox, made on first use, with one active consumer, so that the order holds.
//! - `mailbox.<namespace>.<agent>.<instance>`: a queue per instance that has asked something, for the answers. What nobody takes
//!   from there for a while goes into the agent's mailbox.
//! - `tasks.<namespace>.type.<agent type>`, `tasks.<namespace>.capability.<name>`, `tasks.<namespace>.agent.<agent>`: the work
//!   queues, made on first use, each with a consumer per replica that has sessions for it.
//! - `crowded`: a fanout exchange, to a queue of each replica that goes with it: whose agents are busy.
//! - `topics`: a topic exchange for messages to many.
//! - `dlx`: where everything dead-letters to; `dlq.message` and `dlq.task` hold copies for those who watch the broker. The record
//!   in the database is what dead letters are listed, replayed and purged from.

use std::{
    future::Future,
    pin::pin,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use domain::Timestamp;
use futures::future::try_join_all;
use lapin::{
    Channel, Connection, ConnectionProperties, ConnectionStatus, ErrorKind, ExchangeKind, Queue,
    options::{BasicAckOptions, BasicNackOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable, ShortString},
    uri::AMQPUri,
};
use tokio::time::timeout;

use super::{RabbitMq, held::Verdict};
use crate::{
    app::{Kind, MAX_PRIORITY, Mailbox, QueueKey, Target},
    settings::QueueType,
};

/// For messages to many.
const TOPICS: &str = "topics";
/// Seconds between heartbeats, where the URL says nothing: a replica that stands still must not keep a mailbox for minutes.
const HEARTBEAT: u16 = 10;

/// An answer about an empty queue that takes as long says nothing: less than the quarter of a second after which it is made up.
pub(super) const NO_ANSWER: Duration = Duration::from_millis(200);
/// How often it is looked whether the broker blocks.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// The dead-letter exchange.
pub(super) const DEAD_LETTERS: &str = "dlx";
/// How long an instance's queue that nobody uses is kept, after what was in it has gone to the agent's, which takes longer
/// where that is full.
const UNUSED: Duration = Duration::from_hours(1);
/// Copies that a dead-letter queue keeps; older ones make room.
const MOST_DEAD_LETTERS: i64 = 100_000;
/// The record counts deliveries. The broker counts more, as what was fetched and given back; this only ends what would go
/// round for ever.
const BACKSTOP: i64 = 1_000_000;
/// How long a delivery may stay without an acknowledgement before the broker closes the channel. What is taken is acknowledged when
/// it is over, and a task may take days; for one that is stuck there are the timeouts of its step. RabbitMQ knows this argument
/// from 3.12, of quorum queues; before that, and of classic ones, the `consumer_timeout` of the server says so for all.
const LONGEST: Duration = Duration::from_hours(366 * 24);

/// Why a connection has ended or cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the URL of RabbitMQ cannot be read")]
    Url(#[from] std::io::Error),
    /// Why is not told: it may say the whole URL, with its password.
    #[error("the URL of RabbitMQ is none: it must read amqp://user:password@host:port/vhost")]
    NoUrl,
    #[error("RabbitMQ failed")]
    RabbitMq(#[from] lapin::Error),
    #[error("RabbitMQ did not answer within {0:?}")]
    Silent(Duration),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("RabbitMQ has closed the channel")]
    Closed,
    #[error("RabbitMQ does not let us use the queue {queue}")]
    Forbidden {
        queue: String,
        #[source]
        source: lapin::Error,
    },
}

fn address(url: &str) -> Result<AMQPUri, LinkError> {
    url.parse().map_err(|_| LinkError::NoUrl)
}

/// What the broker says of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is not there.
    None,
    /// It cannot say now.
    Unsure,
    /// So many wait in it, in nobody's hands, and so many take from it.
    Queue { messages: u32, consumers: u32 },
}

/// A connection.
pub(super) struct Link<'a> {
    transport: &'a RabbitMq,
    connection: Connection,
    pub(super) channel: Channel,
    /// Of declarations: one that fails closes its channel.
    declaring: Channel,
}

impl<'a> Link<'a> {
    /// Connects; `purpose` is shown in RabbitMQ's management.
    pub(super) async fn open(transport: &'a RabbitMq, purpose: &str) -> Result<Self, LinkError> {
        let settings = &transport.settings;
        let url = settings::Secret::given(settings.url.as_ref(), settings.url_file.as_deref())?;
        let mut url = address(url.as_ref().map_or("", settings::Secret::reveal))?;
        url.query.heartbeat.get_or_insert(HEARTBEAT);
        let properties = ConnectionProperties::default().with_connection_name(format!("troupe {purpose}").into());
        let open = async {
            let connection = Connection::connect_uri(url, properties).await?;
            let (channel, declaring) = (connection.create_channel().await?, connection.create_channel().await?);
            transport.links.fetch_add(1, Ordering::Relaxed);
            Ok(Self { transport, connection, channel, declaring })
        };
        timeout(settings.timeout, open).await.map_err(|_| LinkError::Silent(settings.timeout))?
    }

    pub(super) fn now(&self) -> Timestamp {
        self.transport.clock.now()
    }

    /// Does the broker block it?
    pub(super) fn connection_status(&self) -> ConnectionStatus {
        self.connection.status().clone()
    }

    /// Ends the connection when all that was said is with the broker.
    pub(super) async fn close(self) -> Result<(), LinkError> {
        let patience = self.transport.settings.timeout;
        let close = self.connection.close(200, "the replica stops".into());
        timeout(patience, close).await.map_err(|_| LinkError::Silent(patience))??;
        Ok(())
    }

    /// Tells the broker what has become of its deliveries.
    pub(super) async fn tell(&self, verdicts: Vec<(u64, Verdict)>) -> Result<(), LinkError> {
        let channel = &self.channel;
        let tell = verdicts.into_iter().map(|(tag, verdict)| async move {
            let requeue = verdict == Verdict::Requeue;
            match verdict {
                Verdict::Ack => channel.basic_ack(tag, BasicAckOptions::default()).await,
                Verdict::Requeue | Verdict::DeadLetter => {
                    channel.basic_nack(tag, BasicNackOptions { requeue, multiple: false }).await
                }
            }
        });
        try_join_all(tell).await?;
        Ok(())
    }

    /// Makes the queue of a mailbox where there is none, and that of its agent's before. Where that is new, messages before
    /// `next` that were in it are lost.
    pub(super) async fn declare_mailbox(&mut self, mailbox: &Mailbox, next: i64) -> Result<(), LinkError> {
        let (limits, agents) = (self.transport.limits, mailbox_queue(&mailbox.agents()));
        let queue_type = self.transport.settings.queues.mailboxes;
        let mut arguments = holding(queue_type, Kind::Message, limits.mailbox.messages);
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        let is_new = self.look_at(&agents).await?.is_none();
        self.declare(&agents, arguments).await?;
        if is_new {
            self.transport.has_made(mailbox, next);
        }
        if mailbox.instance.is_none() {
            return Ok(());
        }
        // Of whatever type the others are: a classic one would lose what the agent's has no room for.
        let mut arguments = holding(QueueType::Quorum, Kind::Message, limits.mailbox.messages);
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
        arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(agents.into()));
        arguments.insert("x-message-ttl".into(), millis(limits.answer_wait));
        arguments.insert("x-expires".into(), millis(limits.answer_wait + UNUSED));
        self.declare(&mailbox_queue(mailbox), arguments).await
    }

    /// Makes a work queue where there is none.
    pub(super) async fn declare_work_queue(&mut self, key: &QueueKey) -> Result<(), LinkError> {
        let arguments = holding(self.transport.settings.queues.tasks, Kind::Task, self.transport.limits.queue);
        self.declare(&work_queue(key), arguments).await
    }

    /// Makes the exchanges and the queues of dead letters where there are none.
    pub(super) async fn declare_exchanges(&mut self) -> Result<(), LinkError> {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let exchange = ShortString::from(DEAD_LETTERS);
        let none = FieldTable::default;
        self.declaring.exchange_declare(TOPICS.into(), ExchangeKind::Topic, durable, none()).await?;
        self.declaring.exchange_declare(exchange.clone(), ExchangeKind::Direct, durable, none()).await?;
        for kind in Kind::ALL {
            let mut arguments = typed(self.transport.settings.queues.dead_letters);
            arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MOST_DEAD_LETTERS));
            let queue = format!("dlq.{}", kind.as_str());
            self.declare(&queue, arguments).await?;
            let bind = QueueBindOptions::default();
            self.declaring.queue_bind(queue.into(), exchange.clone(), kind.as_str().into(), bind, none()).await?;
        }
        Ok(())
    }

    /// A queue that was made with other settings is used as it is. One that is somebody else's alone, or that we may not make,
    /// harms no other.
    async fn declare(&mut self, queue: &str, arguments: FieldTable) -> Result<(), LinkError> {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        match self.alone(self.declaring.queue_declare(queue.into(), durable, arguments)).await? {
            Ok(_) => Ok(()),
            Err(source) if is(&source, AMQPSoftError::PRECONDITIONFAILED) => {
                self.declaring = self.connection.create_channel().await?;
                // The same is said of arguments that the broker does not have for such queues.
                if self.look_at(queue).await?.is_none() {
                    return Err(LinkError::Forbidden { queue: queue.to_owned(), source });
                }
                tracing::warn!(queue, "a queue was made with other settings, and is used as it is");
                Ok(())
            }
            Err(source) if is_soft(&source) => {
                self.declaring = self.connection.create_channel().await?;
                Err(LinkError::Forbidden { queue: queue.to_owned(), source })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the broker answers, while no other makes a queue: RabbitMQ fails where two make the same quorum queue at the same
    /// time. Over a connection that it blocks it answers when it is no longer short of memory or disk: the others do not wait
    /// for that, since those that consume have acknowledgements to send.
    async fn alone<T>(&self, answer: impl Future<Output = T>) -> Result<T, LinkError> {
        let alone = self.transport.declaring.lock().await;
        self.patiently(answer, Some(alone)).await
    }

    /// What the broker answers, unless it is silent for too long. What is held meanwhile is let go of where it blocks.
    async fn patiently<T, H>(&self, answer: impl Future<Output = T>, mut held: Option<H>) -> Result<T, LinkError> {
        let patience = self.transport.settings.timeout;
        let (mut answer, mut silent) = (pin!(answer), Duration::ZERO);
        while silent < patience {
            if let Ok(answered) = timeout(LOOK, &mut answer).await {
                return Ok(answered);
            }
            if self.connection.status().blocked() {
                held = None;
                silent = Duration::ZERO;
            } else {
                silent += LOOK;
            }
        }
        drop(held);
        Err(LinkError::Silent(patience))
    }

    /// Does nothing wait in the queue of a mailbox, for certain?
    pub(super) async fn is_empty(&mut self, mailbox: &Mailbox) -> Result<bool, LinkError> {
        Ok(match self.count(&mailbox_queue(mailbox)).await? {
            Found::Queue { messages, .. } => messages == 0,
            Found::None => true,
            Found::Unsure => false,
        })
    }

    /// How much is in a queue, unless somebody has removed it. Of a quorum queue that has no leader, or an overloaded one, the
    /// broker says after a quarter of a second that it is empty and nobody consumes it: that is no answer.
    pub(super) async fn count(&mut self, queue: &str) -> Result<Found, LinkError> {
        let asked = Instant::now();
        Ok(match self.look_at(queue).await? {
            Some(found)
                if found.message_count() == 0 && found.consumer_count() == 0 && asked.elapsed() >= NO_ANSWER =>
            {
                Found::Unsure
            }
            Some(found) => Found::Queue { messages: found.message_count(), consumers: found.consumer_count() },
            None => Found::None,
        })
    }

    /// A queue, unless somebody has removed it.
    pub(super) async fn look_at(&mut self, queue: &str) -> Result<Option<Queue>, LinkError> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = self.declaring.queue_declare(queue.into(), passive, FieldTable::default());
        match self.patiently(found, None::<()>).await? {
            Ok(found) => Ok(Some(found)),
            Err(error) if is(&error, AMQPSoftError::NOTFOUND) => {
                self.declaring = self.connection.create_channel().await?;
                Ok(None)
            }
            Err(source) if is_soft(&source) => {
                self.declaring = self.connection.create_channel().await?;
                Err(LinkError::Forbidden { queue: queue.to_owned(), source })
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        self.transport.links.fetch_sub(1, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

fn typed(queue_type: QueueType) -> FieldTable {
    let name = match queue_type {
        QueueType::Quorum => "quorum",
        QueueType::Classic => "classic",
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(name.into()));
    arguments
}

/// Of a queue of what must not get lost: it refuses what it has no room for, and what is rejected dead-letters.
fn holding(queue_type: QueueType, kind: Kind, most: usize) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = typed(queue_type);
    arguments.insert("x-dead-letter-exchange".into(), text(DEAD_LETTERS));
    arguments.insert("x-dead-letter-routing-key".into(), text(kind.as_str()));
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(i64::try_from(most).unwrap_or(i64::MAX)));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    match queue_type {
        QueueType::Quorum => {
            arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(BACKSTOP));
            arguments.insert("x-consumer-timeout".into(), millis(LONGEST));
        }
        QueueType::Classic => {
            arguments.insert("x-max-priority".into(), AMQPValue::LongInt(MAX_PRIORITY.into()));
        }
    }
    arguments
}

/// What has become of an attempt to consume a queue.
pub(super) fn consumed(queue: &str, result: lapin::Result<()>) -> Result<(), LinkError> {
    result.map_err(|source| {
        if is_soft(&source) { LinkError::Forbidden { queue: queue.to_owned(), source } } else { source.into() }
    })
}

/// Has the broker refused it for this reason?
fn is(error: &lapin::Error, reason: AMQPSoftError) -> bool {
    let expected = AMQPErrorKind::Soft(reason);
    matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == expected)
}

/// Has it closed the channel, and not the connection?
fn is_soft(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if matches!(error.kind(), AMQPErrorKind::Soft(_)))
}

/// The name of the queue of a mailbox.
pub(super) fn mailbox_queue(mailbox: &Mailbox) -> String {
    let agents = format!("mailbox.{}.{}", mailbox.namespace, mailbox.agent);
    mailbox.instance.map_or_else(|| agents.clone(), |instance| format!("{agents}.{instance}"))
}

/// The name of a work queue. A name of a namespace, type or capability has at most 128 bytes; where both are that long, the
/// name of the queue, of which the broker takes 255, has a fingerprint for its end.
pub(super) fn work_queue(key: &QueueKey) -> String {
    const MOST: usize = 255;
    let namespace = &key.namespace;
    let name = match &key.target {
        Target::AgentType(name) => format!("tasks.{namespace}.type.{name}"),
        Target::Capability(name) => format!("tasks.{namespace}.capability.{name}"),
        Target::Agent(id) => format!("tasks.{namespace}.agent.{id}"),
    };
    if name.len() <= MOST {
        return name;
    }
    // FNV-1a: the same in every process and version.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let fingerprint = name.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    format!("{}-{fingerprint:016x}", &name[..MOST - 17])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_none_is_told_without_its_password() {
        for url in ["troupe:hush@rabbitmq/hush", "amqp://troupe:hush@rabbitmq:port/", "hush://troupe:hush@h", "hush"] {
            let error = address(url).unwrap_err();
            let told = format!("{} {error:?}", errors::chain(&error));
            assert!(!told.contains("hush"), "{told}");
        }
    }

    #[test]
    fn the_longest_names_make_names_of_queues_that_differ() {
        let key = |last: char| QueueKey {
            namespace: "n".repeat(128).parse().unwrap(),
            target: Target::Capability(format!("{}{last}", "c".repeat(127)).into()),
        };
        let (one, other) = (work_queue(&key('1')), work_queue(&key('2')));
        assert!(one.len() <= 255 && one != other, "{one} {other}");
    }
}
