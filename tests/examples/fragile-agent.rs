//! An agent whose process ends on a certain input, until it is mended: `fragile-agent NAME [mended]`. For `suites/poison.rs`.

use std::time::Duration;

use agent_sdk::{Agent, Failure, Server, Task};
use serde_json::Value;

/// Long enough for what is held together to be lost together.
const WORK: Duration = Duration::from_millis(100);

async fn work(task: Task, mended: bool) -> Result<Value, Failure> {
    let input: Value = task.input()?;
    if input["poison"] == true && !mended {
        std::process::abort();
    }
    tokio::time::sleep(WORK).await;
    Ok(input)
}

#[tokio::main]
async fn main() -> Result<(), agent_sdk::Error> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().expect("the name is the first argument");
    let mended = arguments.next().is_some_and(|word| word == "mended");
    let agent = Agent::builder("fragile").name(name).action("work", move |task| work(task, mended));
    agent.connect(Server::from_env()?).run().await
}
