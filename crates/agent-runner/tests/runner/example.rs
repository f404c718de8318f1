//! The agents' part of `examples/earthquake-triage`, on its real data: every step's input as the workflow has it, with the
//! expressions filled in by hand, gives the figures that its README states.

use std::path::Path;

use serde_json::{Value, json};

use super::{World, agent};

fn example(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/earthquake-triage").join(file);
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A step's input with every text that is one of the expressions replaced.
fn input(workflow: &Value, step: &str, values: &[(String, Value)]) -> Value {
    fn fill(value: &mut Value, values: &[(String, Value)]) {
        match value {
            Value::String(text) => {
                let filled = values.iter().find(|(expression, _)| *text == format!("${{{{ {expression} }}}}"));
                *value = match filled {
                    Some((_, filled)) => filled.clone(),
                    None => json!(text.replace("${{ input.threshold }}", "4.5")),
                };
            }
            Value::Array(list) => list.iter_mut().for_each(|element| fill(element, values)),
            Value::Object(fields) => fields.values_mut().for_each(|field| fill(field, values)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let steps = workflow["steps"].as_array().unwrap();
    let mut input = steps.iter().find(|found| found["id"] == step).unwrap()["input"].clone();
    fill(&mut input, values);
    input
}

async fn hosted_with_the_examples_voters() -> World {
    let mut world = World::start(|settings| {
        settings.files_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        settings.default_agents = true;
    })
    .await;
    let mut wanted: Vec<_> =
        ["coordinator", "data", "decision", "echo", "http"].map(|kind| (kind.to_owned(), true)).into();
    for voter in example("agents.yaml")["agents"].as_array().unwrap() {
        let name = voter["name"].as_str().unwrap();
        world.registry.upsert(agent(name, voter["agent_type"].as_str().unwrap(), &voter["config"]));
        wanted.push((name.to_owned(), true));
    }
    // Listed in the order of their ids, and the voters' ids are their names.
    wanted[5..].sort_unstable();
    let wanted: Vec<_> = wanted.iter().map(|(name, connected)| (name.as_str(), *connected)).collect();
    world.until_hosted(&wanted).await;
    world
}

#[tokio::test]
async fn the_earthquake_examples_agents_give_the_figures_of_its_readme() {
    let world = hosted_with_the_examples_voters().await;
    let workflow = example("workflow.yaml");
    let file = example("input.json")["file"].clone();
    let run = async |agent: &str, action: &str, input: Value| {
        world.run(&format!("agt_{agent}"), action, input).await.unwrap()
    };

    let loaded = run("data", "read_json", input(&workflow, "load", &[("input.file".to_owned(), file)])).await;
    assert_eq!(loaded["count"], 1679);
    let rows = [("steps.load.output.rows".to_owned(), loaded["rows"].clone())];
    let overview = run("coordinator", "summarise", input(&workflow, "overview", &rows)).await;
    assert_eq!(overview["figures"], json!({ "max_magnitude": 6.4, "median_magnitude": 1.2, "felt": 2885 }));
    let significant = run("data", "transform", input(&workflow, "significant", &rows)).await;
    assert_eq!(significant["count"], 85);

    let mut scores = Vec::new();
    for item in significant["rows"].as_array().unwrap() {
        scores.push(run("decision", "score", input(&workflow, "score", &[("item".to_owned(), item.clone())])).await);
    }
    let scored =
        run("data", "map", input(&workflow, "scored", &[("steps.score.output".to_owned(), json!(scores))])).await;
    let rows = [("steps.scored.output.rows".to_owned(), scored["rows"].clone())];
    let ranking = run("data", "transform", input(&workflow, "ranking", &rows)).await;
    let top: Vec<_> =
        ranking["rows"].as_array().unwrap().iter().map(|row| (row["id"].clone(), row["urgency"].clone())).collect();
    assert_eq!(top[0], (json!("us1000chhc"), json!(0.87872)));
    assert_eq!(top[4], (json!("us1000ce9r"), json!(0.513_333_333)));

    let mut known = vec![
        ("steps.overview.output".to_owned(), overview),
        ("steps.significant.output.count".to_owned(), significant["count"].clone()),
        ("steps.ranking.output.rows".to_owned(), ranking["rows"].clone()),
        ("input.threshold".to_owned(), json!(4.5)),
    ];
    for (zone, count, strongest, felt, votes) in [
        ("alaska", 1, 4.8, 1, ["green", "green", "green"]),
        ("pacific", 29, 6.0, 19, ["red", "yellow", "yellow"]),
        ("east_asia", 26, 6.4, 598, ["red", "red", "red"]),
        ("americas", 19, 5.7, 105, ["orange", "orange", "yellow"]),
        ("central_asia", 2, 6.1, 439, ["red", "orange", "orange"]),
        ("elsewhere", 8, 5.2, 0, ["yellow", "green", "yellow"]),
    ] {
        let facts =
            run("data", "transform", input(&workflow, &format!("facts_{zone}"), &rows)).await["rows"][0].clone();
        assert_eq!(
            (&facts["count"], &facts["max_magnitude"], &facts["felt"]),
            (&json!(count), &json!(strongest), &json!(felt)),
            "{zone}"
        );
        let question = json!({ "question": zone, "options": ["green", "yellow", "orange", "red"], "context": facts, "strategy": "majority" });
        for (voter, vote) in ["seismologist", "first-responder", "statistician"].into_iter().zip(votes) {
            assert_eq!(world.run(voter, "vote", question.clone()).await.unwrap()["choice"], vote, "{voter} on {zone}");
        }
        for (field, value) in facts.as_object().unwrap() {
            known.push((format!("steps.facts_{zone}.output.rows[0].{field}"), value.clone()));
        }
        let winner = votes.into_iter().max_by_key(|vote| votes.iter().filter(|other| other == &vote).count()).unwrap();
        known.push((format!("steps.alert_{zone}.output.winner"), json!(winner)));
    }
    let levels = run("coordinator", "summarise", input(&workflow, "levels", &known)).await;
    assert_eq!(levels["figures"], json!({ "alerts": 3, "events": 85 }));
    known.push(("steps.levels.output.figures.alerts".to_owned(), levels["figures"]["alerts"].clone()));
    let report =
        run("coordinator", "report", input(&workflow, "report", &known)).await["report"].as_str().unwrap().to_owned();
    for line in [
        "1679 earthquakes, 85 of magnitude 4.5 or more; the strongest had 6.4, the",
        "| East Asia | red | 26 | 6.4 | 598 | 0.879 |",
        "3 zones are on orange or red. The most urgent events:",
        "1. M 6.4, 22km NNE of Hualian, Taiwan (urgency 0.879)",
    ] {
        assert!(report.lines().any(|found| found == line), "{line:?} is not in\n{report}");
    }
}
