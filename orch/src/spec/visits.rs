//! Bounds the time a schema can take: how often a validator looks at one value. Keywords that stay at the value
//! (`$ref`, `allOf`, …) multiply by their paths, and recursion through keywords that go into the value (`items`,
//! `properties`, …) multiplies with each level of it when a child is reached by more than one path. Nothing recurses.

use std::collections::BTreeMap;

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;

use super::diagnostic::PROBLEMS_MAX;
use super::inputs::SchemaProblem;
use super::source::escape;

/// Looks at one value that a schema may cause.
const VISITS_MAX: u64 = 10_000;

/// Patterns a schema may hold: each is a compiled machine.
const PATTERNS_MAX: usize = 200;

/// What may be remembered about the children of values: a schema within the other limits rarely needs more.
const SLOTS_MAX: usize = 1_000_000;

/// Where a subschema looks, seen from the value of the one that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'s> {
    /// The same value.
    Here,
    /// The property of this name.
    Name(&'s str),
    /// Any property; the sibling `properties` apart if the flag says so.
    AnyName { apart: bool },
    /// The item of this position.
    Index(usize),
    /// Any item.
    AnyIndex,
    /// Nowhere of its own accord, or at a text, which has no parts.
    Apart,
}

struct Edge<'s> {
    to: usize,
    place: Place<'s>,
}

/// The subschemas of a schema, each once, and how they lead to each other.
#[derive(Default)]
struct Schemas<'s> {
    pointers: Vec<String>,
    edges: Vec<Vec<Edge<'s>>>,
    /// Whether it looks twice at what its keywords say: once for its own sake, once for `unevaluated…`.
    twice: Vec<bool>,
    found: BTreeMap<String, usize>,
    values: Vec<&'s Value>,
}

/// Finds what makes a schema cost too much.
pub(super) fn check(root: &Value) -> Vec<SchemaProblem> {
    let mut problems = Vec::new();
    let schemas = Schemas::collect(root, &mut problems);
    if problems.is_empty() {
        schemas.check(&mut problems);
    }
    problems.truncate(PROBLEMS_MAX);
    problems
}

impl<'s> Schemas<'s> {
    fn collect(root: &'s Value, problems: &mut Vec<SchemaProblem>) -> Self {
        let mut all = Self::default();
        all.add(String::new(), root);
        let anchors = anchors(root);
        let (mut next, mut patterns) = (0, 0);
        while next < all.values.len() {
            let (value, pointer) = (all.values[next], all.pointers[next].clone());
            for (keyword, content) in value.as_object().into_iter().flatten() {
                let below = format!("{pointer}/{}", escape(keyword));
                match keyword.as_str() {
                    "$id" if next > 0 => {
                        let message =
                            "`$id` can only stand at the top; give the subschema an `$anchor` instead";
                        problems.push(SchemaProblem { pointer: below, message: message.to_owned() });
                    }
                    "$ref" | "$dynamicRef" => match content.as_str().map(|text| target(root, &anchors, text))
                    {
                        Some(Some((pointer, value))) => all.link(next, Place::Here, pointer, value),
                        _ => {
                            let message = "the reference leads nowhere; name a `$defs` entry or an `$anchor`";
                            problems.push(SchemaProblem { pointer: below, message: message.to_owned() });
                        }
                    },
                    "pattern" => patterns += 1,
                    _ => {
                        patterns += usize::from(keyword == "patternProperties")
                            * content.as_object().map_or(0, serde_json::Map::len);
                        all.link_parts(next, keyword, content, &below);
                    }
                }
            }
            all.twice[next] =
                ["unevaluatedProperties", "unevaluatedItems"].iter().any(|name| value.get(name).is_some());
            next += 1;
        }
        if patterns > PATTERNS_MAX {
            let message =
                format!("the schema has {patterns} patterns, the limit is {PATTERNS_MAX}; use fewer");
            problems.push(SchemaProblem { pointer: String::new(), message });
        }
        all
    }

