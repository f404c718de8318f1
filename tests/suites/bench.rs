//! `troupe bench`: every workload comes to right answers, and what it tells of the server is there.

use serde_json::Value;
use testkit::{Cluster, Output, Server, Setup, troupe};

/// The reports of one run.
async fn bench(url: &str, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["bench", "--json"], arguments].concat();
    let Output { code, stdout, stderr } = troupe(url, &arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}\n{stdout}\n{stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

async fn bench_server(server: &Server, arguments: &[&str]) -> Vec<Value> {
    bench(&server.url(), &[&["--grpc", &server.grpc_url()], arguments].concat()).await
}

/// A line of the cost sheet.
fn cost<'a>(report: &'a Value, item: &str) -> &'a Value {
    let items = report["cost"]["items"].as_array().unwrap_or_else(|| panic!("it has no costs: {report:#}"));
    let found = items.iter().find(|found| found["item"] == item);
    found.unwrap_or_else(|| panic!("no {item}: {report:#}"))
}

#[tokio::test]
async fn what_a_run_costs_is_told_per_run_and_per_step() {
    let server = Server::start().await;
    let reports = bench_server(&server, &["chain3", "message", "--runs", "50", "--concurrency", "5", "--cost"]).await;
    let [chain, message] = &reports[..] else { panic!("{reports:#?}") };
    // Accepted, three times scheduled and completed, completed.
    assert_eq!(cost(chain, "events")["per_run"], 8.0, "{chain:#}");
    assert_eq!(cost(chain, "hand_overs")["per_step"], 1.0, "{chain:#}");
    for item in ["server_cpu_us", "engine_us", "client_cpu_us", "transactions", "frames"] {
        assert!(cost(chain, item)["total"].as_f64().is_some_and(|total| total >= 0.0), "{item}: {chain:#}");
    }
    #[cfg(target_os = "linux")]
    assert!(cost(chain, "written_bytes")["total"].is_number(), "{chain:#}");
    assert_eq!(cost(message, "hand_overs")["per_run"], 1.0, "{message:#}");
    assert!(cost(message, "transactions")["per_step"].is_null(), "{message:#}");
}

#[tokio::test]
async fn what_waits_is_started_weighed_and_completed_unless_it_is_to_be_kept() {
    let server = Server::start().await;
    let api = server.api();
    let waiting = ["waiting", "--runs", "40", "--concurrency", "4"];
    let reports = bench_server(&server, &waiting).await;
    assert!(reports[0]["memory"]["after_bytes"].as_f64().is_some_and(|bytes| bytes > 1e6), "{reports:#?}");
    assert!(reports[0]["all_completed_ms"].is_number(), "{reports:#?}");
    let running = async || {
        let request = api.request(reqwest::Method::GET, "/api/v1/executions?status=running&limit=500");
        let answer = api.send(request.header("X-Namespace", "bench")).await.expect("the server answers").expect(200);
        answer["items"].as_array().expect("a list").len()
    };
    assert_eq!(running().await, 0);
    bench_server(&server, &[&waiting[..], &["--keep"]].concat()).await;
    assert_eq!(running().await, 40);
}

#[tokio::test]
async fn a_definition_of_ten_thousand_steps_fits_and_comes_to_the_right_output() {
    let server = Server::start().await;
    let reports = bench_server(&server, &["dag10k", "--runs", "1", "--warmup", "0"]).await;
    assert_eq!((&reports[0]["steps"], &reports[0]["errors"]), (&10_000.into(), &0.into()), "{reports:#?}");
    assert!(cost(&reports[0], "engine_us")["per_step"].is_number(), "{reports:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_of_twenty_kinds_do_the_load_of_one_on_a_server_and_in_a_cluster() {
    let kinds = ["kinds20", "--runs", "60", "--agents", "25", "--concurrency", "10"];
    let server = Server::start().await;
    let of_server = bench_server(&server, &kinds).await;
    let cluster = Cluster::start(Setup::default()).await;
    let settings = cluster.settings("gateway-1");
    let settings = settings.to_str().expect("a path of the tests is text");
    let gateway = cluster.url();
    let arguments = [&kinds[..], &["--config", settings, "--cost", "--metrics", &gateway]].concat();
    let of_cluster = bench(&gateway, &arguments).await;
    for reports in [of_server, of_cluster] {
        let [one, many] = &reports[..] else { panic!("{reports:#?}") };
        assert_eq!((&one["workload"], &many["workload"]), (&"kinds1".into(), &"kinds20".into()));
        assert!(many["against_one_kind"].as_f64().is_some_and(|ratio| ratio > 0.0), "{many:#}");
    }
}

#[tokio::test]
async fn requests_to_the_gateway_begin_when_they_are_due() {
    let server = Server::start().await;
    let requests = ["get-agent", "post-message", "--runs", "100", "--rate", "200", "--warmup", "1", "--cost"];
    let reports = bench_server(&server, &requests).await;
    let [get, post] = &reports[..] else { panic!("{reports:#?}") };
    for (report, name) in [(get, "get-agent"), (post, "post-message")] {
        assert_eq!((&report["workload"], &report["errors"]), (&name.into(), &0.into()), "{report:#}");
        // The last is due 99 times 5 ms after the first.
        assert!(report["elapsed_ms"].as_f64().is_some_and(|elapsed| elapsed >= 495.0), "{report:#}");
    }
    assert_eq!(cost(post, "hand_overs")["total"].as_f64().map(|total| total > 0.0), Some(true), "{post:#}");
}

#[tokio::test]
async fn metrics_that_cannot_be_read_are_told_of() {
    let server = Server::start().await;
    let grpc = server.grpc_url();
    let said = troupe("http://127.0.0.1:1", &["bench", "--grpc", &grpc, "chain3", "--runs", "1", "--cost"]).await;
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("--metrics"), "{}", said.stderr);
}
