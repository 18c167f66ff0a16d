//! Metrics as lines of JSON, for whoever has no Prometheus.

use orch::Timestamp;
use serde_json::{Map, Value, json};

/// Each sample of an OpenMetrics text as a line of JSON: when, its name, its labels, its value.
pub(crate) fn lines(openmetrics: &str, at: Timestamp) -> String {
    let mut text = String::new();
    for line in openmetrics.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, labels, value)) = sample(line) else { continue };
        let sample = json!({ "at": at, "name": name, "labels": labels, "value": value });
        text.push_str(&sample.to_string());
        text.push('\n');
    }
    text
}

/// `name{label="value",…} number`, as OpenMetrics 1.0 writes it.
fn sample(line: &str) -> Option<(&str, Map<String, Value>, Value)> {
    let (series, number) = line.rsplit_once(' ')?;
    // JSON has no infinity.
    let value =
        number.parse::<f64>().ok().filter(|value| value.is_finite()).map_or(Value::from(number), Value::from);
    let Some((name, labels)) = series.split_once('{') else { return Some((series, Map::new(), value)) };
    Some((name, read_labels(labels.strip_suffix('}')?)?, value))
}

fn read_labels(mut text: &str) -> Option<Map<String, Value>> {
    let mut labels = Map::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), Value::from(value));
        text = rest[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_a_line_and_labels_are_what_they_were() {
        let text = "# TYPE x counter\nx_total{tenant=\"a\",why=\"say \\\"no\\\", \\\\ {or}\\nnot\"} 3\nplain 0.5\nb{le=\"+Inf\"} 7\n# EOF\n";
        let lines: Vec<Value> =
            lines(text, Timestamp::EPOCH).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["labels"], json!({ "tenant": "a", "why": "say \"no\", \\ {or}\nnot" }));
        assert_eq!((&lines[0]["name"], &lines[0]["value"]), (&json!("x_total"), &json!(3.0)));
        assert_eq!((&lines[1]["value"], &lines[2]["labels"]["le"]), (&json!(0.5), &json!("+Inf")));
    }
}