    fn add(&mut self, pointer: String, value: &'s Value) -> usize {
        let fresh = self.values.len();
        let index = *self.found.entry(pointer.clone()).or_insert(fresh);
        if index == fresh {
            self.pointers.push(pointer);
            self.edges.push(Vec::new());
            self.twice.push(false);
            self.values.push(value);
        }
        index
    }

    fn link(&mut self, from: usize, place: Place<'s>, pointer: String, value: &'s Value) {
        let to = self.add(pointer, value);
        self.edges[from].push(Edge { to, place });
    }

    /// Links the subschemas that a keyword holds: one, a list, or a map of them.
    fn link_parts(&mut self, from: usize, keyword: &str, content: &'s Value, below: &str) {
        match keyword {
            "not" | "if" | "then" | "else" => self.link(from, Place::Here, below.to_owned(), content),
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => {
                for (index, part) in content.as_array().into_iter().flatten().enumerate() {
                    let place = if keyword == "prefixItems" { Place::Index(index) } else { Place::Here };
                    self.link(from, place, format!("{below}/{index}"), part);
                }
            }
            "items" | "contains" | "unevaluatedItems" | "additionalItems" => {
                self.link(from, Place::AnyIndex, below.to_owned(), content);
            }
            "additionalProperties" | "unevaluatedProperties" => {
                self.link(from, Place::AnyName { apart: true }, below.to_owned(), content);
            }
            "propertyNames" | "contentSchema" => self.link(from, Place::Apart, below.to_owned(), content),
            "properties" | "patternProperties" | "dependentSchemas" | "dependencies" | "$defs"
            | "definitions" => {
                for (name, part) in content.as_object().into_iter().flatten() {
                    let place = match keyword {
                        "properties" => Place::Name(name),
                        "patternProperties" => Place::AnyName { apart: false },
                        "dependentSchemas" | "dependencies" => Place::Here,
                        _ => Place::Apart,
                    };
                    self.link(from, place, format!("{below}/{}", escape(name)), part);
                }
            }
            _ => {}
        }
    }

    /// The knots of the links that `keep` lets through, what is led to first.
    fn knots(&self, keep: impl Fn(Place<'s>) -> bool) -> Vec<Vec<NodeIndex<usize>>> {
        let mut graph: DiGraph<(), (), usize> = DiGraph::with_capacity(self.values.len(), 0);
        for _ in &self.values {
            graph.add_node(());
        }
        for (from, edges) in self.edges.iter().enumerate() {
            for edge in edges.iter().filter(|edge| keep(edge.place)) {
                graph.add_edge(NodeIndex::new(from), NodeIndex::new(edge.to), ());
            }
        }
        kosaraju_scc(&graph)
    }

    fn check(&self, problems: &mut Vec<SchemaProblem>) {
        let mut report = |node: usize, message: &str| {
            problems
                .push(SchemaProblem { pointer: self.pointers[node].clone(), message: message.to_owned() });
        };
        // Within the order of the whole, that of the links that stay at a value.
        let mut order = Vec::with_capacity(self.values.len());
        for knot in self.knots(|place| place == Place::Here) {
            let node = knot[0].index();
            let own = self.edges[node].iter().any(|edge| edge.place == Place::Here && edge.to == node);
            if knot.len() > 1 || own {
                report(
                    node,
                    "the schema refers to itself without going deeper into the value; remove the reference",
                );
                return;
            }
            order.push(node);
        }
        let mut knot_of = vec![0; self.values.len()];
        for (rank, knot) in self.knots(|place| place != Place::Apart).iter().enumerate() {
            knot.iter().for_each(|node| knot_of[node.index()] = rank);
        }
        // Stable: what is led to at the same value stays first.
        order.sort_by_key(|node| knot_of[*node]);
        let mut counts = Counts {
            schemas: self,
            knot_of,
            most: vec![1; self.values.len()],
            slots: self.values.iter().map(|_| Slots::default()).collect(),
            visits: vec![1; self.values.len()],
            kept: 0,
        };
        for node in order {
            if let Err(message) = counts.count(node) {
                return report(node, &message);
            }
        }
    }
}

/// How often the parts of one value are looked at: those named, and all others.
#[derive(Default)]
struct Slots<'s> {
    names: BTreeMap<&'s str, Times>,
    indexes: BTreeMap<usize, Times>,
    any_name: Times,
    any_index: Times,
}

