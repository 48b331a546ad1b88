//! Turns a schema with references and combinations into one plain schema of which a value can be made.
//!
//! `allOf` is merged, of `anyOf` and `oneOf` one branch is chosen, `if` is made true. Not every schema can be met this way;
//! the value is a good guess and not a proof.

use serde_json::{Map, Value};

use super::draw::Draw;

/// Where the flattened schema keeps names of properties that must not be there, so that no second branch of a `oneOf`
/// becomes true. No schema can hold this key, for it is no keyword.
pub(super) const AVOID: &str = "\u{0}avoid";
const MAX_STEPS: u32 = 64;

/// One plain schema; `None` for `false`, which no value satisfies. `shallow` prefers branches that end a recursion.
pub(super) fn flatten(
    schema: &Value,
    root: &Value,
    shallow: bool,
    draw: &mut Draw,
) -> Option<Map<String, Value>> {
    let mut plain = match schema {
        Value::Object(map) => {
            map.iter().filter(|(key, _)| matters(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
        }
        Value::Bool(false) => return None,
        _ => Map::new(),
    };
    for _ in 0..MAX_STEPS {
        if let Some(reference) = plain.remove("$ref") {
            if let Some(Value::Object(target)) =
                reference.as_str().and_then(|reference| resolve(reference, root))
            {
                merge(&mut plain, target);
            }
        } else if let Some(Value::Array(parts)) = plain.remove("allOf") {
            for part in parts {
                if let Value::Object(part) = part {
                    merge(&mut plain, &part);
                }
            }
        } else if let Some(Value::Array(branches)) = plain.remove("oneOf") {
            let chosen = choose(&branches, &plain, shallow, draw);
            avoid_others(&mut plain, &branches, chosen);
            merge_branch(&mut plain, branches.get(chosen));
        } else if let Some(Value::Array(branches)) = plain.remove("anyOf") {
            let chosen = choose(&branches, &plain, shallow, draw);
            merge_branch(&mut plain, branches.get(chosen));
        } else if let Some(condition) = plain.remove("if") {
            let consequence = plain.remove("then");
            plain.remove("else");
            merge_branch(&mut plain, Some(&condition));
            merge_branch(&mut plain, consequence.as_ref());
        } else {
            break;
        }
    }
    if let Some(names) =
        plain.remove("not").as_ref().and_then(|not| not.get("required")).and_then(Value::as_array)
    {
        avoid(&mut plain, names.iter().filter_map(Value::as_str).map(str::to_owned));
    }
    Some(plain)
}

/// Definitions are found from the root; to copy them to every value would cost the square of the schema.
fn matters(key: &str) -> bool {
    !matches!(key, "$defs" | "definitions" | "examples" | "description" | "title")
}

fn merge_branch(plain: &mut Map<String, Value>, branch: Option<&Value>) {
    if let Some(Value::Object(branch)) = branch {
        merge(plain, branch);
    }
}

/// A reference into the same document: a JSON Pointer after `#`.
fn resolve<'a>(reference: &str, root: &'a Value) -> Option<&'a Value> {
    let pointer = reference.strip_prefix('#')?;
    // The few escapes a pointer in a fragment needs in practice.
    let pointer = pointer.replace("%25", "%").replace("%20", " ").replace("%24", "$");
    root.pointer(&pointer)
}

/// The index of a branch that fits the rest: rarely null, and in the depth one that does not refer further.
fn choose(branches: &[Value], plain: &Map<String, Value>, shallow: bool, draw: &mut Draw) -> usize {
    let fits = |branch: &Value| match (plain.get("type"), branch.get("type")) {
        _ if branch == &Value::Bool(false) => false,
        (Some(own), Some(other)) => !common_types(own, other).is_empty(),
        _ => true,
    };
    let is_null = |branch: &Value| branch.get("type").and_then(Value::as_str) == Some("null");
    let ends = |branch: &Value| {
        branch.get("$ref").is_none() && branch.get("properties").is_none() && branch.get("items").is_none()
    };
    let fitting: Vec<usize> = (0..branches.len()).filter(|at| fits(&branches[*at])).collect();
    let mut wanted = fitting.clone();
    if shallow {
        wanted.retain(|at| ends(&branches[*at]));
    } else if !draw.percent(15) {
        wanted.retain(|at| !is_null(&branches[*at]));
    }
    let from = if wanted.is_empty() { &fitting } else { &wanted };
    draw.pick(from).copied().unwrap_or(0)
}

