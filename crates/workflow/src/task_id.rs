//! Ids of tasks: what a task is, spelled out for whoever removes duplicates, and for people.

use std::fmt::Write as _;

use domain::ExecutionId;

use crate::{Plan, Purpose, TaskKey, Unit};

impl Plan {
    /// The deterministic id of a task: `execution/step[index]/attempt`, and `execution/step[index]/undo/attempt`; what runs in
    /// an inner frame has `@frame` behind the step, as in `execution/step[index]@7/attempt`. Step ids have none of `/`, `[` and
    /// `@`, so it reads back without doubt. Empty for a step that the plan does not have.
    pub fn task_id(&self, execution: ExecutionId, task: TaskKey) -> String {
        /// An execution id, the longest numbers, and the signs between.
        const BESIDE_STEP: usize = 76;
        let unit = task.unit;
        let Some(step) = self.steps.get(unit.step as usize) else { return String::new() };
        let mut id = String::with_capacity(step.id.len() + BESIDE_STEP);
        // Writing to a String cannot fail.
        let _ = write!(id, "{execution}");
        id.push('/');
        id.push_str(&step.id);
        if let Some(index) = unit.index {
            id.push('[');
            push_number(&mut id, index);
            id.push(']');
        }
        if unit.frame != 0 {
            id.push('@');
            push_number(&mut id, unit.frame);
        }
        id.push_str(match task.purpose {
            Purpose::Work => "/",
            Purpose::Undo => "/undo/",
        });
        push_number(&mut id, task.attempt);
        id
    }

    /// Reads an id that [`Plan::task_id`] made. No other text reads as a task: each has one id.
    pub fn parse_task_id(&self, id: &str) -> Option<(ExecutionId, TaskKey)> {
        let mut parts = id.split('/');
        let execution = parts.next()?.parse().ok()?;
        let unit = parts.next()?;
        let (purpose, attempt) = match (parts.next()?, parts.next(), parts.next()) {
            (attempt, None, _) => (Purpose::Work, attempt),
            ("undo", Some(attempt), None) => (Purpose::Undo, attempt),
            _ => return None,
        };
        let (unit, frame) = match unit.split_once('@') {
            Some((unit, frame)) => (unit, read_number(frame).filter(|frame| *frame != 0)?),
            None => (unit, 0),
        };
        let (step, index) = match unit.split_once('[') {
            Some((step, index)) => (step, Some(read_number(index.strip_suffix(']')?)?)),
            None => (unit, None),
        };
        let unit = Unit { frame, step: self.step(step)?, index };
        Some((execution, TaskKey { unit, purpose, attempt: read_number(attempt)? }))
    }
}

/// Decimal, without the machinery of formatting: task ids are made for every dispatch.
fn push_number(text: &mut String, number: u32) {
    if number >= 10 {
        push_number(text, number / 10);
    }
    text.push(char::from(b'0' + (number % 10) as u8));
}

/// Decimal digits without a sign or leading zeros.
fn read_number(text: &str) -> Option<u32> {
    let canonical = text == "0" || text.starts_with(|first: char| matches!(first, '1'..='9'));
    canonical.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Definition, Limits};

    fn plan() -> Plan {
        let json = br#"{"name": "w", "steps": [{"id": "a", "agent_type": "x"}, {"id": "undo", "agent_type": "x"}, {"id": "b-2.c_d", "agent_type": "x"}]}"#;
        Definition::parse(json, Limits::default()).unwrap().plan
    }

    #[test]
    fn task_ids_say_what_they_are_of() {
        let plan = plan();
        let execution = ExecutionId::from_parts(1, 1);
        let task = Unit { frame: 0, step: 2, index: Some(30) }.task(Purpose::Work, 1);
        assert_eq!(plan.task_id(execution, task), format!("{execution}/b-2.c_d[30]/1"));
        let inner = Unit { frame: 17, step: 2, index: Some(30) }.task(Purpose::Work, 1);
        assert_eq!(plan.task_id(execution, inner), format!("{execution}/b-2.c_d[30]@17/1"));
        let undo = Unit { frame: 0, step: 1, index: None }.task(Purpose::Undo, 12);
        assert_eq!(plan.task_id(execution, undo), format!("{execution}/undo/undo/12"));
    }

    #[test]
    fn other_texts_are_no_task_ids() {
        let plan = plan();
        let execution = ExecutionId::from_parts(1, 1);
        for wrong in [
            "",
            "/",
            "a",
            "a/1/",
            "a/01",
            "a/+1",
            "a/",
            "none/1",
            "a[1/1",
            "a[]/1",
            "a[01]/1",
            "a/redo/1",
            "a/undo/1/2",
            "a/99999999999",
            "a@0/1",
            "a@/1",
            "a@1[1]/1",
        ] {
            assert_eq!(plan.parse_task_id(&format!("{execution}/{wrong}")), None, "{wrong}");
        }
        assert_eq!(plan.parse_task_id("a/1"), None);
    }

    proptest! {
        #[test]
        fn task_ids_read_back(millis in 0..1_u64 << 48, random: u128, frame: u32, step in 0..3_u32, index: Option<u32>, undo: bool, attempt: u32) {
            let plan = plan();
            let execution = ExecutionId::from_parts(millis, random);
            let purpose = if undo { Purpose::Undo } else { Purpose::Work };
            let task = Unit { frame, step, index }.task(purpose, attempt);
            prop_assert_eq!(plan.parse_task_id(&plan.task_id(execution, task)), Some((execution, task)));
        }

        #[test]
        fn only_what_a_task_id_was_made_of_reads(text in "exe_0{26}/(a|undo)(\\[[0-9]{1,3}\\])?(@[0-9]{1,3})?/(undo/)?[0-9]{1,3}") {
            let plan = plan();
            if let Some((execution, task)) = plan.parse_task_id(&text) {
                prop_assert_eq!(plan.task_id(execution, task), text);
            }
        }
    }
}
