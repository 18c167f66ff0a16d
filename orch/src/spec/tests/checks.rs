//! Documents of the right shape that make no sense.

use proptest::prelude::*;

use super::*;

fn steps(list: &[(&str, &str)]) -> String {
    dag(&list.iter().map(|(id, more)| format!("- {{id: {id}, uses: http, {more}}}\n")).collect::<String>())
}

fn first(text: &str) -> Diagnostic {
    read(text).expect_err("the document is wrong").problems.remove(0)
}

#[test]
fn a_cycle_is_reported_with_its_whole_path() {
    let text = steps(&[
        ("c", "needs: [a]"),
        ("b", "needs: [c, x]"),
        ("a", "needs: [b]"),
        ("x", "needs: []"),
        ("z", "needs: [y]"),
        ("y", "needs: [z, a]"),
    ]);
    let report = read(&text).unwrap_err();
    let messages: Vec<_> = report.problems.iter().map(|p| p.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "steps need each other in a cycle: a -> b -> c -> a",
            "steps need each other in a cycle: y -> z -> y"
        ]
    );
    assert_eq!(report.problems[0].path, "/steps/2/needs/0");
}

#[test]
fn the_shortest_cycle_through_the_first_step_is_the_one_named() {
    let text =
        steps(&[("a", "needs: [b, d]"), ("b", "needs: [c]"), ("c", "needs: [a]"), ("d", "needs: [a]")]);
    assert_eq!(first(&text).message, "steps need each other in a cycle: a -> d -> a");
}

#[test]
fn a_long_cycle_costs_linear_time_and_no_stack() {
    let count = 60_000;
    let text: String = (0..count)
        .map(|index| format!("- {{id: s{index}, uses: http, needs: [s{}]}}\n", (index + 1) % count))
        .collect();
    let limits = Limits { steps: count, ..Limits::default() };
    let report = parse_with("x", &dag(&text), &limits, &Fake).unwrap_err();
    assert_eq!(report.problems[0].code, "cycle");
    assert!(report.problems[0].message.ends_with("(60000 steps)"));
}

#[test]
fn an_id_that_is_taken_is_reported_with_both_places() {
    let problem = first(&steps(&[("a", ""), ("b", ""), ("a", "")]));
    assert_eq!((problem.code, problem.line, problem.column), ("duplicate-id", 7, 8));
    assert_eq!(problem.message, "the step id `a` is taken (first at line 5, column 8)");
}

#[test]
fn needs_that_lead_nowhere_or_twice_or_back_are_reported() {
    let text =
        steps(&[("fetch", ""), ("b", "needs: [fecth, b, fetch, fetch]")]) + "edges: [{from: q, to: b}]\n";
    assert_eq!(
        problems(&text),
        [
            "6:31 missing-need /steps/1/needs/0",
            "6:38 self-need /steps/1/needs/1",
            "6:48 duplicate-need /steps/1/needs/3",
            "7:16 missing-need /edges/0/from",
        ]
    );
    assert_eq!(first(&text).hint.as_deref(), Some("did you mean `fetch`?"));
}

#[test]
fn edges_are_merged_into_sorted_needs() {
    let text = steps(&[("a", ""), ("b", ""), ("c", "needs: [b]")])
        + "edges: [{from: a, to: c}, {from: b, to: c}, {from: a, to: b}]\n";
    let dag = read(&text).unwrap();
    let needs: Vec<Vec<&str>> =
        dag.steps.iter().map(|step| step.needs.iter().map(|need| need.as_str()).collect()).collect();
    assert_eq!(needs, [vec![], vec!["a"], vec!["a", "b"]]);
    assert!(dag.edges.is_empty());
}

#[test]
fn a_document_without_steps_is_refused() {
    assert_eq!(problems(&dag("  []")), ["5:3 no-steps /steps"]);
}

