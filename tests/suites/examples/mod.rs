//! The examples run as their READMEs say, through the command line, against the built binary.

mod earthquakes;

use serde_json::{Value, json};
use testkit::{Api, Cluster, Output, Server, Setup, TWO_OF_EACH, eventually, troupe};

/// A command that must end well; its standard output as JSON.
async fn run(url: &str, arguments: &[&str]) -> Value {
    let Output { code, stdout, stderr } = troupe(url, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}\n{stdout}\n{stderr}");
    serde_json::from_str(&stdout).unwrap_or(Value::Null)
}

/// The id of the newest execution.
async fn newest(api: &Api) -> String {
    let executions = api.get("/api/v1/executions?limit=1").await.expect(200);
    executions["items"][0]["id"].as_str().expect("there is an execution").to_owned()
}

#[tokio::test]
async fn the_earthquakes_are_reported_with_the_right_figures_and_approved_with_a_signal() {
    let server = Server::start().await;
    triage_earthquakes(&server.url()).await;
}

#[tokio::test]
async fn the_incident_is_retried_times_out_and_is_undone_in_reverse_order() {
    let server = Server::start().await;
    respond_to_incidents(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_the_examples_come_to_the_same() {
    let cluster = Cluster::start(Setup { size: TWO_OF_EACH, ..Setup::default() }).await;
    triage_earthquakes(&cluster.url()).await;
    respond_to_incidents(&cluster.url()).await;
    let settings = cluster.settings("gateway-1");
    let settings = settings.to_str().expect("a path of the tests is text");
    let bench = ["bench", "--config", settings, "--runs", "40", "--concurrency", "4", "--json"];
    let reports = run(&cluster.url(), &bench).await;
    assert!(reports.as_array().is_some_and(|reports| reports.len() == 3), "{reports:#}");
}

async fn triage_earthquakes(url: &str) {
    let api = Api::new(url.to_owned());
    run(url, &["apply", "-f", "examples/earthquake-triage"]).await;
    let input = "examples/earthquake-triage/input.json";
    run(url, &["run", "earthquake-triage", "--input", input]).await;
    let execution = newest(&api).await;
    eventually("the execution waits for its approval", || async {
        let explained = api.get(&format!("/api/v1/executions/{execution}/explain")).await.expect(200);
        if explained["waits"][0]["kind"] == "signal" { Ok(()) } else { Err(explained) }
    })
    .await;
    let approval = json!({ "approved": true, "by": "duty officer" });
    run(url, &["signal", &execution, "approval", "--payload", &approval.to_string()]).await;
    let ended = api.ended(&execution).await;
    assert_eq!(ended["status"], "completed", "{ended:#}");

    let expected = earthquakes::Expected::compute();
    let output = &ended["output"];
    assert_eq!(output["approval"], approval);
    assert_eq!(output["alerts"], json!(expected.alerts));
    for zone in &expected.zones {
        let found =
            output["zones"].as_array().expect("a list of zones").iter().find(|found| found["zone"] == zone.name);
        let found = found.unwrap_or_else(|| panic!("{} is missing: {output:#}", zone.name));
        assert_eq!(found["level"], zone.level, "{}", zone.name);
        assert!((found["max_magnitude"].as_f64().expect("a number") - zone.strongest).abs() < 1e-9, "{found}");
        assert!((found["felt"].as_f64().expect("a number") - zone.felt).abs() < 1e-9, "{found}");
        assert!((found["urgency"].as_f64().expect("a number") - zone.urgency).abs() < 1e-6, "{found}");
    }
    let report = output["report"].as_str().expect("a report");
    for line in expected.lines() {
        assert!(report.contains(&line), "{line:?} is not in\n{report}");
    }
}

async fn respond_to_incidents(url: &str) {
    let api = Api::new(url.to_owned());
    run(url, &["apply", "-f", "examples/incident-response/workflow.yaml"]).await;

    let unlocked = "examples/incident-response/input-unlocked.json";
    let done = troupe(url, &["run", "incident-response", "--input", unlocked, "--wait"]).await;
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    let output: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stdout));
    assert_eq!(output["restarted_at_attempt"], 3);
    assert_eq!(output["probe"], json!({ "healthy": "unknown" }));

    let locked = "examples/incident-response/input.json";
    let failed = troupe(url, &["run", "incident-response", "--input", locked, "--wait"]).await;
    assert_eq!(failed.code, Some(1), "{}{}", failed.stdout, failed.stderr);
    let execution = newest(&api).await;
    let ended = api.ended(&execution).await;
    assert_eq!(ended["failure"]["code"], "database_locked", "{ended:#}");
    let events = api.events(&execution).await;
    let undone =
        events.iter().filter(|event| event["type"] == "step_compensated").map(|event| event["data"]["step"].clone());
    assert_eq!(undone.collect::<Vec<_>>(), ["shift_traffic", "open_ticket"]);
    let timeouts = events.iter().filter(|event| event["data"]["failure"]["code"] == "timeout").count();
    assert_eq!(timeouts, 2, "{events:#?}");
}

#[tokio::test]
async fn an_agent_of_ones_own_connects_works_and_is_missed() {
    let server = Server::start().await;
    let api = server.api();
    run(&server.url(), &["apply", "-f", "examples/custom-agent/workflow.yaml"]).await;
    run(&server.url(), &["run", "welcome", "--input", "examples/custom-agent/input.json"]).await;
    let execution = newest(&api).await;
    eventually("the execution waits for the agent, visibly", || async {
        let explained = api.get(&format!("/api/v1/executions/{execution}/explain")).await.expect(200);
        if explained["waits"][0]["kind"] == "agent" { Ok(()) } else { Err(explained) }
    })
    .await;

    let agent = testkit::binary().with_file_name("custom-agent");
    let _agent = tokio::process::Command::new(agent)
        .arg(server.grpc_url())
        .kill_on_drop(true)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("the example is built by `make build`");
    let ended = api.ended(&execution).await;
    assert_eq!(ended["status"], "completed", "{ended:#}");
}
