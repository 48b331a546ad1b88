//! Bounds the work a schema can cause, before anything is compiled: the validator has no step budget of its own.
//!
//! A schema is a graph. Edges that stay at the same instance (`allOf`, `anyOf`, `$ref`, ...) multiply visits there;
//! edges that descend (`properties`, `items`, ...) carry them to the children. `visits(d)` is the number of schema
//! visits along the worst path through an instance nested `d` levels, found by dynamic programming over the graph.
//! A schema whose visits explode at once is refused; one that explodes by recursion is only used on instances shallow
//! enough.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use super::steps::{State, Walk, visits};
use crate::problem::{Problem, join, shorten};

const SCHEMA_BYTES: usize = 256 << 10;
const SCHEMA_DEPTH: usize = 64;
const SUBSCHEMAS: usize = 5_000;
const PATTERNS: usize = 100;
/// Visits along one path.
pub(super) const VISITS: usize = 10_000;
/// Every schema must be usable on instances nested at least this deep.
const LEAST_DEPTH: usize = 4;
/// Instances are never nested deeper (`serde_json` refuses them).
pub(super) const MOST_DEPTH: usize = 127;
/// Size of the whole bookkeeping; only schemas made to be hostile come near.
const EDGES: usize = 200_000;

const SAME_ONE: &[&str] = &["not", "if", "then", "else"];
const SAME_LIST: &[&str] = &["allOf", "anyOf", "oneOf"];
const SAME_MAP: &[&str] = &["dependentSchemas", "dependencies"];
const ANY_PROPERTY: &[&str] = &["additionalProperties", "propertyNames", "unevaluatedProperties"];
const ANY_ITEM: &[&str] = &["additionalItems", "contains", "unevaluatedItems"];

/// What a schema may be used on.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// Deepest nesting of an instance.
    pub(crate) depth: usize,
    /// Whether failed alternatives keep copies of the instance.
    pub(crate) alternatives: bool,
    /// Whether elements of an array are compared pairwise.
    pub(crate) unique: bool,
    visits: Vec<usize>,
}

impl Bounds {
    /// Visits along the worst path of an instance nested `depth` levels.
    pub(crate) fn visits_at(&self, depth: usize) -> usize {
        self.visits.get(depth).or(self.visits.last()).copied().unwrap_or(1)
    }
}

/// Measures the schema at `pointer`; `None` (noted) when it is refused.
pub(crate) fn measure(schema: &Value, pointer: &str, problems: &mut Vec<Problem>) -> Option<Bounds> {
    let refuse =
        |place: &str, message: String| Problem::at(format!("{pointer}{}", shorten(place, 200)), message);
    if nesting(schema) > SCHEMA_DEPTH {
        problems.push(refuse("", format!("a schema is nested at most {SCHEMA_DEPTH} levels")));
        return None;
    }
    if schema.to_string().len() > SCHEMA_BYTES {
        problems.push(refuse("", format!("a schema has at most {SCHEMA_BYTES} bytes")));
        return None;
    }
    let mut graph = Graph::new(schema);
    let found = graph.explore().and_then(|()| graph.bounds());
    found.map_err(|(place, message)| problems.push(refuse(&place, message))).ok()
}

/// Depth of a JSON value that came from the parser, so that recursion is bounded.
fn nesting(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(nesting).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(nesting).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Where a descending edge leads: which children of an instance it is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Child<'s> {
    Property(&'s str),
    AnyProperty,
    Item(usize),
    AnyItem,
}

/// One schema of the graph. Edges carry how often they are walked.
#[derive(Default)]
pub(super) struct Node<'s> {
    pub(super) place: String,
    cost: usize,
    pub(super) same: Vec<(usize, usize)>,
    down: Vec<(Child<'s>, usize)>,
}

/// The place and what is wrong there.
pub(super) type Refusal = (String, String);

pub(super) struct Graph<'s> {
    root: &'s Value,
    pub(super) nodes: Vec<Node<'s>>,
    /// Node of a schema by its address in the document: one node a schema, however it is reached.
    ids: HashMap<usize, usize>,
    queue: Vec<(usize, &'s Value)>,
    anchors: HashMap<&'s str, Vec<(String, &'s Value)>>,
    patterns: usize,
    alternatives: bool,
    unique: bool,
}

