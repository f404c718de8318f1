//! What anybody may write where a word of ours belongs.

use allocation_counter::measure;
use domain::{AgentId, ExecutionId, Namespace, Payload, Timestamp, Topic, TopicPattern, WorkflowId, check_name};
use proptest::prelude::*;
use testkit::fuzz::{cases, damaged, json, nearly, text};

/// What a refusal may cost besides, in bytes: its words.
const REFUSAL: u64 = 2_048;

/// Does it, and answers with what it has asked for at the most, in bytes.
fn most(work: impl FnOnce()) -> u64 {
    measure(work).bytes_max
}

fn any_id() -> impl Strategy<Value = String> {
    let valid = ("(agt|exe|wf|msg)", "[0-9a-zA-Z]{26}").prop_map(|(prefix, rest)| format!("{prefix}_{rest}"));
    let ours = any::<(u64, u128)>().prop_map(|(millis, random)| AgentId::from_parts(millis, random).to_string());
    prop_oneof![text(), nearly(valid), nearly(ours)]
}

fn any_time() -> impl Strategy<Value = String> {
    let valid = (
        0..=9999_u32,
        0..=13_u32,
        0..=32_u32,
        0..=24_u32,
        0..=60_u32,
        0..=60_u32,
        "(\\.[0-9]{1,12})?",
        "(Z|z|[+-][0-2][0-9]:[0-6][0-9])",
    );
    let valid = valid.prop_map(|(year, month, day, hour, minute, second, part, zone)| {
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{part}{zone}")
    });
    prop_oneof![1 => text(), 2 => nearly(valid.clone()), 3 => valid]
}

fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (1..=128).contains(&text.len()) && text.as_bytes()[0].is_ascii_alphanumeric() && text.bytes().all(is_inner)
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn an_id_is_written_in_one_way(text in any_id()) {
        let agent = text.parse::<AgentId>().map(|id| id.to_string());
        let execution = text.parse::<ExecutionId>().map(|id| id.to_string());
        let workflow = text.parse::<WorkflowId>().map(|id| id.to_string());
        let kinds = [agent.as_deref() == Ok(text.as_str()), execution.as_deref() == Ok(text.as_str()), workflow.as_deref() == Ok(text.as_str())];
        prop_assert!([&agent, &execution, &workflow].iter().filter(|id| id.is_ok()).count() == kinds.iter().filter(|is| **is).count());
        for refused in [agent, execution, workflow].into_iter().filter_map(Result::err) {
            prop_assert!(refused.to_string().len() < 1_000, "a refusal is no longer than what it refuses may be");
        }
        prop_assert!(most(|| drop(text.parse::<AgentId>())) < REFUSAL);
    }

    #[test]
    fn a_time_reads_as_it_is_written(text in any_time()) {
        if let Ok(time) = text.parse::<Timestamp>() {
            prop_assert_eq!(time.to_string().parse(), Ok(time), "{}", time);
            prop_assert_eq!(text.trim(), &text);
            let (seconds, nanos) = time.to_seconds_and_nanos();
            prop_assert_eq!(Timestamp::from_seconds_and_nanos(seconds, nanos), Ok(time));
        }
        prop_assert!(most(|| _ = text.parse::<Timestamp>()) < REFUSAL);
    }

    #[test]
    fn a_time_of_a_message_can_be_written(seconds in prop_oneof![any::<i64>(), -70_000_000_000..300_000_000_000_i64], nanos: i32) {
        if let Ok(time) = Timestamp::from_seconds_and_nanos(seconds, nanos) {
            prop_assert_eq!(time.to_string().parse(), Ok(time), "{}", time);
        }
    }

    #[test]
    fn a_name_is_what_the_documents_say(text in prop_oneof![text(), nearly("[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")]) {
        prop_assert_eq!(check_name(&text).is_ok(), is_name(&text));
        if let Ok(namespace) = text.parse::<Namespace>() {
            prop_assert_eq!(namespace.as_str(), text.as_str());
        }
        if let Err(refused) = check_name(&text) {
            prop_assert!(refused.to_string().len() < 1_000);
        }
    }

    #[test]
    fn a_topic_reads_as_it_is_written_and_fits_itself(text in prop_oneof![text(), nearly("([A-Za-z0-9_*#-]{1,9}\\.){0,9}[a-z*#]{1,9}")]) {
        if let Ok(topic) = text.parse::<Topic>() {
            prop_assert_eq!(topic.as_str(), text.as_str());
            prop_assert!(text.parse::<TopicPattern>().unwrap().fits(&topic.words()));
            prop_assert!("#".parse::<TopicPattern>().unwrap().fits(&topic.words()));
        }
        let is_bounded = most(|| drop(text.parse::<TopicPattern>())) < 64 * 256 + 4 * text.len() as u64 + REFUSAL;
        prop_assert!(is_bounded);
    }

    #[test]
    fn a_payload_passes_through_as_it_came(bytes in prop_oneof![any::<Vec<u8>>(), damaged(json().prop_map(|value| value.to_string().into_bytes()))]) {
        if let Ok(payload) = Payload::from_slice(&bytes) {
            prop_assert_eq!(payload.as_bytes(), bytes.trim_ascii());
            let again = Payload::from_value(&payload.to_value());
            prop_assert_eq!(again.to_value(), payload.to_value());
        }
        prop_assert!(most(|| drop(Payload::from_slice(&bytes))) <= 4 * bytes.len() as u64 + REFUSAL);
    }
}
