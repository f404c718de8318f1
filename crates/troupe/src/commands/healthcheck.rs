//! `troupe healthcheck`: is a process ready? For images, which need no other tool for it.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail, ensure};
use lifecycle::{Shutdown, Tasks};
use rpc::{Caller, Replicas};
use settings::Settings as _;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::Outcome;
use crate::{output::Output, serve};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Options of `troupe healthcheck`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ask the gRPC port at this address, instead of `/health/ready` under --url
    #[arg(long, value_name = "HOST:PORT")]
    grpc: Option<Replicas>,
    /// A TOML file whose table `serve` names the certificates, where gRPC wants some
    #[arg(long, env = "TROUPE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, url: &str, output: &Output) -> Outcome {
    let asked = async {
        match &args.grpc {
            Some(replicas) => ask_grpc(&args, replicas).await,
            None => ask_http(url).await,
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.with_context(|| format!("no answer within {PATIENCE:?}"))??;
    output.line("ready")?;
    Ok(ExitCode::SUCCESS)
}

async fn ask_http(url: &str) -> anyhow::Result<()> {
    let answer = reqwest::get(format!("{}/health/ready", url.trim_end_matches('/'))).await?;
    let status = answer.status();
    ensure!(status.is_success(), "{url} is not ready ({status}): {}", answer.text().await?);
    Ok(())
}

async fn ask_grpc(args: &Args, replicas: &Replicas) -> anyhow::Result<()> {
    let tls = serve::Settings::load(args.config.as_deref())?.tls()?;
    let caller = Caller::new(Tasks::new(Shutdown::new())).with_tls(tls);
    let mut client = HealthClient::new(caller.connect("health", replicas)?);
    let answer = client.check(HealthCheckRequest::default()).await?.into_inner();
    if answer.status() != ServingStatus::Serving {
        bail!("it is {}", answer.status().as_str_name());
    }
    Ok(())
}
