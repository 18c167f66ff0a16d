//! Wrong shapes: types, fields and values.

use super::*;

#[test]
fn a_document_with_every_field_is_read() {
    let text = "
apiVersion: orch/v1
kind: Dag
id: nightly
description: |
  Scans everything.
inputs: {type: object, properties: {image: {type: string}}}
timeout: 2h
steps:
  - id: list
    uses: fn/list
  - id: scan
    uses: worker/scan
    needs: [list]
    with: {image: \"${{ item }}\"}
    when: steps.list.status == 'succeeded'
    forEach: {items: \"${{ steps.list.output }}\", maxParallel: 4}
    retry: {maxAttempts: 3, backoff: 1s, maxBackoff: 10s, nonRetryable: [bad], onExhausted: park, onLost: fail}
    timeout: 5m
    totalTimeout: 1h
    queue: big
    priority: -5
    concurrency: [{key: \"db-${{ inputs.image }}\", limit: 2}]
    limits: {cpu: 0.5, memory: 1000000, processes: 4, wall: 1m, output: 4096}
    network: {allow: ['example.org:443', '[::1]:80', '10.0.0.1:65535']}
    secrets: [TOKEN]
    cache: true
";
    let dag = read(text).unwrap();
    assert_eq!(dag.steps[1].needs[0].as_str(), "list");
    assert_eq!(dag.steps[1].retry.on_lost, OnLost::Fail);
    assert_eq!(dag.description.as_deref(), Some("Scans everything.\n"));
    let value = serde_json::to_value(&dag).unwrap();
    assert_eq!(read(&value.to_string()).unwrap(), dag);
}

#[test]
fn all_problems_are_reported_at_once_where_they_stand() {
    let text = "apiVersion: orch/v2\nkind: Dag\nid: Bad\nstpes: []\nsteps:\n  - id: a\n    uses: shell\n    \
                nees: [b]\n    timeout: soon\n    priority: 2000\n    retry: {maxAttempts: 0}\n  - uses: http\n    \
                cache: 1\n    forEach: {items: 3, maxParallel: 0}\n  - 7\n";
    assert_eq!(
        problems(text),
        [
            "1:13 bad-value /apiVersion",
            "3:5 bad-id /id",
            "4:1 unknown-field /stpes",
            "7:11 bad-uses /steps/0/uses",
            "8:5 unknown-field /steps/0/nees",
            "9:14 bad-span /steps/0/timeout",
            "10:15 out-of-range /steps/0/priority",
            "11:26 out-of-range /steps/0/retry/maxAttempts",
            "12:5 missing-field /steps/1",
            "13:12 wrong-type /steps/1/cache",
            "14:22 wrong-type /steps/1/forEach/items",
            "14:38 out-of-range /steps/1/forEach/maxParallel",
            "15:5 wrong-type /steps/2",
        ]
    );
    let hint = |at: usize| read(text).unwrap_err().problems[at].hint.clone().unwrap();
    assert_eq!(hint(2), "did you mean `steps`?");
    assert_eq!(hint(4), "did you mean `needs`?");
}

#[test]
fn an_empty_document_names_what_is_missing() {
    for text in ["", "# nothing", "[]", "x"] {
        assert_eq!(read(text).unwrap_err().problems[0].code, "wrong-type", "{text}");
    }
    let missing: Vec<_> = read("{}").unwrap_err().problems.into_iter().map(|p| p.message).collect();
    assert_eq!(
        missing,
        ["`apiVersion` is missing", "`id` is missing", "`kind` is missing", "`steps` is missing"]
    );
}

#[test]
fn endpoints_are_a_host_and_a_port() {
    let endpoint = |text: &str| {
        let steps = format!("- {{id: a, uses: http, network: {{allow: ['{text}']}}}}");
        read(&dag(&steps)).map_err(|report| report.problems[0].code)
    };
    for good in ["a:1", "a.b-c.example:65535", "127.0.0.1:80", "[::1]:443"] {
        assert!(endpoint(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "a",
        "a:",
        ":80",
        "a:0",
        "a:65536",
        "a:+1",
        "a:x",
        "http://a:80",
        "a/b:80",
        "::1:80",
        "[x]:80",
        "*:80",
    ] {
        assert_eq!(endpoint(bad), Err("bad-endpoint"), "{bad}");
    }
}

#[test]
fn names_of_secrets_are_upper_case() {
    for (name, good) in [("TOKEN_2", true), ("token", false), ("_A", false), ("", false), ("2A", false)] {
        let steps = format!("- {{id: a, uses: http, secrets: ['{name}']}}");
        assert_eq!(read(&dag(&steps)).is_ok(), good, "{name}");
    }
}

#[test]
fn more_steps_than_the_limit_are_refused() {
    let limits = Limits { steps: 2, ..Limits::default() };
    let steps = |count: usize| {
        dag(&(0..count).map(|index| format!("- {{id: s{index}, uses: http}}\n")).collect::<String>())
    };
    assert!(parse_with("x", &steps(2), &limits, &Fake).is_ok());
    let report = parse_with("x", &steps(3), &limits, &Fake).unwrap_err();
    assert_eq!((report.problems.len(), report.problems[0].code), (1, "limit-exceeded"));
}

#[test]
fn a_report_is_capped() {
    let steps: String = (0..500).map(|_| "- {id: A, uses: b}\n").collect();
    let report = read(&dag(&steps)).unwrap_err();
    assert_eq!(report.problems.len(), PROBLEMS_MAX + 1);
    assert_eq!(report.problems[PROBLEMS_MAX].code, "too-many-problems");
}
