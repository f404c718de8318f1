//! An agent of one's own: it greets, in the language that it is configured for. Run it against `troupe dev`; see the README.

use std::time::Duration;

use agent_sdk::{Agent, Failure, Outgoing, Server, Task};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Guest {
    name: String,
    language: String,
}

/// A failure that is not retryable ends the step at once; the workflow's `on_failure` says what then.
async fn greet(task: Task) -> Result<serde_json::Value, Failure> {
    let guest: Guest = task.input()?;
    let word = match guest.language.as_str() {
        "en" => "Hello",
        "es" => "Hola",
        "fr" => "Bonjour",
        "sw" => "Jambo",
        other => return Err(Failure::fatal("unknown_language", format!("no greeting in {other:?}"))),
    };
    Ok(json!({ "greeting": format!("{word}, {}!", guest.name) }))
}

/// Long work: it shows how far it is, and a cancelled step drops it at the next `await`.
async fn set_table(task: Task) -> Result<serde_json::Value, Failure> {
    #[derive(Deserialize)]
    struct Table {
        seats: u32,
    }
    let table: Table = task.input()?;
    for seat in 1..=table.seats {
        tokio::time::sleep(Duration::from_millis(20)).await;
        task.heartbeat();
        task.progress(&json!({ "seat": seat, "of": table.seats }));
    }
    Ok(json!({ "seats": table.seats }))
}

#[tokio::main]
async fn main() -> Result<(), agent_sdk::Error> {
    let server = match std::env::args().nth(1) {
        Some(address) => Server::at(address),
        None => Server::from_env()?,
    };
    println!("greeter-1 works for {}; Ctrl-C stops it", server.address());
    Agent::builder("greeter")
        .name("greeter-1")
        .capability("greet")
        .max_in_flight(8)
        .action("greet", greet)
        .action("set_table", set_table)
        .on_message(|context, message| async move {
            println!(
                "message {} from {:?}: {}",
                message.id,
                message.sender,
                String::from_utf8_lossy(message.payload_bytes())
            );
            if let Some(reply) = Outgoing::reply(&message, br#"{"thanks": true}"#.to_vec().into()) {
                context.send(reply).await.map_err(Failure::from)?;
            }
            Ok(())
        })
        .connect(server)
        .run()
        .await
}
