//! Reading documents and the inputs of a run.

use std::io::Read as _;
use std::path::Path;

use orch::spec::{self, Dag};
use serde_json::{Map, Value};

use crate::connect;
use crate::fault::{Fault, Result};

/// The text of a file, or of standard input for `-`, that is at most one byte longer than a document may be, so that the parser can say so.
pub(crate) fn text(path: &Path) -> Result<String> {
    let name = path.display();
    let unreadable = |cause: std::io::Error| {
        Fault::from(
            orch::Error::invalid("file cannot be read").with("path", name.to_string()).caused_by(cause),
        )
    };
    let limit = connect::limits().spec_bytes as u64 + 1;
    let mut bytes = Vec::new();
    let mut source: Box<dyn std::io::Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.is_dir() {
            return Err(Fault::said(format!("{name} is a directory, not a document")));
        }
        Box::new(file)
    };
    source.by_ref().take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 == limit {
        // Cut within a character perhaps; the parser refuses it for its length before it looks at it.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|cause| {
        let line =
            1 + cause.as_bytes()[..cause.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Fault::said(format!("{name}:{line}: the file is not UTF-8")).hint("save it as UTF-8")
    })
}

/// A checked document.
pub(crate) fn document(path: &Path) -> Result<Dag> {
    let text = text(path)?;
    spec::parse(&path.display().to_string(), &text, &connect::limits())
        .map_err(|diagnostics| Fault::Document { diagnostics, text })
}

/// The inputs of a run: objects, one over the other, and single ones over them.
pub(crate) fn inputs<'a>(dag: &Dag, words: impl IntoIterator<Item = &'a String>) -> Result<Value> {
    let (mut inputs, mut singles) = (Map::new(), Map::new());
    for word in words {
        if word.trim_start().starts_with('{') {
            inputs.extend(inline(word)?);
        } else if let Some((key, value)) = word.split_once('=') {
            singles.insert(key.to_owned(), single(dag, key, value));
        } else if Path::new(word).exists() {
            inputs.extend(object(Path::new(word))?);
        } else {
            return Err(Fault::said(format!("`{word}` is no input, and no such file exists"))
                .hint("inputs are written key=value, as a file, or as an object {…}"));
        }
    }
    inputs.extend(singles);
    Ok(Value::Object(inputs))
}

fn inline(text: &str) -> Result<Map<String, Value>> {
    match spec::read_value("--inputs", text, &connect::limits()) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Fault::said("--inputs does not hold an object of inputs")),
        Err(diagnostics) => Err(Fault::Document { diagnostics, text: text.to_owned() }),
    }
}

fn object(path: &Path) -> Result<Map<String, Value>> {
    let text = text(path)?;
    match spec::read_value(&path.display().to_string(), &text, &connect::limits()) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Fault::said(format!("{} does not hold an object of inputs", path.display()))),
        Err(diagnostics) => Err(Fault::Document { diagnostics, text }),
    }
}

/// A value as JSON if it is JSON; as text if it is not, or if the schema asks for a string.
fn single(dag: &Dag, key: &str, value: &str) -> Value {
    let schema = dag.inputs.as_ref().and_then(|schema| schema.get("properties")?.get(key)?.get("type"));
    if schema.and_then(Value::as_str) == Some("string") {
        return Value::from(value);
    }
    serde_json::from_str(value).unwrap_or_else(|_| Value::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn single_inputs_are_json_unless_the_schema_asks_for_a_string() {
        let text = "apiVersion: orch/v1\nkind: Dag\nid: t\ninputs: { type: object, properties: { name: { type: string } } }\n\
                    steps: [{ id: a, uses: fn/noop }]\n";
        let dag = spec::parse("t", text, &connect::limits()).unwrap();
        let pairs = ["name=7", "n=7", "list=[1]", "word=seven", "empty="].map(str::to_owned);
        let expected = json!({ "name": "7", "n": 7, "list": [1], "word": "seven", "empty": "" });
        assert_eq!(inputs(&dag, &pairs).unwrap(), expected);
    }

    #[test]
    fn single_inputs_lie_over_objects_and_later_ones_over_earlier_ones() {
        let text = "apiVersion: orch/v1\nkind: Dag\nid: t\nsteps: [{ id: a, uses: fn/noop }]\n";
        let dag = spec::parse("t", text, &connect::limits()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a: file\nb: file\nc: file\n").unwrap();
        let words = [
            "c=single".to_owned(),
            file.path().display().to_string(),
            r#"{"b": "object", "c": 1}"#.to_owned(),
        ];
        assert_eq!(inputs(&dag, &words).unwrap(), json!({ "a": "file", "b": "object", "c": "single" }));
        assert!(inputs(&dag, &["nowhere.yaml".to_owned()]).is_err());
    }
}