impl<'s> Graph<'s> {
    fn new(root: &'s Value) -> Self {
        let mut anchors = HashMap::new();
        collect_anchors(root, "", &mut anchors);
        Self {
            root,
            nodes: Vec::new(),
            ids: HashMap::new(),
            queue: Vec::new(),
            anchors,
            patterns: 0,
            alternatives: false,
            unique: false,
        }
    }

    /// Visits every schema of the document that is reachable or kept under `$defs`.
    fn explore(&mut self) -> Result<(), Refusal> {
        self.node(self.root, String::new());
        while let Some((id, schema)) = self.queue.pop() {
            if self.nodes.len() > SUBSCHEMAS {
                return Err((String::new(), format!("a schema has at most {SUBSCHEMAS} sub-schemas")));
            }
            match schema {
                Value::Object(keywords) => self.read(id, keywords)?,
                _ => self.nodes[id].cost = 1,
            }
        }
        if self.patterns > PATTERNS {
            return Err((String::new(), format!("a schema has at most {PATTERNS} patterns")));
        }
        Ok(())
    }

    fn node(&mut self, schema: &'s Value, place: String) -> usize {
        let address = std::ptr::from_ref(schema) as usize;
        if let Some(&id) = self.ids.get(&address) {
            return id;
        }
        let id = self.nodes.len();
        self.ids.insert(address, id);
        self.nodes.push(Node { place, ..Node::default() });
        self.queue.push((id, schema));
        id
    }

    fn read(&mut self, id: usize, keywords: &'s Map<String, Value>) -> Result<(), Refusal> {
        let place = self.nodes[id].place.clone();
        let at = |keyword: &str| join(&place, keyword);
        for keyword in ["$id", "$schema"] {
            if id != 0 && keywords.contains_key(keyword) {
                return Err((at(keyword), format!("`{keyword}` stands only at the root of a schema")));
            }
        }
        self.unique |= keywords.get("uniqueItems") == Some(&Value::Bool(true));
        self.patterns += usize::from(keywords.contains_key("pattern"));
        // Finding out what was evaluated already walks the schemas of this instance once more.
        let again =
            keywords.contains_key("unevaluatedProperties") || keywords.contains_key("unevaluatedItems");
        let times = if again { 2 } else { 1 };
        let mut node = Node { cost: 1, ..Node::default() };
        for keyword in SAME_ONE {
            if let Some(schema) = keywords.get(*keyword) {
                node.same.push((self.node(schema, at(keyword)), times));
            }
        }
        for keyword in SAME_LIST {
            for (n, schema) in elements(keywords, keyword) {
                self.alternatives |= *keyword != "allOf";
                node.same.push((self.node(schema, join(&at(keyword), &n.to_string())), times));
            }
        }
        for keyword in SAME_MAP {
            for (name, schema) in members(keywords, keyword).filter(|(_, schema)| !schema.is_array()) {
                node.same.push((self.node(schema, join(&at(keyword), name)), times));
            }
        }
        for keyword in ["$ref", "$dynamicRef", "$recursiveRef"] {
            let Some(reference) = keywords.get(keyword) else {
                continue;
            };
            for (target_place, target) in self.resolve(reference).map_err(|message| (at(keyword), message))? {
                node.same.push((self.node(target, target_place), times));
            }
        }
        for (name, schema) in members(keywords, "properties") {
            node.down.push((Child::Property(name), self.node(schema, join(&at("properties"), name))));
        }
        for (name, schema) in members(keywords, "patternProperties") {
            self.patterns += 1;
            node.cost += 1;
            node.down.push((Child::AnyProperty, self.node(schema, join(&at("patternProperties"), name))));
        }
        for (keywords_of, child) in [(ANY_PROPERTY, Child::AnyProperty), (ANY_ITEM, Child::AnyItem)] {
            for keyword in keywords_of {
                if let Some(schema) = keywords.get(*keyword) {
                    node.down.push((child, self.node(schema, at(keyword))));
                }
            }
        }
        match keywords.get("items") {
            Some(Value::Array(_)) | None => {}
            Some(schema) => node.down.push((Child::AnyItem, self.node(schema, at("items")))),
        }
        for keyword in ["items", "prefixItems"] {
            for (n, schema) in elements(keywords, keyword) {
                node.down.push((Child::Item(n), self.node(schema, join(&at(keyword), &n.to_string()))));
            }
        }
        for keyword in ["$defs", "definitions"] {
            for (name, schema) in members(keywords, keyword) {
                self.node(schema, join(&at(keyword), name));
            }
        }
        let kept = &mut self.nodes[id];
        (kept.cost, kept.same, kept.down) = (node.cost, node.same, node.down);
        Ok(())
    }

