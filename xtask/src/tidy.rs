//! Rules that no compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::links;

/// The longest source file, tests apart: a reader sees a room whole.
const LINES_MAX: usize = 600;

/// Words that do not belong into finished code. Spelled in halves, so that this list does not find itself.
const LEFTOVERS: [(&str, &str); 4] = [("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("HA", "CK")];

/// Checks every rule and reports all violations at once.
pub(crate) fn check(root: &Path) -> Result<(), String> {
    let mut sources = Vec::new();
    collect(root, &mut sources).map_err(|error| format!("sources cannot be read: {error}"))?;
    let mut problems = Vec::new();
    let mut tests = BTreeMap::new();
    for path in &sources {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        lengths(&name, &text, &mut problems);
        leftovers(&name, &text, &mut problems);
        invariant_tests(&name, &text, &mut tests);
    }
    let guarantees = fs::read_to_string(root.join("docs/guarantees.md"))
        .map_err(|error| format!("docs/guarantees.md: {error}"))?;
    invariants(&guarantees, &tests, &mut problems);
    links::check(root, &mut problems)?;
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&path, sources)?;
        } else if name.ends_with(".rs") {
            sources.push(path);
        }
    }
    Ok(())
}

/// Lines up to the tests at the end of a file.
fn lengths(name: &str, text: &str, problems: &mut Vec<String>) {
    let is_test = name.split('/').any(|part| part == "tests" || part == "tests.rs");
    let lines = text.lines().take_while(|line| !line.starts_with("mod tests {")).count();
    if lines > LINES_MAX && !is_test {
        problems.push(format!("{name}: {lines} lines; split it, {LINES_MAX} is what a reader sees whole"));
    }
}

fn leftovers(name: &str, text: &str, problems: &mut Vec<String>) {
    for (number, line) in text.lines().enumerate() {
        for (head, tail) in LEFTOVERS {
            let word = format!("{head}{tail}");
            if line.split(|c: char| !c.is_alphanumeric()).any(|part| part == word) {
                problems.push(format!("{name}:{}: {word} left in the code", number + 1));
            }
        }
    }
}

/// Whether `text` is a letter followed by a digit, as invariants are named.
fn is_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 2 && bytes[0].is_ascii_uppercase() && bytes[1].is_ascii_digit()
}

/// Functions whose name begins with the id of an invariant: `l2_append_with_…`.
fn invariant_tests(name: &str, text: &str, tests: &mut BTreeMap<String, BTreeSet<String>>) {
    for line in text.lines() {
        let line = line.trim_start();
        let function =
            ["fn ", "async fn ", "pub async fn ", "pub fn "].iter().find_map(|head| line.strip_prefix(head));
        let Some(function) = function.and_then(|rest| rest.split(['(', '<']).next()) else { continue };
        let Some((id, _)) = function.split_once('_') else { continue };
        let id = id.to_uppercase();
        if is_id(&id) {
            tests.entry(id).or_default().insert(format!("{name}: {function}"));
        }
    }
}

/// Every documented invariant has a test that carries its id, and every such test an invariant that is documented.
fn invariants(guarantees: &str, tests: &BTreeMap<String, BTreeSet<String>>, problems: &mut Vec<String>) {
    let documented: BTreeSet<String> = guarantees
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .filter_map(|title| title.split([' ', ':', '.']).next())
        .filter(|id| is_id(id))
        .map(str::to_owned)
        .collect();
    for id in &documented {
        if !tests.contains_key(id) {
            problems.push(format!("docs/guarantees.md: no test carries the id {id}"));
        }
    }
    for (id, names) in tests.iter().filter(|(id, _)| !documented.contains(*id)) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        problems.push(format!("{}: {id} is no invariant of docs/guarantees.md", names.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invariant_without_a_test_and_a_test_without_an_invariant_are_both_found() {
        let mut tests = BTreeMap::new();
        invariant_tests(
            "a.rs",
            "    fn l1_holds() {\n    async fn q9_holds<T>() {\n fn other() {",
            &mut tests,
        );
        let mut problems = Vec::new();
        invariants("### L1: kept\n### R1: once\n### About\n", &tests, &mut problems);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("R1") && problems[1].contains("Q9"));
    }

    #[test]
    fn a_long_file_is_found_unless_its_length_is_tests() {
        let mut problems = Vec::new();
        lengths("src/a.rs", &"x\n".repeat(601), &mut problems);
        lengths("src/tests/a.rs", &"x\n".repeat(601), &mut problems);
        lengths("src/b.rs", &format!("x\nmod tests {{\n{}", "x\n".repeat(700)), &mut problems);
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}
