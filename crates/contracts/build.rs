//! Generates the contracts from `proto/` without needing `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message as _;

const FILES: [&str; 10] = [
    "troupe/access/v1/denial.proto",
    "troupe/agent_runner/v1/agent_runner.proto",
    "troupe/communication/v1/credential.proto",
    "troupe/communication/v1/message.proto",
    "troupe/communication/v1/session.proto",
    "troupe/communication/v1/task.proto",
    "troupe/communication/v1/topic.proto",
    "troupe/orchestrator/v1/execution.proto",
    "troupe/orchestrator/v1/workflow.proto",
    "troupe/registry/v1/registry.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("troupe.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Payloads pass through unparsed; `Bytes` makes that a reference count instead of a copy.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