#[derive(Clone, Copy, Default)]
struct Times {
    /// The most looks at one value, for subschemas that do not lead back.
    out: u64,
    /// The paths that lead back.
    back: u64,
}

impl Times {
    fn plus(self, other: Self, times: u64) -> Self {
        let add = |a: u64, b: u64| a.saturating_add(b.saturating_mul(times));
        Self { out: add(self.out, other.out), back: add(self.back, other.back) }
    }

    fn max(self, other: Self) -> Self {
        Self { out: self.out.max(other.out), back: self.back.max(other.back) }
    }
}

fn merge<K: Ord + Copy>(
    (into, any): (&mut BTreeMap<K, Times>, &mut Times),
    (from, more): (&BTreeMap<K, Times>, Times),
    times: u64,
    settle: impl Fn(Times) -> Times,
) {
    for (key, slot) in into.iter_mut() {
        *slot = slot.plus(settle(from.get(key).copied().unwrap_or(more)), times);
    }
    for (key, slot) in from {
        into.entry(*key).or_insert_with(|| any.plus(settle(*slot), times));
    }
    *any = any.plus(settle(more), times);
}

impl<'s> Slots<'s> {
    fn all(&self) -> impl Iterator<Item = Times> {
        let named = self.names.values().chain(self.indexes.values()).copied();
        named.chain([self.any_name, self.any_index])
    }

    fn len(&self) -> usize {
        self.names.len() + self.indexes.len()
    }
}

struct Counts<'a, 's> {
    schemas: &'a Schemas<'s>,
    knot_of: Vec<usize>,
    /// For each knot, the most looks at one value that one look by it leads to.
    most: Vec<u64>,
    slots: Vec<Slots<'s>>,
    visits: Vec<u64>,
    kept: usize,
}

impl<'s> Counts<'_, 's> {
    /// Counts for one subschema, once all it leads to at the same value are counted.
    fn count(&mut self, node: usize) -> Result<(), String> {
        let mut slots = self.own(node);
        let knot = self.knot_of[node];
        let times = if self.schemas.twice[node] { 2 } else { 1 };
        let mut visits = 1_u64;
        for edge in self.schemas.edges[node].iter().filter(|edge| edge.place == Place::Here) {
            visits = visits.saturating_add(self.visits[edge.to].saturating_mul(times));
            let (target, most) = (self.knot_of[edge.to], self.most[self.knot_of[edge.to]]);
            // What leads back within another knot does not lead back here.
            let settle = |slot: Times| match target == knot {
                true => slot,
                false => Times { out: slot.out.saturating_add(slot.back.saturating_mul(most)), back: 0 },
            };
            let from = &self.slots[edge.to];
            merge((&mut slots.names, &mut slots.any_name), (&from.names, from.any_name), times, settle);
            merge((&mut slots.indexes, &mut slots.any_index), (&from.indexes, from.any_index), times, settle);
            if self.kept.saturating_add(slots.len()) > SLOTS_MAX {
                return Err("the schema combines too many properties; make it simpler".to_owned());
            }
        }
        let deepest = slots.all().map(|slot| slot.out).max().unwrap_or(0);
        if visits.max(deepest) > VISITS_MAX {
            return Err(format!(
                "one value can be looked at more than {VISITS_MAX} times; refer to each definition once"
            ));
        }
        if slots.all().any(|slot| slot.back > 1) {
            return Err(
                "the schema leads back to itself for the same part of a value by more than one path, which \
                 doubles the work with each level; lead back once"
                    .to_owned(),
            );
        }
        self.most[knot] = self.most[knot].max(visits).max(deepest);
        self.kept += slots.len();
        self.visits[node] = visits;
        self.slots[node] = slots;
        Ok(())
    }

    /// What the keywords of one subschema look at within the value.
    fn own(&self, node: usize) -> Slots<'s> {
        let (mut slots, mut rest, mut patterns) = (Slots::default(), Times::default(), Times::default());
        for edge in &self.schemas.edges[node] {
            let times = if self.knot_of[edge.to] == self.knot_of[node] {
                Times { out: 0, back: 1 }
            } else {
                Times { out: self.most[self.knot_of[edge.to]], back: 0 }
            };
            match edge.place {
                Place::Name(name) => drop(slots.names.insert(name, times)),
                Place::Index(index) => drop(slots.indexes.insert(index, times)),
                Place::AnyName { apart: true } => rest = rest.max(times),
                Place::AnyName { apart: false } => patterns = patterns.plus(times, 1),
                Place::AnyIndex => slots.any_index = slots.any_index.plus(times, 1),
                Place::Here | Place::Apart => {}
            }
        }
        // A property has its own subschema and those of patterns; only without either the one for the rest.
        slots.names.values_mut().for_each(|slot| *slot = slot.plus(patterns, 1));
        slots.any_name = patterns.max(rest);
        let any_index = slots.any_index;
        slots.indexes.values_mut().for_each(|slot| *slot = slot.plus(any_index, 1));
        slots
    }
}

