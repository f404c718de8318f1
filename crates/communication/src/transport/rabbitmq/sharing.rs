//! Replicas ask each other for agents: each says which queues are crowded there, and whoever has agents that wait for such
//! tasks answers how many it takes. So many then go through the queue.
//!
//! Nothing of this is kept, or confirmed: what gets lost is asked again soon.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use lapin::{
    BasicProperties, Consumer, ExchangeKind,
    message::Delivery as Arrival,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    RabbitMq,
    link::{Link, LinkError},
    properties,
};

/// Where everybody hears which queues are crowded.
const CROWDED: &str = "crowded";
/// How often that is said.
const EVERY: Duration = Duration::from_millis(50);
/// Pause between connections.
const PAUSE: Duration = Duration::from_millis(500);
/// What waits to be read by a replica; beyond, it loses the oldest.
const MOST_UNREAD: i64 = 10_000;

/// Until `over` turns true.
pub(super) async fn run(transport: Arc<RabbitMq>, mut over: watch::Receiver<bool>) {
    loop {
        let ended = tokio::select! {
            ended = share(&transport) => ended,
            // Nobody counts on an answer.
            _ = over.wait_for(|over| *over) => return,
        };
        if let Err(error) = ended {
            tracing::warn!(error = &error as &dyn std::error::Error, "replicas do not share tasks now");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn share(transport: &RabbitMq) -> Result<(), LinkError> {
    // Of its own: the broker may block it, which must not hold up what others of this replica say.
    let link = Link::open(transport, "shares tasks").await?;
    let (own, mut heard) = listen(&link).await?;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both arms are cancel-safe.
        tokio::select! {
            arrival = heard.next() => {
                let arrival = arrival.ok_or(LinkError::Closed)??;
                hear(transport, &link, &own, &arrival).await?;
            }
            _ = ticks.tick() => ask(transport, &link, &own).await?,
        }
    }
}

/// A queue of one's own, for what all hear and for answers; it goes with the connection.
async fn listen(link: &Link<'_>) -> Result<(ShortString, Consumer), LinkError> {
    let channel = &link.channel;
    let (exchange, none) = (ShortString::from(CROWDED), FieldTable::default);
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(exchange.clone(), ExchangeKind::Fanout, durable, none()).await?;
    let exclusive = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let mut arguments = none();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MOST_UNREAD));
    let own = channel.queue_declare("".into(), exclusive, arguments).await?.name().clone();
    channel.queue_bind(own.clone(), exchange, "".into(), QueueBindOptions::default(), none()).await?;
    let unacknowledged = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let heard = channel.basic_consume(own.clone(), "".into(), unacknowledged, none()).await?;
    Ok((own, heard))
}

async fn ask(transport: &RabbitMq, link: &Link<'_>, own: &ShortString) -> Result<(), LinkError> {
    for key in transport.work.next_questions() {
        say(link, CROWDED, "", properties::of_question(&key, own)).await?;
    }
    Ok(())
}

async fn hear(transport: &RabbitMq, link: &Link<'_>, own: &ShortString, arrival: &Arrival) -> Result<(), LinkError> {
    // Somebody else has put it there.
    let Some(key) = properties::queue_of(&arrival.properties) else { return Ok(()) };
    match arrival.properties.reply_to() {
        Some(asker) if asker != own => match transport.work.spare(&key) {
            0 => Ok(()),
            spare => say(link, "", asker.as_str(), properties::of_answer(&key, spare)).await,
        },
        Some(_) => Ok(()),
        None => {
            transport.work.offered(&key, properties::credit_of(&arrival.properties));
            Ok(())
        }
    }
}

async fn say(link: &Link<'_>, exchange: &str, to: &str, properties: BasicProperties) -> Result<(), LinkError> {
    let options = BasicPublishOptions::default();
    link.channel.basic_publish(exchange.into(), to.into(), options, b"", properties).await?;
    Ok(())
}
