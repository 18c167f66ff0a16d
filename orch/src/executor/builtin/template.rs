//! `fn/template`: text, or JSON, from a template.

use std::collections::BTreeMap;
use std::io;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::document::json_value;
use super::hash::of_value;
use super::source::{load_text, text_of};
use super::{Failure, TEXT_BYTES_MAX, apart, invalid};
use crate::executor::StepContext;
use crate::ledger::ArtifactRef;

/// Instructions one rendering may take.
const FUEL: u64 = 20_000_000;

/// Nesting of template calls and blocks.
const DEPTH: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Template {
    template: Option<String>,
    artifact: Option<ArtifactRef>,
    /// What the template sees, by name.
    #[serde(default)]
    data: Map<String, Value>,
    /// More of it: artifacts by name, read as JSON when that is their media type and as text otherwise.
    #[serde(default)]
    artifacts: BTreeMap<String, ArtifactRef>,
    #[serde(default, rename = "as")]
    form: Form,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Rendered {
    Text(String),
    Json(Value),
}

/// Renders a Jinja template (minijinja) that sees nothing but its data: an undefined name is an error, nothing is
/// escaped, nothing can be included, and work and output are bounded. `as: json` parses what was rendered.
pub(super) async fn template(context: StepContext, input: Template) -> Result<Rendered, Failure> {
    let mut data = input.data;
    for (name, artifact) in input.artifacts {
        if data.contains_key(&name) {
            return Err(invalid(format!("artifacts.{name}: `data` has that name too")));
        }
        let text = load_text(&context, &artifact).await?;
        let is_json = artifact.media_type == "application/json" || artifact.media_type.ends_with("+json");
        data.insert(name, if is_json { json_value(&text)? } else { Value::String(text) });
    }
    let source = text_of(&context, "`template` or `artifact`", input.template, input.artifact).await?;
    let form = input.form;
    apart(move || {
        let text = render(&source, &data)?;
        match form {
            Form::Text => Ok(Rendered::Text(text)),
            Form::Json => {
                let wrong = |failure| Failure { code: "rendered_malformed".to_owned(), ..failure };
                json_value(&text).map(Rendered::Json).map_err(wrong)
            }
        }
    })
    .await
}

fn render(source: &str, data: &Map<String, Value>) -> Result<String, Failure> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH);
    environment.add_filter("sha256", sha256);
    let mut text = Bounded(Vec::new());
    environment
        .template_from_named_str("template", source)
        .and_then(|template| template.render_captured_to(minijinja::Value::from(Serde(data)), &mut text))
        .map_err(|error| failure(&error))?;
    String::from_utf8(text.0).map_err(|error| Failure::from_error("template_failed", &error).into_fatal())
}

/// The digest `fn/hash` gives an item: a string's own bytes, another value's canonical JSON.
fn sha256(value: &minijinja::Value) -> Result<String, minijinja::Error> {
    let wrong = |error: String| minijinja::Error::new(ErrorKind::InvalidOperation, error);
    let value = serde_json::to_value(value).map_err(|error| wrong(error.to_string()))?;
    of_value(&value).map(|digest| digest.to_string()).map_err(|failure| wrong(failure.message))
}

fn failure(error: &minijinja::Error) -> Failure {
    let line = error.line().map_or(String::new(), |line| format!("line {line}: "));
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    Failure::fatal("template_failed", format!("{line}{}{detail}{cause}", error.kind()))
}

/// A writer that refuses to grow over the limit.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > TEXT_BYTES_MAX {
            let message = format!("the text is over the limit of {TEXT_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
