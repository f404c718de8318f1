use super::*;

fn fan(items: Value, extra: Value) -> Stage {
    let mut step = json!({ "id": "a", "agent_type": "x", "for_each": "${{ input.items }}", "max_parallel": 2,
                           "input": { "item": "${{ item }}", "index": "${{ index }}" } });
    for (key, value) in extra.as_object().unwrap() {
        step[key] = value.clone();
    }
    let definition = json!({ "name": "w", "steps": [step], "output": "${{ steps.a.output }}" });
    Stage::of(definition, json!({ "items": items }))
}

#[test]
fn every_item_is_an_instance_and_the_output_is_in_order() {
    let mut stage = fan(json!(["p", "q", "r"]), json!({}));
    assert_eq!(
        (stage.out(), stage.input("a[1]/1")),
        (vec!["a[0]/1".into(), "a[1]/1".into()], json!({ "item": "q", "index": 1 }))
    );
    stage.complete("a[1]/1");
    stage.complete("a[2]/1");
    stage.complete("a[0]/1");
    assert_eq!(stage.output(), json!(["a[0]/1", "a[1]/1", "a[2]/1"]));
    assert_eq!(stage.execution.steps()[0].instances.len(), 3);
}

#[test]
fn no_items_complete_at_once_with_an_empty_list() {
    let stage = fan(json!([]), json!({}));
    assert_eq!((stage.status(), stage.output()), (Status::Completed, json!([])));
}

#[test]
fn a_failed_instance_fails_the_step_and_cancels_the_others() {
    let mut stage = fan(json!([1, 2, 3]), json!({}));
    stage.fail("a[1]/1");
    assert_eq!((stage.status(), stage.withdrawn()), (Status::Failed, vec!["a[0]/1".into()]));
    let states: Vec<_> = stage.execution.steps()[0].instances.iter().map(|instance| instance.state).collect();
    assert_eq!(states, [StepState::Cancelled, StepState::Failed, StepState::Cancelled]);
}

#[test]
fn on_failure_of_a_fan_out_is_that_of_the_whole_step() {
    let mut stage = fan(json!([1, 2, 3]), json!({ "on_failure": { "fallback": "none" } }));
    stage.fail("a[0]/1");
    assert_eq!((stage.output(), stage.withdrawn()), (json!("none"), vec!["a[1]/1".into()]));
}

#[test]
fn what_is_no_list_fails_the_step() {
    assert_eq!(fan(json!({ "a": 1 }), json!({})).failure(), ("expression", Some("a")));
}

#[test]
fn a_retry_of_the_execution_keeps_the_instances_that_completed() {
    let mut stage = fan(json!([1, 2, 3]), json!({}));
    stage.complete("a[0]/1");
    stage.fail("a[1]/1");
    stage.say(Command::Retry { lost: None });
    assert_eq!(stage.out(), ["a[1]/2", "a[2]/2"]);
    stage.complete("a[1]/2");
    stage.complete("a[2]/2");
    assert_eq!(stage.output(), json!(["a[0]/1", "a[1]/2", "a[2]/2"]));
}
