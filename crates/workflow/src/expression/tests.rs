use domain::ExecutionId;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

struct World {
    input: Payload,
    outputs: Vec<Option<Payload>>,
    item: Option<(Payload, u32)>,
}

impl Scope for World {
    fn input(&self) -> &Payload {
        &self.input
    }

    fn step_output(&self, step: StepIndex) -> Option<&Payload> {
        self.outputs[step as usize].as_ref()
    }

    fn item(&self) -> Option<(&Payload, u32)> {
        self.item.as_ref().map(|(item, index)| (item, *index))
    }

    fn execution_id(&self) -> ExecutionId {
        ExecutionId::from_parts(1, 1)
    }
}

fn payload(text: &str) -> Payload {
    Payload::from_slice(text.as_bytes()).unwrap()
}

fn world() -> World {
    World {
        input: payload(
            r#"{"a": {"b": [1, {"c": "deep"}]}, "n": 12345678901234567890123, "amount": 3, "name": "Ada", "none": null, "list": [3, 1, 2], "é": 1}"#,
        ),
        outputs: vec![Some(payload(r#"{"rows":  [ {"x": 1.50} ], "margin": 0.1}"#)), Some(payload("7")), None],
        item: Some((payload(r#"{"x": "it"}"#), 4)),
    }
}

/// Steps `a`, `my-step.x` and `skipped`.
fn steps() -> HashMap<String, StepIndex> {
    HashMap::from([("a".to_owned(), 0), ("my-step.x".to_owned(), 1), ("skipped".to_owned(), 2)])
}

fn compile(value: &Value) -> Result<Template, Vec<&'static str>> {
    let steps = steps();
    let mut found = Found::default();
    let template =
        Template::compile(value, "", Visible { item: true, ..Visible::of(&steps, Reader::Step(0)) }, &mut found);
    let codes: Vec<_> = found.faults.into_list().into_iter().map(|fault| fault.code).collect();
    if codes.is_empty() { Ok(template) } else { Err(codes) }
}

#[test]
fn a_list_has_an_end() {
    let input = payload(&json!(vec![0; MAX_ITEMS + 1]).to_string());
    let world = World { input, ..world() };
    let failure = compile(&json!("${{ input }}")).unwrap().evaluate_list(&world).unwrap_err();
    assert_eq!(failure.code, "too_many_items");
}

#[test]
fn what_is_filled_in_is_bounded() {
    let large = payload(&json!("x".repeat(MAX_VALUE / 2)).to_string());
    let world = World { input: large, ..world() };
    let evaluate = |value: Value| compile(&value).unwrap().evaluate(&world);
    assert!(evaluate(json!({ "once": "${{ input }}" })).is_ok());
    // A list, a text, and a lone expression: each of its own making.
    for value in
        [json!(["${{ input }}", "${{ input }}"]), json!("${{ input }} ${{ input }}"), json!("${{ [input, input] }}")]
    {
        assert_eq!(evaluate(value).unwrap_err().code, "value_too_large");
    }
}

fn evaluate(text: &str) -> Result<Payload, Failure> {
    compile(&json!(text)).unwrap_or_else(|codes| panic!("{text}: {codes:?}")).evaluate(&world())
}

#[test]
fn a_lone_expression_keeps_its_type() {
    let cases = [
        ("${{ input.a.b[1].c }}", r#""deep""#),
        ("${{ input.n }}", "12345678901234567890123"),
        ("${{input['name']}}", r#""Ada""#),
        (r#"${{ input["é"] }}"#, "1"),
        ("  ${{ steps.a.output.rows }} ", r#"[ {"x": 1.50} ]"#),
        (r#"${{ steps["my-step.x"].output }}"#, "7"),
        ("${{ steps.skipped.output.any.thing }}", "null"),
        ("${{ item.x }}", r#""it""#),
        ("${{ index }}", "4"),
        ("${{ execution.id }}", r#""exe_00000000010000000000000001""#),
        ("${{ steps.a.output.margin < 0.2 && input.amount == 3 }}", "true"),
        ("${{ input.list.map(x, x * 2) }}", "[6,2,4]"),
        ("${{ input.list.filter(input, input > 1) }}", "[3,2]"),
        ("${{ input.list.exists(i, i == index - 2) }}", "true"),
        ("${{ size(input.list) + int(steps['my-step.x'].output) }}", "10"),
        ("${{ has(input.a.b) && !has(input.a.z) && !has(input.y.z) }}", "true"),
        ("${{ has(steps.skipped.output.x) }}", "false"),
        ("${{ {'z': 1, 'a': {'b': input.name}} }}", r#"{"a":{"b":"Ada"},"z":1}"#),
        ("${{ input.name.lowerAscii() + '}}' }}", r#""ada}}""#),
        ("${{ input.none == null ? 'no' : 'yes' }}", r#""no""#),
        ("${{ input.list[index - 3] }}", "1"),
        ("${{ input.?gone.orValue('x') }}", r#""x""#),
        ("${{ math.greatest(input.amount, 9) }}", "9"),
        ("${{ false && input.gone }}", "false"),
        ("${{ type(input.amount) == int }}", "true"),
        ("${{ 3 in input.list && !('x' in input.list) && 'b' in input.a }}", "true"),
        ("${{ input.list != [3, 1] && input.a.b[1] == {'c': 'deep'} && 1 == 1.0 }}", "true"),
        ("${{ input.name.matches('^A.a$') && matches(input.name, 'd') && !input.name.matches('x') }}", "true"),
        (
            "${{ 'a-b-a'.replace('a', 'xy') + 'aaa'.replace('a', 'b', 2) + 'ab'.replace('', '.') }}",
            r#""xy-b-xybba.a.b.""#,
        ),
        (
            "${{ 'a,b,c'.split(',') + 'a,b,c'.split(',', 2) + 'é!x'.split('') + 'éxy'.split('', 2) + 'x'.split(',', 0) }}",
            r#"["a","b","c","a","b,c","é","!","x","é","xy"]"#,
        ),
        ("${{ ['a', 'b'].join() + ['a', 'b'].join(', ') + [].join('x') }}", r#""aba, b""#),
        (
            "${{ ['éaba'.indexOf('a'), 'éaba'.indexOf('a', 2), 'éaba'.indexOf('z'), 'a'.indexOf('', 5), 'aa'.indexOf('aa', 1)] }}",
            "[1,3,-1,1,-1]",
        ),
        (
            "${{ ['éaba'.lastIndexOf('a'), 'éaba'.lastIndexOf('a', 2), 'éaba'.lastIndexOf('ab', 1), 'aéb'.lastIndexOf('b', 1), 'ab'.lastIndexOf('')] }}",
            "[3,1,1,-1,2]",
        ),
        ("${{ '%s has %.2f'.format([input.name, 1.5]) + strings.quote('x') }}", r#""Ada has 1.50\"x\"""#),
        ("${{ input.list.map(x, x > 1, [x, 'v'])[1][0] }}", "2"),
        ("${{ optional.of(input.a).value().b[0] + input.list.map(x, {'k': x}).filter(m, m.k == 3).size() }}", "2"),
    ];
    for (text, expected) in cases {
        assert_eq!(evaluate(text).map(|value| value.as_str().to_owned()), Ok(expected.to_owned()), "{text}");
    }
}

#[test]
fn whole_values_and_literals_are_shared_not_copied() {
    let world = world();
    let whole = compile(&json!("${{ steps.a.output }}")).unwrap().evaluate(&world).unwrap();
    assert_eq!(whole.as_str().as_ptr(), world.outputs[0].as_ref().unwrap().as_str().as_ptr());
    let literal = compile(&json!({"a": [1, "$ {{ no }}"]})).unwrap();
    let (one, other) = (literal.evaluate(&world).unwrap(), literal.evaluate(&world).unwrap());
    assert_eq!(one.as_str().as_ptr(), other.as_str().as_ptr());
}

#[test]
fn expressions_in_texts_and_structures_are_filled_in() {
    let value = json!({"text": "Hi ${{ input.name }}: ${{ input.list }} $${{ x }}", "deep": [true, {"v": "${{ input.a.b[0] }}"}], "same": 1.5});
    let filled = compile(&value).unwrap().evaluate(&world()).unwrap();
    assert_eq!(filled.to_value(), json!({"text": "Hi Ada: [3, 1, 2] ${{ x }}", "deep": [true, {"v": 1}], "same": 1.5}));
}

#[test]
fn what_is_missing_is_named() {
    let cases = [
        ("${{ input.a.z.y }}", "no field `z` in `input.a`"),
        ("${{ input.name.first }}", "`input.name` is not an object"),
        ("${{ input.a.b[9] }}", "no element 9 in `input.a.b`"),
        ("${{ steps.a.output.gone + 1 }}", "no field `gone` in the step's `output`"),
        ("${{ input.amount + 'x' }}", "Unsupported binary operator"),
        ("${{ 1.0 / 0.0 }}", "JSON does not have"),
        ("${{ 1 / 0 }}", "zero"),
        ("${{ input.amount.matches('[') }}", ""),
    ];
    for (text, part) in cases {
        let failure = evaluate(text).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.retryable), ("expression", false), "{text}");
        assert!(failure.message.contains(part) && failure.message.len() < 1_000, "{text}: {}", failure.message);
    }
}

#[test]
fn only_what_is_known_beforehand_can_be_read() {
    let cases = [
        ("${{ steps[input.name].output }}", "dynamic_step_reference"),
        ("${{ size(steps) }}", "dynamic_step_reference"),
        ("${{ steps.b.output }}", "unknown_step"),
        ("${{ steps.a.status }}", "unknown_variable"),
        ("${{ steps.a }}", "unknown_variable"),
        ("${{ execution.name }}", "unknown_variable"),
        ("${{ inputs.a }}", "unknown_variable"),
        ("${{ [1].map(x, y) }}", "unknown_variable"),
        ("${{ now() }}", "unknown_function"),
        ("${{ input.name.shout() }}", "unknown_function"),
        ("${{ lists.range(1000000000) }}", "unknown_function"),
        ("${{ }}", "expression_invalid"),
        ("${{ a b }}", "expression_invalid"),
        ("${{ Thing{a: 1} }}", "expression_invalid"),
        (
            "${{ input.list.map(a, input.list.map(b, input.list.map(c, input.list.map(d, d)))) }}",
            "expression_too_complex",
        ),
    ];
    for (text, code) in cases {
        assert_eq!(compile(&json!(text)).unwrap_err()[0], code, "{text}");
    }
}

#[test]
fn conditions_are_true_or_false_or_a_failure() {
    let steps = steps();
    let evaluate = |value: Value| {
        let mut found = Found::default();
        let condition = Condition::compile(&value, "", Visible::of(&steps, Reader::Step(0)), &mut found);
        assert!(found.faults.into_list().is_empty(), "{value}");
        condition.evaluate(&world()).map_err(|failure| failure.code)
    };
    assert_eq!(evaluate(json!("steps.a.output.margin < 0.2")), Ok(true));
    assert_eq!(evaluate(json!("${{ input.name == 'Eve' }}")), Ok(false));
    assert_eq!(evaluate(json!(false)), Ok(false));
    assert_eq!(evaluate(json!("input.amount")), Err("expression".to_owned()));
    assert_eq!(evaluate(json!("input.gone")), Err("expression".to_owned()));
}

#[test]
fn lists_are_lists() {
    let list = |text: &str| compile(&json!(text)).unwrap().evaluate_list(&world());
    assert_eq!(list("${{ input.list }}").unwrap(), [payload("3"), payload("1"), payload("2")]);
    assert_eq!(list("${{ input.name }}").unwrap_err().code, "expression");
}

#[test]
fn loops_end() {
    let mut world = world();
    world.input = Payload::from_value(&json!({"list": (0..1_000).collect::<Vec<_>>()}));
    for text in [
        "${{ input.list.map(a, input.list.filter(b, a == b).size()) }}",
        "${{ input.list.all(a, input.list.all(b, b >= 0)) }}",
    ] {
        let failure = compile(&json!(text)).unwrap().evaluate(&world).unwrap_err();
        assert!(failure.message.contains("too much time or memory"), "{}", failure.message);
    }
    let once = compile(&json!("${{ input.list.map(a, a + 1).size() }}")).unwrap();
    assert_eq!(once.evaluate(&world).unwrap().as_str(), "1000");
}

#[test]
fn deep_and_long_expressions_do_not_exhaust_the_stack() {
    let nested =
        |open: &str, close: &str, depth: usize| format!("${{{{ {}1{} }}}}", open.repeat(depth), close.repeat(depth));
    for depth in [10, 23, 95, 190, 1_500] {
        for (open, close) in [
            ("(", ")"),
            ("[", "]"),
            ("{1:", "}"),
            ("!", ""),
            ("-", ""),
            ("true?1:", ""),
            ("size(", ")"),
            ("", "[0]"),
            ("", ".a"),
            ("", "+1"),
            ("", "||1"),
        ] {
            if let Ok(template) = compile(&json!(nested(open, close, depth))) {
                let _ = template.evaluate(&world());
            }
        }
    }
}

fn fragment() -> impl Strategy<Value = String> {
    let pieces = [
        "input",
        "steps",
        ".a",
        ".output",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        "\"",
        "'",
        "1",
        "0x",
        "1e9",
        "-",
        "!",
        "?",
        ":",
        "&&",
        "||",
        "in",
        " ",
        ",",
        "has(",
        "map(x,",
        "size(",
        "r'",
        "b\"",
        "\\u",
        "\\",
        "`",
        "é",
        "\u{1F600}",
        "timestamp(",
        "duration('1s')",
        "string(",
        ".format([",
        ".matches('",
        "==",
        "%",
        "9223372036854775808",
        "u",
        "null",
        "@",
        "$0",
        ".?a",
        "[?",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_expression_is_answered(text in prop_oneof![fragment(), any::<String>()]) {
        if let Ok(template) = compile(&json!(format!("${{{{ {text} }}}}"))) {
            let _ = template.evaluate(&world());
        }
    }

    #[test]
    fn any_text_is_answered(text: String, around in "[$\\{\\} ]{0,6}") {
        if let Ok(template) = compile(&json!(format!("{around}{text}{around}"))) {
            let _ = template.evaluate(&world());
        }
    }
}

/// Of each: an expression that wants far more time or memory than there is, and one of its kind that people write.
#[test]
fn what_an_evaluation_spends_is_bounded() {
    let rows: Vec<_> =
        (0..10_000).map(|n| json!({"name": format!("row {n}"), "amount": n, "tags": ["a", "b"]})).collect();
    let input = json!({
        "l": (0..10_000).collect::<Vec<_>>(), "few": (0..100).collect::<Vec<_>>(), "rows": rows,
        "text": "lorem ipsum ".repeat(20_000), "a": "a".repeat(100_000), "b": "a".repeat(50_000) + "b",
    });
    let world = World { input: payload(&input.to_string()), ..world() };
    let too_much = [
        format!("input.text{}", ".replace('a', 'aaaaaaaaaa').replace(' ', 'aa')".repeat(9)),
        "input.few.map(x, input.few.map(y, input.text))".to_owned(),
        "input.l.map(x, input.text + 'x').size()".to_owned(),
        "input.l.map(x, input.l)".to_owned(),
        "input.l.filter(x, x in input.l).size()".to_owned(),
        "input.l.filter(x, input.rows == input.rows).size()".to_owned(),
        "input.l.map(x, input.l.map(y, y)).size()".to_owned(),
        "input.l.map(x, 'ab').join(input.text).size()".to_owned(),
        "input.l.map(x, input.text.split('')).size()".to_owned(),
        "input.l.map(x, input.text.reverse()).size()".to_owned(),
        "input.l.map(x, '%s'.format([input.rows])).size()".to_owned(),
        "input.l.map(x, input.text.indexOf(input.b)).size()".to_owned(),
        "input.l.map(x, input.text.matches(string(x) + '(.*a.*b.*){3}')).size()".to_owned(),
        "input.l.map(x, input.l).size() > 0 || true".to_owned(),
        "input.l.map(x, optional.of(input.rows)).size()".to_owned(),
        "input.l.map(x, [input.rows, input.rows][1]).size()".to_owned(),
    ];
    for source in too_much {
        let failure = compile(&json!(format!("${{{{ {source} }}}}"))).unwrap().evaluate(&world).unwrap_err();
        assert!(failure.message.contains("too much time or memory"), "{source}: {}", failure.message);
    }
    let fine = [
        "input.rows.filter(r, r.amount > 10 && r.name.matches('^row [0-9]+$')).map(r, {'name': r.name, 'double': r.amount * 2})",
        "input.rows.filter(r, r.amount in input.few).map(r, r.name).join(', ')",
        "input.few.map(x, input.few.filter(y, x + y == 100)).size()",
        "input.a.indexOf(input.b) + input.a.lastIndexOf(input.b)",
        "input.text.replace('lorem', 'LOREM').split(' ').filter(w, w.startsWith('L')).size()",
        "input.rows.all(r, 'a' in r.tags) && input.rows.exists(r, r.tags == ['a', 'b'])",
        "input.l.map(x, input.rows.size() + x)",
    ];
    for source in fine {
        compile(&json!(format!("${{{{ {source} }}}}"))).unwrap().evaluate(&world).unwrap();
    }
}

#[test]
fn large_values_are_read_the_same_way_as_small_ones() {
    let rows: Vec<_> = (0..5_000).map(|n| json!({"name": format!("row {n}")})).collect();
    let mut input = json!({"rows": rows, "limit": 7}).to_string();
    input.insert_str(1, r#""limit": 1, "#);
    let mut world = World { input: payload(&input), ..world() };
    let evaluate = |world: &World, text: &str| compile(&json!(text)).unwrap().evaluate(world);
    for index in [0, 4_999, 17] {
        world.item = Some((Payload::null(), index));
        for text in ["${{ input.rows[index].name }}", "${{ input.rows[index].name + '' }}"] {
            assert_eq!(evaluate(&world, text).unwrap().as_str(), format!(r#""row {index}""#));
        }
    }
    assert_eq!(evaluate(&world, "${{ input.limit }}").unwrap().as_str(), "7");
    assert_eq!(evaluate(&world, "${{ has(input.rows[0].gone) }}").unwrap().as_str(), "false");
    world.item = Some((Payload::null(), 5_000));
    for (text, part) in [
        ("${{ input.rows[index] }}", "no element 5000 in `input.rows`"),
        ("${{ input[0] }}", "`input` is not a list"),
        ("${{ input.rows.x }}", "`input.rows` is not an object"),
        ("${{ input.gone }}", "no field `gone`"),
    ] {
        let failure = evaluate(&world, text).unwrap_err();
        assert!(failure.message.contains(part), "{text}: {}", failure.message);
    }
    path::forget();
}