#[test]
fn fields_that_do_not_go_together_are_reported() {
    let text = dag("- {id: a, uses: gate/approval, forEach: {items: []}, cache: true}\n\
                    - {id: b, uses: wait/sleep}\n\
                    - {id: c, uses: wait/sleep, with: {duration: soon}}\n\
                    - {id: d, uses: wait/signal, with: {name: ''}}\n\
                    - {id: e, uses: dag/x@1, forEach: {items: []}}\n\
                    - {id: f, uses: wait/sleep, with: {duration: '${{ inputs.wait }}'}}\n\
                    - {id: g, uses: wait/sleep, with: {duration: 5m}}\n");
    assert_eq!(
        problems(&text),
        [
            "5:41 not-applicable /steps/0/forEach",
            "5:61 not-applicable /steps/0/cache",
            "6:3 bad-with /steps/1/with/duration",
            "7:46 bad-with /steps/2/with/duration",
            "8:43 bad-with /steps/3/with/name",
        ]
    );
}

#[test]
fn a_schema_of_inputs_is_checked_and_may_not_lead_outside() {
    let text = "apiVersion: orch/v1\nkind: Dag\nid: d\ninputs:\n  properties:\n    a: {type: strnig}\nsteps: [{id: a, uses: http}]";
    assert_eq!(problems(text), ["6:15 bad-schema /inputs/properties/a/type"]);
    let text = text.replace("type: strnig", "$ref: 'https://example.org/x'");
    assert_eq!(problems(&text), ["6:15 bad-schema /inputs/properties/a/$ref"]);
}

#[test]
fn syntax_errors_of_expressions_are_placed_within_the_text() {
    let text = dag("- id: a\n  uses: http\n  when: x !! y\n  with:\n    \
                    plain: a-${{ ok }}-${{ z!! }}\n    quoted: \"\\t${{ \\\"!!\\\" }}\"\n    block: |\n      \
                    first\n      ${{ a!! }}\n    list: ['${{ open']\n  concurrency:\n    - {key: '${{ k!! }}', limit: 1}\n");
    assert_eq!(
        problems(&text),
        [
            "7:11 bad-expression /steps/0/when",
            "9:29 bad-expression /steps/0/with/plain",
            "10:13 bad-expression /steps/0/with/quoted",
            "13:12 bad-expression /steps/0/with/block",
            "14:13 bad-expression /steps/0/with/list/0",
            "16:19 bad-expression /steps/0/concurrency/0/key",
        ]
    );
}

#[test]
fn an_expression_over_the_limit_is_refused() {
    let text = steps(&[("a", &format!("when: '{}'", "x".repeat(5_000)))]);
    assert_eq!(first(&text).code, "limit-exceeded");
}

#[test]
fn a_step_may_refer_only_to_needs_and_their_needs() {
    let text = steps(&[
        ("a", ""),
        ("b", "needs: [a]"),
        ("c", "needs: [b], when: 'steps.a.status == steps.b.status'"),
        ("d", "needs: [a], when: 'steps.c.output'"),
        ("e", "with: {x: ['${{ steps.e.output }}', '${{ steps.bb.output }}']}"),
        ("f", "forEach: {items: '${{ steps.b.output }}'}"),
    ]);
    assert_eq!(
        problems(&text),
        [
            "8:42 unneeded-reference /steps/3/when",
            "9:39 unneeded-reference /steps/4/with/x/0",
            "9:64 unknown-reference /steps/4/with/x/1",
            "10:45 unneeded-reference /steps/5/forEach/items",
        ]
    );
    assert_eq!(first(&text).hint.as_deref(), Some("add `c` to `needs`"));
}

#[test]
fn references_across_a_long_chain_are_followed() {
    let count = 2_000;
    let text: String = (0..count)
        .map(|index| match index {
            0 => "- {id: s0, uses: http}\n".to_owned(),
            _ => format!(
                "- {{id: s{index}, uses: http, needs: [s{}], when: 'steps.s{}.status'}}\n",
                index - 1,
                index / 2
            ),
        })
        .collect();
    assert_eq!(read(&dag(&text)).unwrap().steps.len(), count);
}

/// The steps that can be reached over one need or more.
fn reachable(needs: &[Vec<usize>], from: usize) -> Vec<usize> {
    let mut seen = Vec::new();
    let mut todo = needs[from].clone();
    while let Some(step) = todo.pop() {
        if !seen.contains(&step) {
            seen.push(step);
            todo.extend(&needs[step]);
        }
    }
    seen
}