/// Every `$anchor` and `$dynamicAnchor`, with its pointer.
fn anchors(root: &Value) -> BTreeMap<&str, (String, &Value)> {
    let mut found = BTreeMap::new();
    let mut open = vec![(String::new(), root)];
    while let Some((pointer, value)) = open.pop() {
        for name in ["$anchor", "$dynamicAnchor"] {
            if let Some(name) = value.get(name).and_then(Value::as_str) {
                found.insert(name, (pointer.clone(), value));
            }
        }
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    open.push((format!("{pointer}/{}", escape(name)), value));
                }
            }
            Value::Array(items) => {
                open.extend(items.iter().enumerate().map(|(at, value)| (format!("{pointer}/{at}"), value)));
            }
            _ => {}
        }
    }
    found
}

/// What a reference within the schema leads to, with its pointer.
fn target<'s>(
    root: &'s Value,
    anchors: &BTreeMap<&str, (String, &'s Value)>,
    reference: &str,
) -> Option<(String, &'s Value)> {
    let name = decoded(reference.strip_prefix('#')?)?;
    if name.is_empty() || name.starts_with('/') {
        // Spelled anew, so that each place has one name only.
        let parts = name.split('/').skip(1).map(|part| escape(&part.replace("~1", "/").replace("~0", "~")));
        let pointer: String = parts.map(|part| format!("/{part}")).collect();
        return root.pointer(&pointer).map(|value| (pointer, value));
    }
    anchors.get(name.as_str()).cloned()
}

