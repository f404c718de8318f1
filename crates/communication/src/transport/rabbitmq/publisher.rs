//! To the broker: many messages and tasks are on their way at once, and each is with the broker when it confirms.
//!
//! A message that was not confirmed is published again, so it may be there twice; whoever consumes it sees that. A task that
//! was not is its dispatcher's again. The waves keep the order: what one leaves behind comes first in the next. Within one the
//! broker may refuse a message and take those behind it: [`outgoing`](super::outgoing) has what is done about that.
//!
//! While the broker blocks the connection, since it is short of memory or disk, nothing is published, and what is on its way
//! has all the time that it takes. It is the connection that consumes which acknowledges, so that the broker can get rid of
//! what it has.

use std::{collections::HashSet, future::Future, pin::pin, sync::Arc, time::Duration};

use lapin::{
    Confirmation, ConnectionStatus, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use lifecycle::crash_point;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    RabbitMq,
    link::{self, DEAD_LETTERS, LOOK, Link, LinkError},
    outgoing::{Item, Original},
    properties::{self, Identity},
};

/// Pause before what had no queue any more is tried again.
const AFTER_RETURN: Duration = Duration::from_millis(250);
/// Waves in a row that end their connections before their items go one by one.
const MOST_FAILED: u32 = 2;
/// How often an item that goes alone may end its connection before it is left out.
const MOST_FAILED_ALONE: u32 = 2;
/// Pauses between connections.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(3)];

