//! Links of the documentation lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Documents outside `docs/` whose links are checked.
const DOCUMENTS: [&str; 5] =
    ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md", "fuzz/README.md"];

/// Checks that relative links lead to files, and `#anchors` to headings.
pub(crate) fn check(root: &Path, problems: &mut Vec<String>) -> Result<(), String> {
    let mut names: Vec<PathBuf> = DOCUMENTS.iter().map(PathBuf::from).collect();
    let docs = fs::read_dir(root.join("docs")).map_err(|error| format!("docs: {error}"))?;
    for entry in docs {
        let name = entry.map_err(|error| format!("docs: {error}"))?.file_name();
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            names.push(Path::new("docs").join(name));
        }
    }
    names.sort();
    let mut texts = BTreeMap::new();
    for name in names.into_iter().filter(|name| root.join(name).exists()) {
        let text =
            fs::read_to_string(root.join(&name)).map_err(|error| format!("{}: {error}", name.display()))?;
        texts.insert(name, text);
    }
    problems.extend(broken(&texts, |path| root.join(path).exists()));
    Ok(())
}

/// The links of `texts` that lead nowhere, given which files there are.
fn broken(texts: &BTreeMap<PathBuf, String>, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let anchors: BTreeMap<&Path, BTreeSet<String>> =
        texts.iter().map(|(name, text)| (name.as_path(), slugs(text))).collect();
    let mut problems = Vec::new();
    for (name, text) in texts {
        for (line, link) in links(text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => name.clone(),
                file => normal(&name.parent().unwrap_or(Path::new("")).join(file)),
            };
            let known = anchors.get(target.as_path());
            if known.is_none() && !exists(&target) {
                problems.push(format!("{}:{line}: `{link}` leads to no file", name.display()));
            } else if !anchor.is_empty() && known.is_some_and(|slugs| !slugs.contains(anchor)) {
                problems.push(format!("{}:{line}: `{link}` leads to no heading", name.display()));
            }
        }
    }
    problems
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}

/// The lines that are not code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        (!code && !fence).then_some((index + 1, line))
    })
}

/// The relative links of a document: `[text](target)` and `[name]: target`.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        // Every other piece stands between backticks.
        for piece in line.split('`').step_by(2) {
            let inline = piece.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
            found.extend(inline.map(|link| (number, link)));
        }
        let named = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        found.extend(named.and_then(|(_, link)| link.split(' ').next()).map(|link| (number, link)));
    }
    found.retain(|(_, link)| !link.contains("://") && !link.starts_with("mailto:"));
    found
}

/// The anchors of the headings, as GitHub makes them: lowercase, without punctuation, spaces as hyphens, and a number
/// for those that come again.
fn slugs(text: &str) -> BTreeSet<String> {
    let mut slugs = BTreeSet::new();
    for (_, line) in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().to_lowercase();
        let slug: String = kept
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let again = (1..).map(|count| format!("{slug}-{count}"));
        let fresh = std::iter::once(slug.clone()).chain(again).find(|slug| !slugs.contains(slug));
        slugs.extend(fresh);
    }
    slugs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_to_no_file_or_no_heading_are_found() {
        let readme = "# A `b`, c\n## Same\n## Same\n[1](docs/x.md#in-it) [2](docs/gone.md) [3](#a-b-c)\n\
             `[4](no.md)` [5](https://e.org/#x) [6](docs/x.md#not-in-it) [7](#same-1) [8](#same-2)\n\
             ```\n[9](no.md)\n# no\n```\n[10](#no)\n[11]: LICENSE\n[12]: none.md\n[`13`](none)\n";
        let x = "# In it\n[a](../README.md#same) [b](../LICENSE) [c](README.md)\n";
        let texts = BTreeMap::from([
            (PathBuf::from("README.md"), readme.to_owned()),
            (PathBuf::from("docs/x.md"), x.to_owned()),
        ]);
        let found = broken(&texts, |path| path == Path::new("LICENSE"));
        assert_eq!(
            found,
            [
                "README.md:4: `docs/gone.md` leads to no file",
                "README.md:5: `docs/x.md#not-in-it` leads to no heading",
                "README.md:5: `#same-2` leads to no heading",
                "README.md:10: `#no` leads to no heading",
                "README.md:12: `none.md` leads to no file",
                "README.md:13: `none` leads to no file",
                "docs/x.md:2: `README.md` leads to no file",
            ]
        );
    }
}
