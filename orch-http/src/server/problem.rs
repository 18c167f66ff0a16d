//! What is wrong with a configuration, where, and what to do about it; and a file that says what is right.

use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file with line and column, or the name of the setting.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\n  hint: {hint}"))
    }
}

impl Problem {
    pub(super) fn of_toml(name: &str, text: &str, error: &toml::de::Error) -> Self {
        let place = error.span().map_or_else(|| name.to_owned(), |span| at(name, text, span.start));
        Self { place, message: error.message().to_owned(), hint: None }
    }
}

/// `file:line:column`, counted from 1.
fn at(name: &str, text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    format!("{name}:{line}:{column}")
}

fn schema<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}

/// Everything in which a file differs from its schema; nothing for what is no TOML at all.
pub(super) fn problems<T: JsonSchema>(name: &str, text: &str) -> Vec<Problem> {
    let (Ok(value), Ok(spans)) = (toml::from_str::<Value>(text), DeTable::parse(text)) else {
        return Vec::new();
    };
    let schema = schema::<T>();
    let Ok(validator) = jsonschema::options().offline().build(&schema) else { return Vec::new() };
    let mut found: Vec<(usize, Problem)> = Vec::new();
    for error in validator.iter_errors(&value) {
        let path = error.instance_path().to_string();
        if let jsonschema::error::ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() {
            for unknown in unexpected {
                let start = find(&spans, &format!("{path}/{unknown}")).map_or(0, |span| span.start);
                let message = format!("unknown setting `{unknown}`");
                found.push((
                    start,
                    Problem { place: at(name, text, start), message, hint: near(&schema, unknown) },
                ));
            }
            continue;
        }
        let start = find(&spans, &path).map_or(0, |span| span.start);
        found.push((start, Problem { place: at(name, text, start), message: error.to_string(), hint: None }));
    }
    found.sort_by_key(|(start, _)| *start);
    found.into_iter().map(|(_, problem)| problem).collect()
}

/// Where the value, or at least the key, of a JSON pointer stands.
fn find(table: &toml::Spanned<DeTable<'_>>, pointer: &str) -> Option<Range<usize>> {
    let mut names = pointer.split('/').skip(1);
    let (key, value) = table.get_ref().get_key_value(names.next()?)?;
    let (mut span, mut value) = (key.span(), value.get_ref());
    for name in names {
        match value {
            DeValue::Table(table) => {
                let (key, next) = table.get_key_value(name)?;
                (span, value) = (key.span(), next.get_ref());
            }
            DeValue::Array(items) => {
                let item = items.get(name.parse::<usize>().ok()?)?;
                (span, value) = (item.span(), item.get_ref());
            }
            _ => break,
        }
    }
    Some(span)
}

/// The setting that was meant, perhaps.
fn near(schema: &Value, unknown: &str) -> Option<String> {
    let definitions = schema["$defs"].as_object().into_iter().flat_map(|definitions| definitions.values());
    let known =
        std::iter::once(schema).chain(definitions).filter_map(|schema| schema["properties"].as_object());
    let mut names: Vec<&str> = known.flat_map(|properties| properties.keys().map(String::as_str)).collect();
    names.sort_unstable();
    let close = names.into_iter().map(|name| (strsim::damerau_levenshtein(name, unknown), name)).min()?;
    (close.0 <= 3).then(|| format!("did you mean `{}`?", close.1))
}

/// A file that sets every default and says what each setting is for.
pub(super) fn example<T: JsonSchema + Serialize + Default>() -> String {
    let schema = schema::<T>();
    let mut text =
        String::from("# orch-server: every setting with its default. What is commented out has none.\n");
    let defaults = serde_json::to_value(T::default()).unwrap_or_default();
    let sections = schema["properties"].as_object().into_iter().flatten();
    for (section, of) in sections {
        let definition = of["$ref"].as_str().and_then(|path| schema.pointer(path.trim_start_matches('#')));
        let definition = definition.unwrap_or(of);
        let said = of["description"].as_str().unwrap_or("");
        let _ = write!(text, "\n# {said}\n[{section}]\n");
        for (name, of) in definition["properties"].as_object().into_iter().flatten() {
            comment(&mut text, of["description"].as_str().unwrap_or(""));
            let default = &defaults[section][name];
            let _ = match toml::Value::try_from(default) {
                Ok(value) if !default.is_null() => writeln!(text, "{name} = {value}"),
                _ if of["type"] == "array" || of["type"][0] == "array" => writeln!(text, "# {name} = []"),
                _ => writeln!(text, "# {name} = \"\""),
            };
        }
    }
    text
}

fn comment(text: &mut String, said: &str) {
    for line in said.lines() {
        let _ = writeln!(text, "# {line}");
    }
}