/// Until `over` turns true.
pub(super) async fn run(transport: Arc<RabbitMq>, mut over: watch::Receiver<bool>) {
    let mut pause = PAUSES[0];
    let mut failures = Failures::default();
    loop {
        // Both arms are cancel-safe: what was not confirmed is still recorded as accepted, and is published by another life;
        // tasks are dispatched again.
        let ended = tokio::select! {
            ended = publish(&transport, &mut pause, &mut failures) => ended,
            _ = over.wait_for(|over| *over) => return,
        };
        transport.publish_no_tasks();
        if let Err(error) = ended {
            tracing::warn!(error = &error as &dyn std::error::Error, "messages wait: they cannot be published now");
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

/// How it went lately: some item may end the connection whenever it is published, as one that is too large for the broker.
#[derive(Debug, Default)]
struct Failures {
    /// Waves that have ended their connections, in a row.
    waves: u32,
    /// Items of them that go one by one.
    alone: usize,
    /// The one of these that has ended its connection, and how often.
    suspect: Option<(Identity, u32)>,
}

impl Failures {
    fn most(&self, window: usize) -> usize {
        if self.alone > 0 { 1 } else { window }
    }

    fn succeeded(&mut self) {
        self.suspect = None;
        self.alone = self.alone.saturating_sub(1);
        if self.alone == 0 {
            self.waves = 0;
        }
    }

    /// Is it the fault of the only one of the wave, as far as anybody can tell?
    fn failed(&mut self, wave: &[Item]) -> bool {
        if self.alone == 0 {
            self.waves += 1;
            self.alone = if self.waves >= MOST_FAILED { wave.len() } else { 0 };
            return false;
        }
        // Copies of dead letters are not told apart.
        let Some(one) = wave.first().and_then(Item::identity) else { return true };
        let times = self.suspect.take().filter(|(suspect, _)| *suspect == one).map_or(0, |(_, times)| times) + 1;
        self.suspect = Some((one, times));
        let is_culprit = times >= MOST_FAILED_ALONE;
        if is_culprit {
            self.succeeded();
        }
        is_culprit
    }
}

async fn publish(transport: &RabbitMq, pause: &mut Duration, failures: &mut Failures) -> Result<(), LinkError> {
    let mut link = Link::open(transport, "publishes").await?;
    link.declare_exchanges().await?;
    link.channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let status = link.connection_status();
    transport.doubt();
    transport.outgoing.begin_anew();
    let mut declared = HashSet::new();
    loop {
        unblocked(transport, &status).await?;
        let wave = transport.outgoing.next(failures.most(transport.settings.publish_window)).await;
        if status.blocked() {
            transport.outgoing.put_back(wave);
            continue;
        }
        crash_point("communication.rabbitmq.publish.before");
        let sent = in_time(transport, &status, &wave, send(&mut link, &mut declared, &wave)).await;
        let confirmed = match sent {
            Ok(confirmed) => confirmed,
            Err(error) => {
                if failures.failed(&wave) {
                    leave_out(transport, wave);
                } else {
                    transport.outgoing.put_back(wave);
                }
                return Err(error);
            }
        };
        crash_point("communication.rabbitmq.confirmed");
        *pause = PAUSES[0];
        failures.succeeded();
        if settle(transport, &mut declared, wave, confirmed) {
            sleep(AFTER_RETURN).await;
        }
    }
}

/// What ends the connection whenever it is published holds nothing else up: a message is left to the relay, which tries again
/// later and later, and a task is its dispatcher's again.
fn leave_out(transport: &RabbitMq, wave: Vec<Item>) {
    for item in wave {
        let what = item.identity();
        tracing::error!(?what, "something cannot be published: the connection ends whenever it is");
        transport.outgoing.cast_out(&item);
        transport.work.not_enqueued(&item.task().into_iter().collect::<Vec<_>>());
    }
}

/// Waits while the broker blocks the connection; then tasks may come.
async fn unblocked(transport: &RabbitMq, status: &ConnectionStatus) -> Result<(), LinkError> {
    if status.blocked() {
        tracing::warn!("RabbitMQ is short of memory or disk: messages wait until it takes them again");
        transport.publish_no_tasks();
        while status.blocked() {
            if !status.connected() {
                return Err(LinkError::Closed);
            }
            sleep(LOOK).await;
        }
    }
    transport.outgoing.open();
    Ok(())
}

/// What the broker answers, unless it is silent for too long. While it blocks the connection that does not count; only the
/// tasks of the wave are not left to wait for it.
async fn in_time<T>(
    transport: &RabbitMq,
    status: &ConnectionStatus,
    wave: &[Item],
    answer: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    let patience = transport.settings.timeout;
    let mut answer = pin!(answer);
    let (mut silent, mut blocked) = (Duration::ZERO, Duration::ZERO);
    loop {
        if let Ok(answered) = timeout(LOOK, &mut answer).await {
            return answered;
        }
        if status.blocked() {
            transport.publish_no_tasks();
            silent = Duration::ZERO;
            // Said once: whoever has them back ignores a confirmation that comes later.
            if blocked < patience && blocked + LOOK >= patience {
                transport.work.not_enqueued(&wave.iter().filter_map(Item::task).collect::<Vec<_>>());
            }
            blocked += LOOK;
        } else {
            silent += LOOK;
        }
        if silent >= patience {
            return Err(LinkError::Silent(patience));
        }
    }
}

/// How the broker took something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Confirmed {
    Taken,
    /// There is no such queue any more.
    Returned,
    /// There is no room, or no queue that we may use.
    Refused,
}

/// Publishes a wave and waits for the confirmation of all of it, in its order.
async fn send(link: &mut Link<'_>, declared: &mut HashSet<String>, wave: &[Item]) -> Result<Vec<Confirmed>, LinkError> {
    let mut confirms = Vec::with_capacity(wave.len());
    for item in wave {
        confirms.push(match send_one(link, declared, item).await {
            Ok(confirm) => Some(confirm),
            Err(error @ LinkError::Forbidden { .. }) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "something cannot be published");
                None
            }
            Err(error) => return Err(error),
        });
    }
    let mut confirmed = Vec::with_capacity(wave.len());
    // The library may hand a returned message to another's confirmation, so they are told apart by what is in them.
    let mut returned = HashSet::new();
    for confirm in confirms {
        let Some(confirm) = confirm else {
            confirmed.push(Confirmed::Refused);
            continue;
        };
        let confirmation = confirm.await?;
        confirmed.push(if confirmation.is_nack() { Confirmed::Refused } else { Confirmed::Taken });
        if let Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message)) = confirmation {
            returned.extend(properties::identity_of(&message.delivery.properties));
        }
    }
    if !returned.is_empty() {
        for (item, confirmed) in wave.iter().zip(&mut confirmed) {
            if item.identity().is_some_and(|identity| returned.contains(&identity)) {
                *confirmed = Confirmed::Returned;
            }
        }
    }
    Ok(confirmed)
}