    /// The schemas a reference may lead to; only places inside the document.
    fn resolve(&self, reference: &Value) -> Result<Vec<(String, &'s Value)>, String> {
        let local = "a reference must be local: `#`, `#/...` or `#anchor`".to_owned();
        let Some(fragment) = reference.as_str().and_then(|text| text.strip_prefix('#')) else {
            return Err(local);
        };
        let fragment = percent_decoded(fragment).ok_or(local)?;
        if fragment.is_empty() || fragment.starts_with('/') {
            let target = self.root.pointer(&fragment).map(|target| vec![(fragment, target)]);
            return target.ok_or_else(|| "the reference leads nowhere".to_owned());
        }
        self.anchors.get(fragment.as_str()).cloned().ok_or_else(|| "the reference leads nowhere".to_owned())
    }

    /// The dynamic programming over the graph.
    fn bounds(&self) -> Result<Bounds, Refusal> {
        let mut walk = Walk { graph: self, state: vec![State::New; self.nodes.len()], order: Vec::new() };
        for id in 0..self.nodes.len() {
            walk.visit(id, 1)?;
        }
        let mut here = vec![0_usize; self.nodes.len()];
        let mut down: Vec<BTreeMap<(Child<'s>, usize), usize>> = vec![BTreeMap::new(); self.nodes.len()];
        let mut edges = 0;
        for id in walk.order {
            let node = &self.nodes[id];
            let mut count = node.cost;
            let mut reached: BTreeMap<(Child<'s>, usize), usize> = BTreeMap::new();
            for &(child, target) in &node.down {
                *reached.entry((child, target)).or_default() += 1;
            }
            for &(other, times) in &node.same {
                count = count.saturating_add(here[other].saturating_mul(times));
                for (edge, walked) in &down[other] {
                    let sum = reached.entry(*edge).or_default();
                    *sum = sum.saturating_add(walked.saturating_mul(times));
                }
            }
            edges += reached.len();
            if count > VISITS || edges > EDGES {
                let message = format!(
                    "checking this schema could take more than {VISITS} steps a value; use fewer alternatives"
                );
                return Err((node.place.clone(), message));
            }
            here[id] = count;
            down[id] = reached;
        }
        let visits = visits(&here, &down);
        if visits.len() <= LEAST_DEPTH {
            let message = "checking this schema takes exponentially many steps, because schemas for the same value refer \
                           back to it more than once"
                .to_owned();
            return Err((String::new(), message));
        }
        let depth = if visits.len() > MOST_DEPTH { MOST_DEPTH } else { visits.len() - 1 };
        Ok(Bounds { depth, alternatives: self.alternatives, unique: self.unique, visits })
    }
}

fn elements<'s>(keywords: &'s Map<String, Value>, keyword: &str) -> impl Iterator<Item = (usize, &'s Value)> {
    keywords.get(keyword).and_then(Value::as_array).into_iter().flatten().enumerate()
}

fn members<'s>(
    keywords: &'s Map<String, Value>,
    keyword: &str,
) -> impl Iterator<Item = (&'s String, &'s Value)> {
    keywords.get(keyword).and_then(Value::as_object).into_iter().flatten()
}

fn collect_anchors<'s>(
    value: &'s Value,
    place: &str,
    anchors: &mut HashMap<&'s str, Vec<(String, &'s Value)>>,
) {
    match value {
        Value::Object(members) => {
            for keyword in ["$anchor", "$dynamicAnchor"] {
                if let Some(Value::String(name)) = members.get(keyword) {
                    anchors.entry(name).or_default().push((place.to_owned(), value));
                }
            }
            for (name, member) in members {
                collect_anchors(member, &join(place, name), anchors);
            }
        }
        Value::Array(elements) => {
            for (n, element) in elements.iter().enumerate() {
                collect_anchors(element, &join(place, &n.to_string()), anchors);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A URI fragment with its `%XX` decoded; `None` when they are no UTF-8.
fn percent_decoded(fragment: &str) -> Option<String> {
    if !fragment.contains('%') {
        return Some(fragment.to_owned());
    }
    let bytes = fragment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
            decoded.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            decoded.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
