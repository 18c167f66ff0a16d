//! Which functions orch has by itself, and which name was perhaps meant.

use std::path::PathBuf;

use orch::executor::{Builtins, Executors};
use orch::spec::{Dag, Uses};

/// A warning for each step whose function only a program that embeds orch could have.
pub(crate) fn unknown(dag: &Dag) -> Vec<String> {
    let anywhere = Some(PathBuf::new());
    let builtins = Builtins { root: anywhere.clone(), output: anywhere }.register(Executors::new());
    let foreign = dag
        .steps
        .iter()
        .filter(|step| matches!(step.uses, Uses::Function(_)) && builtins.lookup(&step.uses).is_none());
    let warning = |step: &orch::spec::Step| {
        let uses = step.uses.to_string();
        let meant = builtins.names().map(|name| (strsim::osa_distance(name, &uses), name)).min();
        let meant = meant.filter(|(distance, _)| *distance <= 2);
        let meant = meant.map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"));
        format!("step `{}` uses `{uses}`, which orch alone does not have{meant}", step.id)
    };
    foreign.map(warning).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_functions_that_are_not_built_in_are_warned_of() {
        let text = "apiVersion: orch/v1\nkind: Dag\nid: t\nsteps: [{ id: a, uses: fn/echo }, { id: b, uses: fn/ehco }, \
                    { id: c, uses: fn/our-own }, { id: d, uses: worker/x }, { id: e, uses: fn/read }]\n";
        let dag = orch::spec::parse("t", text, &crate::connect::limits()).unwrap();
        assert_eq!(
            unknown(&dag),
            [
                "step `b` uses `fn/ehco`, which orch alone does not have; did you mean `fn/echo`?",
                "step `c` uses `fn/our-own`, which orch alone does not have",
            ]
        );
    }
}