/// The text without percent encoding (RFC 3986, section 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        bytes.push(match (first, more) {
            (b'%', [high, low, ..]) => {
                rest = &more[2..];
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                u8::try_from(digit(high)? * 16 + digit(low)?).ok()?
            }
            _ => *first,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The first problem: its place and how its message begins.
    fn refused(schema: &Value) -> (String, String) {
        let first = check(schema).into_iter().next().unwrap_or_else(|| panic!("accepted: {schema}"));
        (first.pointer, first.message)
    }

    fn chain(length: usize, link: impl Fn(Value) -> Value) -> Value {
        let reference = |n: usize| json!({"$ref": format!("#/$defs/a{n}")});
        let mut defs: serde_json::Map<String, Value> =
            (0..length).map(|n| (format!("a{n}"), link(reference(n + 1)))).collect();
        defs.insert(format!("a{length}"), json!({"type": "integer"}));
        json!({"$defs": defs, "$ref": "#/%24defs/a0"})
    }

    #[test]
    fn a_chain_that_doubles_at_the_same_value_is_refused_where_it_grows_too_large() {
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let (pointer, message) = refused(&chain(22, |next| json!({keyword: [next, next]})));
            assert!(pointer.starts_with("/$defs/a") && message.contains("10000"), "{pointer}: {message}");
            assert_eq!(check(&chain(8, |next| json!({keyword: [next, next]}))), []);
            assert_eq!(check(&chain(22, |next| json!({keyword: [next]}))), []);
        }
        refused(&chain(22, |next| json!({"if": next, "then": next})));
        refused(&chain(22, |next| json!({"dependentSchemas": {"a": next, "b": next}})));
        refused(&chain(22, |next| json!({"allOf": [next], "unevaluatedProperties": false})));
    }

    #[test]
    fn a_chain_that_doubles_with_each_level_of_the_value_is_refused_too() {
        refused(&chain(22, |next| json!({"items": {"allOf": [next, next]}})));
        refused(&chain(22, |next| json!({"allOf": [{"items": next}, {"items": next}]})));
        refused(&chain(22, |next| json!({"properties": {"a": next}, "patternProperties": {"a": next}})));
        assert_eq!(check(&chain(22, |next| json!({"properties": {"a": next, "b": next}}))), []);
    }

    #[test]
    fn recursion_by_two_paths_to_the_same_part_is_refused() {
        let t = json!({"$ref": "#/$defs/t"});
        for definition in [
            json!({"items": {"allOf": [t, t]}}),
            json!({"items": t, "contains": t}),
            json!({"items": t, "prefixItems": [t]}),
            json!({"anyOf": [{"items": t}, {"items": t}]}),
            json!({"properties": {"a": t}, "patternProperties": {"^a": t}}),
            json!({"anyOf": [{"properties": {"a": t}}, {"additionalProperties": t}]}),
            json!({"anyOf": [{"items": t}], "unevaluatedItems": false}),
            json!({"items": {"items": {"allOf": [t, t]}}}),
        ] {
            let (_, message) = refused(&json!({"$defs": {"t": definition}, "$ref": "#/$defs/t"}));
            assert!(message.contains("lead back once"), "{definition}: {message}");
        }
        let anchored = json!({"$defs": {"t": {"$dynamicAnchor": "t", "items": {"anyOf": [
            {"$dynamicRef": "#t"}, {"$dynamicRef": "#t"}]}}}});
        assert!(refused(&anchored).1.contains("lead back once"));
    }

    #[test]
    fn recursion_that_costs_what_the_value_holds_is_accepted() {
        let t = json!({"$ref": "#/$defs/t"});
        for definition in [
            json!({"properties": {"left": t, "right": t}, "additionalProperties": false}),
            json!({"anyOf": [{"type": "integer"}, {"type": "array", "items": t}]}),
            json!({"oneOf": [{"type": "null"}, {"items": t}, {"additionalProperties": t}]}),
            json!({"properties": {"a": t, "kids": {"items": t}}, "unevaluatedProperties": false}),
            json!({"properties": {"a": t}, "additionalProperties": t}),
        ] {
            assert_eq!(check(&json!({"$defs": {"t": definition}, "$ref": "#/$defs/t"})), [], "{definition}");
        }
    }

    #[test]
    fn a_reference_that_stays_at_the_value_and_leads_back_is_refused() {
        for schema in [json!({"$ref": "#"}), json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]})] {
            assert!(refused(&schema).1.contains("without going deeper"), "{schema}");
        }
        assert_eq!(refused(&json!({"not": {"$id": "x"}})).0, "/not/$id");
        assert_eq!(refused(&json!({"items": {"$ref": "#nowhere"}})).0, "/items/$ref");
    }

    #[test]
    fn more_patterns_than_the_limit_are_refused() {
        let schema = |count: usize| {
            let named: serde_json::Map<_, _> = (1..count).map(|n| (format!("^{n}$"), json!(true))).collect();
            json!({"items": {"pattern": "x"}, "patternProperties": named})
        };
        assert_eq!(check(&schema(200)), []);
        assert!(refused(&schema(201)).1.contains("201 patterns"));
    }
}