#[test]
fn many_expressions_that_are_spelled_with_escapes_are_read_in_one_go() {
    // Looking for each of them in the text would take minutes.
    let with = "\\u0024{{ steps.b }}".repeat(100_000);
    let text = format!(
        r#"{{"apiVersion":"orch/v1","kind":"Dag","id":"d","steps":[
            {{"id":"a","uses":"http","needs":["b"],"with":"{with}"}},{{"id":"b","uses":"http"}}]}}"#
    );
    assert!(read(&text).is_ok());
}

proptest! {
    #[test]
    fn cycles_and_references_are_judged_as_by_walking_the_graph(
        drawn in prop::collection::vec((prop::collection::btree_set(0_usize..7, 0..3), 0_usize..7), 7),
    ) {
        let mut needs: Vec<Vec<usize>> = drawn.iter().map(|(needs, _)| needs.iter().copied().collect()).collect();
        needs.iter_mut().enumerate().for_each(|(step, needs)| needs.retain(|need| *need != step));
        let text: Vec<(String, String)> = drawn.iter().enumerate().map(|(step, (_, target))| {
            let names: Vec<String> = needs[step].iter().map(|need| format!("s{need}")).collect();
            (format!("s{step}"), format!("needs: [{}], when: 'steps.s{target}'", names.join(", ")))
        }).collect();
        let text: Vec<(&str, &str)> = text.iter().map(|(id, more)| (id.as_str(), more.as_str())).collect();
        let problems = read(&steps(&text)).map_or_else(|report| report.problems, |_| Vec::new());

        let tied = (0..7).filter(|step| reachable(&needs, *step).contains(step)).count();
        let cycles: Vec<&Diagnostic> = problems.iter().filter(|problem| problem.code == "cycle").collect();
        prop_assert_eq!(tied > 0, !cycles.is_empty());
        for cycle in cycles {
            let path = cycle.message.rsplit(": ").next().unwrap();
            let path: Vec<usize> = path.split(" -> ").map(|name| name[1..].parse().unwrap()).collect();
            prop_assert!(path.windows(2).all(|pair| needs[pair[0]].contains(&pair[1])), "{}", cycle.message);
            prop_assert_eq!((path.first(), path.first()), (path.last(), path.iter().min()));
        }
        if tied == 0 {
            let blind = |step: &usize| !reachable(&needs, *step).contains(&drawn[*step].1);
            let expected: Vec<String> = (0..7).filter(blind).map(|step| format!("/steps/{step}/when")).collect();
            let found: Vec<String> = problems.into_iter().map(|problem| problem.path).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

#[test]
fn fields_that_nothing_would_heed_are_reported() {
    let text = dag("- { id: g, uses: gate/approval, retry: { maxAttempts: 2 }, secrets: [TOKEN] }\n\
                    - { id: d, uses: dag/x@1, queue: q, retry: { maxAttempts: 2 } }\n\
                    - { id: w, uses: wait/signal, with: { name: Not A Name } }\n");
    let report = read(&text).unwrap_err().to_string();
    for expected in [
        "`gate/approval` does not heed `retry`",
        "does not heed `secrets`",
        "`dag/x@1` does not heed `queue`",
        "requires `with.name`",
    ] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
    assert!(!report.contains("`dag/x@1` does not heed `retry`"), "{report}");
}

#[test]
fn a_value_with_a_grammar_of_its_own_is_refused_in_a_sentence() {
    let report = read("apiVersion: orch/v1\nkind: Dag\nid: A\nsteps:\n- {id: a, uses: x, timeout: soon}\n");
    for problem in report.unwrap_err().problems {
        assert!(
            !problem.message.contains("=`") && problem.message.contains("found `"),
            "{}",
            problem.message
        );
    }
}

#[test]
fn a_number_that_is_not_finite_hides_no_problem_of_the_steps() {
    let text = steps(&[("a", "priority: .nan, nedes: [b], with: {x: -.inf}")]);
    assert_eq!(
        problems(&text),
        [
            "5:33 not-finite /steps/0/priority",
            "5:39 unknown-field /steps/0/nedes",
            "5:61 not-finite /steps/0/with/x",
        ]
    );
}
