//! Executions of every kind, each with the end that it must come to whatever happens to the process meanwhile.

use serde_json::{Value, json};

/// What the driver does to an execution after it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing.
    Watch,
    /// Gives the signal `go`, with the execution's number as payload.
    Signal,
    /// Cancels it.
    Cancel,
    /// Pauses and resumes it.
    Pause,
}

/// One kind of execution.
pub(super) struct Kind {
    /// The workflow's name.
    pub(super) name: &'static str,
    /// The rest of its definition.
    definition: fn() -> Value,
    /// What the driver does next.
    pub(super) then: Then,
    /// The status at the end.
    pub(super) status: &'static str,
    /// The output at the end, of the execution with this number.
    pub(super) output: fn(u64) -> Value,
    /// Events that its log must have, each exactly so often.
    pub(super) events: &'static [(&'static str, usize)],
}

impl Kind {
    pub(super) fn definition(&self) -> Value {
        let mut definition = (self.definition)();
        definition["name"] = json!(self.name);
        definition
    }

    /// The input of the execution with this number.
    pub(super) fn input(number: u64) -> Value {
        json!({ "n": number, "items": (0..6).map(|item| number * 10 + item).collect::<Vec<_>>() })
    }
}

fn echo(id: &str, input: &Value) -> Value {
    json!({ "id": id, "agent_type": "echo", "action": "echo", "input": input })
}

fn fail(id: &str, until_attempt: Option<u32>) -> Value {
    let retryable = until_attempt.is_some();
    let mut input = json!({ "code": "broken", "message": "on purpose", "retryable": retryable });
    if let Some(attempt) = until_attempt {
        input["until_attempt"] = json!(attempt);
    }
    let retry = json!({ "max_attempts": 50, "initial_interval": "20ms", "backoff": 1.0 });
    json!({ "id": id, "agent_type": "echo", "action": "fail", "input": input, "retry": retry })
}

/// A step that takes for ever, and says every half second that it lives.
fn slow(limit: &str) -> Value {
    let retry = json!({ "max_attempts": 2, "initial_interval": "20ms" });
    let mut slow =
        json!({ "id": "slow", "agent_type": "echo", "action": "sleep", "input": { "ms": 600_000 }, "retry": retry });
    slow[limit] = json!("150ms");
    slow["on_failure"] = json!({ "fallback": "${{ input.n }}" });
    json!({ "steps": [slow], "output": "${{ steps.slow.output }}" })
}

const fn nothing(_: u64) -> Value {
    Value::Null
}

