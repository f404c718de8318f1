//! The closed loop of `troupe bench`: a fixed number of calls out at once, each begins when one ends, each is timed and checked.

use std::{
    cell::Cell,
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Uri, header::CONTENT_TYPE};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

use crate::service::WIDTH;

/// How long a call may take before it counts as an error, as in `troupe bench`.
const WAIT: Duration = Duration::from_mins(1);

/// Options of `load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_enum)]
    workload: Workload,
    /// Restate's ingress
    #[arg(long, value_name = "URL")]
    ingress: String,
    /// How many calls to measure
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// How many are out at once
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
    /// How many to do before measuring; a tenth of the runs where nothing is said, at least one
    #[arg(long)]
    warmup: Option<u64>,
    /// One kept connection of HTTP/1.1 for each call that is out, instead of one connection of HTTP/2 for all
    #[arg(long)]
    http1: bool,
    /// Print a document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Workload {
    /// 3 sequential durable steps within one handler, with a payload of 200 bytes
    Chain3Run,
    /// 3 sequential calls of another handler, with a payload of 200 bytes
    Chain3Call,
    /// 100 parallel calls of another handler and one that joins them
    Fan100Call,
}

impl Workload {
    const fn name(self) -> &'static str {
        match self {
            Self::Chain3Run => "chain3-run",
            Self::Chain3Call => "chain3-call",
            Self::Fan100Call => "fan100-call",
        }
    }

    const fn steps(self) -> usize {
        match self {
            Self::Chain3Run | Self::Chain3Call => 3,
            Self::Fan100Call => WIDTH + 1,
        }
    }

    /// What goes in, and what must come out.
    fn case(self) -> (Bytes, Value) {
        match self {
            Self::Chain3Run | Self::Chain3Call => {
                // 200 bytes with the quotes around them and the field's name.
                let input = json!({ "payload": "x".repeat(186) });
                (Bytes::from(input.to_string()), input)
            }
            Self::Fan100Call => (Bytes::new(), (0..WIDTH).collect::<Vec<_>>().into()),
        }
    }
}

/// Calls one handler through the ingress.
struct Caller {
    http: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    input: Bytes,
    output: Value,
}

impl Caller {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new()).http2_only(!args.http1).build(connector);
        let uri = format!("{}/Peer/{}", args.ingress.trim_end_matches('/'), args.workload.name().replace('-', "_"));
        let uri = uri.parse().with_context(|| format!("{uri:?} is no address"))?;
        let (input, output) = args.workload.case();
        Ok(Self { http, uri, input, output })
    }

    /// One call, and its answer checked.
    async fn call(&self) -> Result<(), String> {
        let mut request = Request::builder().method(Method::POST).uri(self.uri.clone());
        if !self.input.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(self.input.clone())).map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self.http.request(request).await.map_err(|error| format!("{error:?}"))?;
            let status = answer.status();
            let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((status, body.to_bytes()))
        };
        let (status, body) = tokio::time::timeout(WAIT, exchange).await.map_err(|_| "no answer".to_owned())??;
        match serde_json::from_slice::<Value>(&body) {
            Ok(output) if status.is_success() && output == self.output => Ok(()),
            _ => Err(format!("{status}, and the wrong output {}", String::from_utf8_lossy(&body))),
        }
    }

    /// Calls until `count` calls have ended, on one task as `troupe bench` does.
    async fn drive(&self, count: u64, concurrency: u32) -> anyhow::Result<Measured> {
        let begun_of = Cell::new(0_u64);
        let client = || async {
            let mut own = Measured::nothing()?;
            while begun_of.get() < count {
                begun_of.set(begun_of.get() + 1);
                let called = Instant::now();
                own.record(self.call().await, called.elapsed())?;
            }
            anyhow::Ok(own)
        };
        let begun = Instant::now();
        let clients = u64::from(concurrency).min(count);
        let all = futures::future::try_join_all((0..clients).map(|_| client())).await?;
        let elapsed = begun.elapsed();
        let mut sum = all.into_iter().try_fold(Measured::nothing()?, Measured::plus)?;
        sum.elapsed = elapsed;
        Ok(sum)
    }
}

/// What was measured.
struct Measured {
    /// Of calls without error, in microseconds.
    latencies: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
    elapsed: Duration,
}

impl Measured {
    fn nothing() -> anyhow::Result<Self> {
        Ok(Self { latencies: Histogram::new(3)?, errors: 0, first_error: None, elapsed: Duration::ZERO })
    }

    fn record(&mut self, result: Result<(), String>, latency: Duration) -> anyhow::Result<()> {
        match result {
            Ok(()) => self.latencies.record(u64::try_from(latency.as_micros())?.max(1))?,
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert(error);
            }
        }
        Ok(())
    }

    fn plus(mut self, other: Self) -> anyhow::Result<Self> {
        self.latencies.add(&other.latencies)?;
        self.errors += other.errors;
        self.first_error = self.first_error.or(other.first_error);
        Ok(self)
    }

    /// As `troupe bench --json` has it.
    fn report(&self, args: &Args) -> Value {
        let quantile = |quantile: f64| self.latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        json!({
            "workload": args.workload.name(),
            "runs": args.runs,
            "concurrency": args.concurrency,
            "throughput": self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON),
            "steps": args.workload.steps(),
            "p50_ms": quantile(0.50),
            "p95_ms": quantile(0.95),
            "p99_ms": quantile(0.99),
            "errors": self.errors,
            "first_error": self.first_error,
        })
    }

    /// As `troupe bench` has it.
    fn text(&self, args: &Args) -> String {
        let report = self.report(args);
        let number = |name: &str| report[name].as_f64().unwrap_or(f64::NAN);
        let throughput = number("throughput");
        let mut text = format!(
            "{:<12} runs {:<7} concurrency {:<5} {throughput:>9.1}/s   p50 {:>8.2} ms   p95 {:>8.2} ms   p99 {:>8.2} ms   \
             errors {}\n         {:.0} steps/s",
            args.workload.name(),
            args.runs,
            args.concurrency,
            number("p50_ms"),
            number("p95_ms"),
            number("p99_ms"),
            self.errors,
            throughput * args.workload.steps() as f64,
        );
        if let Some(error) = &self.first_error {
            text += &format!("\n         first error: {error}");
        }
        text
    }
}

/// Warms up, measures, and tells; any error makes the exit code 1.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let caller = Caller::new(args)?;
    caller.drive(args.warmup.unwrap_or((args.runs / 10).max(1)), args.concurrency).await?;
    let measured = caller.drive(args.runs, args.concurrency).await?;
    let text = if args.json { json!([measured.report(args)]).to_string() } else { measured.text(args) };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(if measured.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
