//! Connections to RabbitMQ, and what is declared there.
//!
//! - `mailbox.<namespace>.<agent>`: a queue per mailbox, made on first use, with one active consumer, so that the order holds.
//! - `dlx`: where everything dead-letters to; `dlq.message` and `dlq.task` hold copies for those who watch the broker. The record
//!   in the database is what dead letters are listed, replayed and purged from.

use std::{sync::atomic::Ordering, time::Duration};

use domain::Timestamp;
use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::time::timeout;

use super::RabbitMq;
use crate::{
    app::{Kind, Mailbox},
    settings::QueueType,
};

/// The dead-letter exchange.
pub(super) const DEAD_LETTERS: &str = "dlx";
/// Copies that a dead-letter queue keeps; older ones make room.
const MOST_DEAD_LETTERS: i64 = 100_000;
/// The record counts deliveries. The broker counts more, as what was fetched and given back; this only ends what would go
/// round for ever.
const BACKSTOP: i64 = 1_000_000;

/// Why a connection has ended or cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the URL of RabbitMQ cannot be read")]
    Url(#[from] std::io::Error),
    #[error("RabbitMQ failed")]
    Broker(#[from] lapin::Error),
    #[error("RabbitMQ did not answer within {0:?}")]
    Silent(Duration),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("RabbitMQ has closed the channel")]
    Closed,
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
        let url = url.as_ref().map_or("", settings::Secret::reveal);
        let properties = ConnectionProperties::default().with_connection_name(format!("troupe {purpose}").into());
        let open = async {
            let connection = Connection::connect(url, properties).await?;
            let (channel, declaring) = (connection.create_channel().await?, connection.create_channel().await?);
            transport.links.fetch_add(1, Ordering::Relaxed);
            Ok(Self { transport, connection, channel, declaring })
        };
        timeout(settings.timeout, open).await.map_err(|_| LinkError::Silent(settings.timeout))?
    }

    pub(super) fn now(&self) -> Timestamp {
        self.transport.clock.now()
    }

    /// Makes the queue of a mailbox where there is none.
    pub(super) async fn declare_mailbox(&mut self, mailbox: &Mailbox) -> Result<(), LinkError> {
        let mailbox_limit = i64::try_from(self.transport.limits.messages).unwrap_or(i64::MAX);
        let mut arguments = self.arguments();
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(DEAD_LETTERS.into()));
        arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(Kind::Message.as_str().into()));
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(mailbox_limit));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        if self.transport.settings.queue_type == QueueType::Quorum {
            arguments.insert("x-dead-letter-strategy".into(), AMQPValue::LongString("at-least-once".into()));
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(BACKSTOP));
        }
        self.declare(&queue_of(mailbox), arguments).await
    }

    /// Makes the exchange and the queues of dead letters where there are none.
    pub(super) async fn declare_dead_letters(&mut self) -> Result<(), LinkError> {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let exchange = ShortString::from(DEAD_LETTERS);
        let none = FieldTable::default;
        self.declaring.exchange_declare(exchange.clone(), ExchangeKind::Direct, durable, none()).await?;
        for kind in Kind::ALL {
            let mut arguments = self.arguments();
            arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MOST_DEAD_LETTERS));
            let queue = format!("dlq.{}", kind.as_str());
            self.declare(&queue, arguments).await?;
            let bind = QueueBindOptions::default();
            self.declaring.queue_bind(queue.into(), exchange.clone(), kind.as_str().into(), bind, none()).await?;
        }
        Ok(())
    }

    fn arguments(&self) -> FieldTable {
        let queue_type = match self.transport.settings.queue_type {
            QueueType::Quorum => "quorum",
            QueueType::Classic => "classic",
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(queue_type.into()));
        arguments
    }

    /// A queue that was made with other settings is used as it is.
    async fn declare(&mut self, queue: &str, arguments: FieldTable) -> Result<(), LinkError> {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        // RabbitMQ fails where two make the same quorum queue at the same time.
        let alone = self.transport.declaring.lock().await;
        let declared = self.declaring.queue_declare(queue.into(), durable, arguments).await;
        drop(alone);
        match declared {
            Ok(_) => Ok(()),
            Err(error) if is_mismatch(&error) => {
                tracing::warn!(queue, "a queue was made with other settings, and is used as it is");
                self.declaring = self.connection.create_channel().await?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// How many messages wait in the queue of a mailbox, in nobody's hands.
    pub(super) async fn waiting(&self, mailbox: &Mailbox) -> Result<u32, LinkError> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = queue_of(mailbox).into();
        Ok(self.declaring.queue_declare(queue, passive, FieldTable::default()).await?.message_count())
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        self.transport.links.fetch_sub(1, Ordering::Relaxed);
    }
}

fn is_mismatch(error: &lapin::Error) -> bool {
    let expected = AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED);
    matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == expected)
}

/// The name of the queue of a mailbox.
pub(super) fn queue_of(mailbox: &Mailbox) -> String {
    format!("mailbox.{}.{}", mailbox.namespace, mailbox.agent)
}
