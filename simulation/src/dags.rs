//! The DAGs that simulated runs are of: small, and together something of everything.

use std::sync::OnceLock;

use orch::Dag;
use orch::limits::Limits;

/// The shapes: id and steps in YAML. Their sub-DAG comes first.
const SHAPES: [(&str, &str); 15] = [
    ("child", "  - { id: a, uses: fn/act, with: { millis: 20 } }\n  - { id: b, uses: fn/act, needs: [a] }\n"),
    (
        "chain",
        "  - { id: a, uses: fn/act }\n  - { id: b, uses: fn/act, needs: [a], with: { millis: 40 } }\n  - { id: c, uses: fn/act, needs: [b] }\n",
    ),
    (
        "fan",
        "  - { id: a, uses: fn/act, with: { value: 1 } }
  - { id: each, uses: fn/act, needs: [a], forEach: { items: [1, 2, 3, 4], maxParallel: 2 }, with: { millis: 20, value: '${{ item }}' } }
  - { id: z, uses: fn/act, needs: [each], with: { value: '${{ steps.each.output }}' } }\n",
    ),
    (
        "diamond",
        "  - { id: a, uses: fn/act }
  - { id: b, uses: fn/act, needs: [a], with: { fails: 1 }, retry: { maxAttempts: 3, backoff: 50ms } }
  - { id: c, uses: fn/act, needs: [a], with: { millis: 60 } }
  - { id: d, uses: fn/act, needs: [b, c] }\n",
    ),
    ("long", "  - { id: a, uses: fn/act, with: { millis: 1500 } }\n  - { id: b, uses: fn/act, needs: [a] }\n"),
    (
        "parks",
        "  - { id: a, uses: fn/act, with: { millis: 1200 }, retry: { onLost: park } }\n  - { id: b, uses: fn/act, needs: [a] }\n",
    ),
    (
        "gives-up",
        "  - { id: a, uses: fn/act, with: { millis: 1200 }, retry: { onLost: fail } }
  - { id: b, uses: fn/act, needs: [a] }
  - { id: c, uses: fn/act, needs: [a], when: \"steps.a.status == 'failed'\" }\n",
    ),
    (
        "gate",
        "  - { id: gate, uses: gate/approval }\n  - { id: a, uses: fn/act, needs: [gate] }\n  - { id: b, uses: fn/act }\n",
    ),
    (
        "signal",
        "  - { id: a, uses: fn/act }\n  - { id: go, uses: wait/signal, needs: [a], with: { name: go } }\n  - { id: b, uses: fn/act, needs: [go] }\n",
    ),
    (
        "sleep",
        "  - { id: nap, uses: wait/sleep, with: { duration: 2s } }\n  - { id: a, uses: fn/act, needs: [nap] }\n",
    ),
    (
        "keyed",
        "  - { id: each, uses: fn/act, forEach: { items: [1, 2, 3] }, with: { millis: 200 }, concurrency: [{ key: db, limit: 1 }] }\n",
    ),
    (
        "parent",
        "  - { id: a, uses: fn/act }\n  - { id: sub, uses: dag/child@1, needs: [a] }\n  - { id: z, uses: fn/act, needs: [sub] }\n",
    ),
    (
        "cached",
        "  - { id: a, uses: fn/act, cache: true, with: { value: 7 } }\n  - { id: b, uses: fn/act, needs: [a], cache: true, with: { value: 7 } }\n",
    ),
    (
        "fails",
        "  - { id: a, uses: fn/act, with: { fails: 9 }, retry: { maxAttempts: 2, backoff: 10ms } }
  - { id: b, uses: fn/act, needs: [a] }
  - { id: c, uses: fn/act, with: { fails: 1 }, retry: { onExhausted: park } }\n",
    ),
    (
        "reaches-out",
        "  - { id: a, uses: fn/act }
  - { id: out, uses: process, needs: [a], network: { allow: ['example.org:443'] }, with: { command: [curl] } }\n",
    ),
];

/// Every shape, the sub-DAG first.
pub(crate) fn all() -> &'static [Dag] {
    static DAGS: OnceLock<Vec<Dag>> = OnceLock::new();
    DAGS.get_or_init(|| {
        let parse = |(id, steps): &(&str, &str)| {
            let text = format!("apiVersion: orch/v1\nkind: Dag\nid: {id}\nsteps:\n{steps}");
            orch::spec::parse(id, &text, &Limits::default()).unwrap_or_else(|problems| panic!("{problems}"))
        };
        SHAPES.iter().map(parse).collect()
    })
}

/// The shapes that runs are submitted of.
pub(crate) fn submitted() -> &'static [Dag] {
    &all()[1..]
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_shape_is_a_dag_that_can_be_planned() {
        for dag in super::all() {
            orch::planner::Plan::new(dag.clone(), &orch::Limits::default()).unwrap();
        }
    }
}