/// All of them.
pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "chain",
        definition: || {
            let first = echo("a", &json!({ "n": "${{ input.n }}" }));
            let second = echo("b", &json!({ "n": "${{ steps.a.output.n }}" }));
            let third = echo("c", &json!({ "n": "${{ steps.b.output.n + 1 }}" }));
            json!({ "steps": [first, second, third], "dependencies": { "b": ["a"], "c": ["b"] }, "output": "${{ steps.c.output.n }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n + 1),
        events: &[("step_completed", 3), ("completed", 1)],
    },
    Kind {
        name: "fan-out",
        definition: || {
            let mut each = echo("each", &json!({ "value": "${{ item }}", "at": "${{ index }}" }));
            each["for_each"] = json!("${{ input.items }}");
            each["max_parallel"] = json!(3);
            json!({ "steps": [each], "output": "${{ steps.each.output.map(one, one.value) }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |n| Kind::input(n)["items"].clone(),
        events: &[("step_expanded", 1), ("step_completed", 7), ("completed", 1)],
    },
    Kind {
        name: "retry",
        definition: || json!({ "steps": [fail("shaky", Some(3))], "output": "${{ input.n }}" }),
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n),
        events: &[("step_completed", 1), ("completed", 1)],
    },
    Kind {
        name: "approval",
        definition: || {
            let wait = json!({ "id": "wait", "signal": { "name": "go", "timeout": "1h" } });
            let mut after = echo("after", &json!("${{ steps.wait.output }}"));
            after["depends_on"] = json!(["wait"]);
            json!({ "steps": [wait, after], "output": "${{ steps.after.output }}" })
        },
        then: Then::Signal,
        status: "completed",
        output: |n| json!({ "go": n }),
        events: &[("signal_received", 1), ("step_completed", 2), ("completed", 1)],
    },
    Kind {
        name: "nap",
        definition: || {
            let sleep = json!({ "id": "sleep", "sleep": "150ms" });
            let mut after = echo("after", &json!("${{ input.n }}"));
            after["depends_on"] = json!(["sleep"]);
            json!({ "steps": [sleep, after], "output": "${{ steps.after.output }}" })
        },
        then: Then::Pause,
        status: "completed",
        output: |n| json!(n),
        events: &[("step_completed", 2), ("completed", 1)],
    },
    Kind {
        name: "vote",
        definition: || {
            let voters = json!({ "capability": "kill.vote", "count": 3 });
            let decision = json!({ "question": "Go?", "options": ["go", "stay"], "voters": voters, "strategy": "majority", "quorum": 3 });
            json!({ "steps": [{ "id": "ask", "decision": decision }], "output": "${{ steps.ask.output.winner }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |_| json!("go"),
        events: &[("voters_chosen", 1), ("ballot_cast", 3), ("completed", 1)],
    },
    Kind {
        name: "undo",
        definition: || {
            let mut first = echo("first", &json!("${{ input.n }}"));
            first["compensate"] = json!({ "agent_type": "echo", "action": "unfirst" });
            let mut second = echo("second", &json!("${{ input.n }}"));
            second["compensate"] = json!({ "agent_type": "echo", "action": "unsecond" });
            json!({ "steps": [first, second, fail("bad", None)], "dependencies": { "second": ["first"], "bad": ["second"] } })
        },
        then: Then::Watch,
        status: "failed",
        output: nothing,
        events: &[
            ("step_completed", 2),
            ("step_failed", 1),
            ("compensation_started", 1),
            ("step_compensated", 2),
            ("failed", 1),
        ],
    },
    Kind {
        name: "fallback",
        definition: || {
            let mut bad = fail("bad", None);
            bad["on_failure"] = json!({ "fallback": { "n": "${{ input.n }}" } });
            let skipped = json!({ "id": "never", "agent_type": "echo", "when": "input.n < 0", "depends_on": ["bad"] });
            json!({ "steps": [bad, skipped], "output": "${{ steps.bad.output.n }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n),
        events: &[("step_failed", 1), ("step_skipped", 1), ("completed", 1)],
    },
    Kind {
        name: "given-up",
        definition: || {
            let mut first = echo("first", &json!("${{ input.n }}"));
            first["compensate"] = json!({ "agent_type": "echo", "action": "unfirst" });
            let wait = json!({ "id": "wait", "signal": { "name": "never" }, "depends_on": ["first"] });
            json!({ "steps": [first, wait] })
        },
        then: Then::Cancel,
        status: "cancelled",
        output: nothing,
        events: &[("cancel_requested", 1), ("cancelled", 1)],
    },
    Kind {
        name: "late-signal",
        definition: || {
            let on_timeout = json!({ "fallback": { "late": "${{ input.n }}" } });
            let wait =
                json!({ "id": "wait", "signal": { "name": "never", "timeout": "200ms", "on_timeout": on_timeout } });
            json!({ "steps": [wait], "output": "${{ steps.wait.output.late }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n),
        events: &[("step_completed", 1), ("completed", 1)],
    },
    Kind {
        name: "overdue",
        definition: || {
            let mut first = echo("first", &json!("${{ input.n }}"));
            first["compensate"] = json!({ "agent_type": "echo", "action": "unfirst" });
            let wait = json!({ "id": "wait", "signal": { "name": "never" } });
            json!({ "steps": [first, wait], "config": { "timeout": "300ms" } })
        },
        then: Then::Watch,
        status: "failed",
        output: nothing,
        events: &[("failed", 1)],
    },
    Kind {
        name: "first-of",
        definition: || {
            let sleep = json!({ "id": "sleep", "sleep": "100ms" });
            let mut either = echo("either", &json!("${{ input.n }}"));
            either["depends_on"] = json!(["one", "sleep"]);
            either["join"] = json!("any");
            json!({ "steps": [echo("one", &json!(1)), sleep, either], "output": "${{ steps.either.output }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n),
        events: &[("step_completed", 3), ("completed", 1)],
    },
    Kind {
        name: "too-slow",
        definition: || slow("timeout"),
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n),
        events: &[("step_failed", 1), ("completed", 1)],
    },
    Kind {
        name: "silent",
        definition: || slow("heartbeat_timeout"),
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n),
        events: &[("step_failed", 1), ("completed", 1)],
    },
    Kind {
        name: "undecided",
        definition: || {
            let voters = json!({ "capability": "kill.nobody", "count": 2 });
            let decision =
                json!({ "question": "Go?", "options": ["go", "stay"], "voters": voters, "deadline": "200ms" });
            json!({
                "steps": [{ "id": "ask", "decision": decision, "on_failure": { "fallback": "${{ input.n }}" } }],
                "output": "${{ steps.ask.output }}",
            })
        },
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n),
        events: &[("step_failed", 1), ("completed", 1)],
    },
    Kind {
        name: "shaky-items",
        definition: || {
            let mut each = fail("each", Some(2));
            each["for_each"] = json!("${{ input.items }}");
            each["max_parallel"] = json!(2);
            json!({ "steps": [each], "output": "${{ steps.each.output.size() }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |_| json!(6),
        events: &[("step_completed", 7), ("completed", 1)],
    },
    Kind {
        name: "family",
        definition: || {
            let child = json!({ "name": "chain", "input": { "n": "${{ item }}" } });
            let each = json!({ "id": "each", "for_each": "${{ input.items }}", "workflow": child });
            json!({ "steps": [each], "output": "${{ steps.each.output }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |n| json!((0..6).map(|item| n * 10 + item + 1).collect::<Vec<_>>()),
        events: &[("step_completed", 7), ("completed", 1)],
    },
    Kind {
        name: "orphan",
        definition: || {
            // Nobody gives its child the signal.
            let child = json!({ "id": "child", "workflow": { "name": "approval" }, "timeout": "200ms",
                                "retry": { "max_attempts": 1 }, "on_failure": { "fallback": "${{ input.n }}" } });
            json!({ "steps": [child], "output": "${{ steps.child.output }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n),
        events: &[("step_failed", 1), ("completed", 1)],
    },
    Kind {
        name: "in-line",
        definition: || {
            let mut first = echo("first", &json!("${{ input.n }}"));
            first["mutex"] = json!({ "name": "kill", "scope": "global" });
            let mut second = echo("second", &json!("${{ steps.first.output }}"));
            second["mutex"] = json!({ "name": "kill", "scope": "global" });
            second["depends_on"] = json!(["first"]);
            let config = json!({ "concurrency_key": "kill", "concurrency_limit": 2 });
            json!({ "steps": [first, second], "config": config, "output": "${{ steps.second.output }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n),
        events: &[("turn_taken", 1), ("mutex_taken", 2), ("step_completed", 2), ("completed", 1)],
    },
    Kind {
        name: "anew",
        definition: || {
            let work = echo("work", &json!("${{ input.n }}"));
            let sleep = json!({ "id": "sleep", "sleep": "200ms", "depends_on": ["work"] });
            let round = "has(input.round) ? input.round : 0";
            let input = json!({ "n": "${{ steps.work.output + 1 }}", "round": format!("${{{{ ({round}) + 1 }}}}") });
            let again = json!({ "id": "again", "depends_on": ["sleep"], "when": format!("({round}) < 20"),
                                "end": { "status": "continued", "input": input } });
            json!({ "steps": [work, sleep, again], "output": "${{ steps.work.output }}" })
        },
        then: Then::Watch,
        status: "completed",
        // So many rounds that they are in several rows of its log, of which the first can be removed.
        output: |n| json!(n + 20),
        events: &[("completed", 1)],
    },
    Kind {
        name: "told",
        definition: || {
            let told = json!({ "execution": "${{ execution.id }}", "signal": "told", "payload": "${{ input.n }}" });
            let tell = json!({ "id": "tell", "emit": told });
            let hear = json!({ "id": "hear", "signal": { "name": "told" } });
            json!({ "steps": [tell, hear], "output": "${{ steps.hear.output }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n),
        events: &[("signal_received", 1), ("step_completed", 2), ("completed", 1)],
    },
    Kind {
        // A loop in a block in a `for_each`, each round with its undo, which is then wanted.
        name: "undone-rounds",
        definition: || {
            let mut one = echo("one", &json!("${{ item }}"));
            one["compensate"] = json!({ "agent_type": "echo", "action": "unone" });
            let round = json!({ "steps": [one], "output": "${{ steps.one.output }}" });
            let rounds = json!({ "id": "rounds", "loop": { "while": "iteration < 2" }, "block": round });
            let block = json!({ "steps": [rounds], "output": "${{ steps.rounds.output }}" });
            let each = json!({ "id": "each", "for_each": "${{ input.items }}", "max_parallel": 2, "block": block });
            json!({ "steps": [each, fail("bad", None)], "dependencies": { "bad": ["each"] } })
        },
        then: Then::Watch,
        status: "failed",
        output: nothing,
        events: &[("step_failed", 1), ("compensation_started", 1), ("step_compensated", 12), ("failed", 1)],
    },
    Kind {
        name: "undone-in-a-child",
        definition: || {
            let input = json!({ "items": "${{ input.items }}" });
            let child = json!({ "id": "child", "workflow": { "name": "undone-rounds", "input": input },
                                "retry": { "max_attempts": 1 }, "on_failure": { "fallback": "${{ input.n }}" } });
            json!({ "steps": [child], "output": "${{ steps.child.output }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n),
        events: &[("step_failed", 1), ("completed", 1)],
    },
    Kind {
        name: "chosen",
        definition: || {
            let mut early = echo("early", &json!("${{ input.n }}"));
            early["mutex"] = json!("desk");
            let mut late = echo("late", &json!("${{ input.n }}"));
            late["mutex"] = json!("desk");
            let mut each = echo("each", &json!("${{ item }}"));
            each["for_each"] = json!("${{ input.items }}");
            each["complete_when"] = json!("completed >= 2");
            let past = json!({ "id": "past", "sleep_until": "2026-01-01T00:00:00Z" });
            let never = json!({ "id": "never", "signal": { "name": "never", "transient": true } });
            let hush = json!({ "id": "hush", "cancel": ["never"], "depends_on": ["early"] });
            let slow = json!({ "id": "slow", "agent_type": "echo", "action": "sleep", "input": { "ms": 600_000 } });
            let mut most = echo("most", &json!("${{ input.n }}"));
            most["depends_on"] = json!(["late", "each", "past", "hush", "slow"]);
            most["join"] = json!({ "count": 4 });
            most["cancel_rest"] = json!(true);
            json!({ "steps": [early, late, each, past, never, hush, slow, most], "output": "${{ steps.most.output }}" })
        },
        then: Then::Watch,
        status: "completed",
        output: |n| json!(n),
        events: &[("completed", 1)],
    },
];
