//! What docs/reliability.md says.

use std::{collections::BTreeMap, path::Path};

use super::{Mail, Times, fault::Fault};
use crate::{kill::driver::Accepted, sections};

/// Writes it.
pub(super) fn write(path: &Path, done: &BTreeMap<Fault, Times>, cut: (usize, usize), accepted: &Accepted, mail: &Mail) {
    let row = |(fault, Times { done, executions, messages, refusals }): (&Fault, &Times)| {
        let refusals: Vec<_> = refusals.iter().map(|(how, times)| format!("{times} {how}")).collect();
        let refusals = if refusals.is_empty() { "nothing".to_owned() } else { refusals.join(", ") };
        format!(
            "| {fault} | {done} | {executions} executions, {messages} messages: nothing lost, nothing twice | {refusals} |"
        )
    };
    let rows: Vec<_> = done.iter().map(row).collect();
    let refusals: Vec<_> = accepted.refusals.iter().map(|(how, times)| format!("| {how} | {times} |")).collect();
    let text = format!(
        "## Faults\n\n\
         Written by `make test-faults`: a cluster of two processes of each service on PostgreSQL, RabbitMQ and Redis, with a lease\n\
         of 2 s, under load (executions with retries, signals, fan-out, decisions, timeouts and undos, and messages to agents), while\n\
         these things were done to it at random moments.\n\n\
         | fault | times | checked after it | instead of answers clients saw |\n| --- | ---: | --- | --- |\n{}\n\n\
         Of the {} connections between two processes, or a process and a server, {} were cut or silenced. After each fault everything\n\
         that had been accepted by then was looked at, under load. All {} executions that were accepted ended as they must with the right output, each result once in its log, and\n\
         every log replays to what memory says; the sweeper found nothing that would not have been woken.\n\n\
         Each message says what its agent is to do with it: acknowledge it, at once or when it has been given back once or twice,\n\
         reject it, give it back for ever, or let its session die with everything that it has in hand, which happened {} times.\n\
         All {} messages that were accepted ended as they must, each once in its history: {} were acknowledged; {} were rejected and\n\
         {} given back until their deliveries were used up, and each of these is one dead letter, for that reason. {} times a\n\
         message came again that had come to the agent before.\n\n\
         ### What clients saw\n\n\
         Clients call both gateways in turn and try again under the same `Idempotency-Key`. Besides answers they got only what is\n\
         promised:\n\n\
         | instead of an answer | times |\n| --- | ---: |\n{}\n",
        rows.join("\n"),
        cut.1,
        cut.0,
        accepted.executions.len(),
        mail.deaths,
        accepted.messages.len(),
        mail.dealt.acknowledged,
        mail.dealt.dead("rejected"),
        mail.dealt.dead("delivery_limit"),
        mail.again,
        refusals.join("\n"),
    );
    sections::write(path, "faults", &text);
}