/// What the other branches require and the chosen one does not know stays out.
fn avoid_others(plain: &mut Map<String, Value>, branches: &[Value], chosen: usize) {
    let required = |branch: &Value| -> Vec<String> {
        let names = branch.get("required").and_then(Value::as_array);
        names.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let own = branches.get(chosen).map(required).unwrap_or_default();
    let others =
        branches.iter().enumerate().filter(|(at, _)| *at != chosen).flat_map(|(_, branch)| required(branch));
    let names: Vec<String> = others.filter(|name| !own.contains(name)).collect();
    avoid(plain, names);
}

fn avoid(plain: &mut Map<String, Value>, names: impl IntoIterator<Item = String>) {
    let list = plain.entry(AVOID).or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = list {
        list.extend(names.into_iter().map(Value::String));
    }
}

/// Tightens one schema by another.
pub(super) fn merge(plain: &mut Map<String, Value>, other: &Map<String, Value>) {
    for (key, theirs) in other.iter().filter(|(key, _)| matters(key)) {
        let Some(ours) = plain.get_mut(key) else {
            plain.insert(key.clone(), theirs.clone());
            continue;
        };
        match (key.as_str(), &mut *ours, theirs) {
            (
                "properties" | "$defs" | "definitions" | "patternProperties",
                Value::Object(ours),
                Value::Object(theirs),
            ) => {
                for (name, schema) in theirs {
                    let merged = ours.remove(name).map_or_else(|| schema.clone(), |own| both(&own, schema));
                    ours.insert(name.clone(), merged);
                }
            }
            ("required" | AVOID | "allOf", Value::Array(ours), Value::Array(theirs)) => {
                ours.extend(theirs.iter().cloned());
            }
            ("enum", Value::Array(ours), Value::Array(theirs)) => ours.retain(|value| theirs.contains(value)),
            ("type", ours, theirs) => {
                let common = common_types(ours, theirs);
                if !common.is_empty() {
                    *ours = Value::Array(common);
                }
            }
            ("minimum" | "exclusiveMinimum" | "minLength" | "minItems" | "minProperties", ours, theirs)
                if theirs.as_f64() > ours.as_f64() =>
            {
                *ours = theirs.clone();
            }
            ("maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "maxProperties", ours, theirs)
                if theirs.as_f64() < ours.as_f64() =>
            {
                *ours = theirs.clone();
            }
            ("items" | "additionalProperties", ours, theirs) => *ours = both(ours, theirs),
            // Kept apart, to be chosen and resolved one after the other.
            ("$ref" | "anyOf" | "oneOf" | "if", _, _) => {
                let apart = Value::Object(Map::from_iter([(key.clone(), theirs.clone())]));
                match plain.get_mut("allOf") {
                    Some(Value::Array(parts)) => parts.push(apart),
                    _ => drop(plain.insert("allOf".to_owned(), Value::Array(vec![apart]))),
                }
            }
            _ => {}
        }
    }
}

fn both(ours: &Value, theirs: &Value) -> Value {
    match (ours, theirs) {
        (Value::Bool(true), other) | (other, Value::Bool(true)) => other.clone(),
        (Value::Bool(false), _) | (_, Value::Bool(false)) => Value::Bool(false),
        (ours, theirs) => serde_json::json!({ "allOf": [ours, theirs] }),
    }
}

/// The types two `type` keywords have in common; an integer is a number.
fn common_types(ours: &Value, theirs: &Value) -> Vec<Value> {
    let list = |value: &Value| match value {
        Value::Array(types) => types.clone(),
        single => vec![single.clone()],
    };
    let (ours, theirs) = (list(ours), list(theirs));
    let (number, integer) = (Value::from("number"), Value::from("integer"));
    let mut common: Vec<Value> = ours.iter().filter(|ours| theirs.contains(ours)).cloned().collect();
    let mixed = (ours.contains(&number) && theirs.contains(&integer))
        || (ours.contains(&integer) && theirs.contains(&number));
    if mixed && !common.contains(&integer) && !common.contains(&number) {
        common.push(integer);
    }
    common
}