async fn send_one(
    link: &mut Link<'_>,
    declared: &mut HashSet<String>,
    item: &Item,
) -> Result<PublisherConfirm, LinkError> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (exchange, key, payload, properties) = match item {
        Item::Message { envelope, life, .. } => {
            let queue = link::mailbox_queue(&envelope.message.mailbox());
            if !declared.contains(&queue) {
                link.declare_mailbox(&envelope.message.mailbox(), envelope.sequence).await?;
                declared.insert(queue.clone());
            }
            let properties = properties::of_message(envelope, *life, link.now());
            ("", queue, &envelope.message.payload, properties)
        }
        Item::Task(parcel) => {
            let queue = link::work_queue(&parcel.queue());
            if !declared.contains(&queue) {
                link.declare_work_queue(&parcel.queue()).await?;
                declared.insert(queue.clone());
            }
            ("", queue, &parcel.task.input, properties::of_parcel(parcel, link.now()))
        }
        Item::Letter { letter, original } => {
            let properties = properties::of_letter(letter, original, &queue_of(original));
            (DEAD_LETTERS, letter.kind.as_str().to_owned(), &letter.payload, properties)
        }
    };
    Ok(link.channel.basic_publish(exchange.into(), key.into(), options, payload, properties).await?)
}

/// The queue in which something was.
fn queue_of(original: &Original) -> String {
    match original {
        Original::Message(envelope) => link::mailbox_queue(&envelope.message.mailbox()),
        Original::Task(task) => {
            link::work_queue(&crate::app::QueueKey { namespace: task.namespace.clone(), target: task.target.clone() })
        }
    }
}

/// True where something is to be tried again after a pause: what has no queue. Mailboxes that refuse hold up nobody else.
fn settle(transport: &RabbitMq, declared: &mut HashSet<String>, wave: Vec<Item>, confirmed: Vec<Confirmed>) -> bool {
    let (mut again, mut refused) = (Vec::new(), Vec::new());
    let (mut enqueued, mut not_enqueued) = (Vec::new(), Vec::new());
    for (item, confirmed) in wave.into_iter().zip(confirmed) {
        match (confirmed, &item) {
            (Confirmed::Taken, _) => {
                if let Item::Message { envelope, .. } = &item {
                    transport.queued(envelope);
                }
                enqueued.extend(item.task());
                transport.outgoing.done(&item);
            }
            (Confirmed::Returned, Item::Letter { .. }) => transport.outgoing.done(&item),
            (Confirmed::Returned, Item::Message { envelope, .. }) => {
                let mailbox = envelope.message.mailbox();
                declared.remove(&link::mailbox_queue(&mailbox));
                transport.outgoing.distrust(&mailbox);
                again.push(item);
            }
            (Confirmed::Returned, Item::Task(parcel)) => {
                declared.remove(&link::work_queue(&parcel.queue()));
                again.push(item);
            }
            (Confirmed::Refused, _) => {
                not_enqueued.extend(item.task());
                refused.extend(transport.outgoing.refused(item));
            }
        }
    }
    transport.work.enqueued(&enqueued);
    transport.work.not_enqueued(&not_enqueued);
    let is_left = !again.is_empty();
    if is_left {
        transport.outgoing.put_back(again);
    }
    transport.outgoing.hold_back(refused);
    is_left
}
