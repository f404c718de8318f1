//! The arrows between the crates, read from `cargo metadata`: what may depend on what is a table, and the build breaks where
//! a service imports a service or a layer is skipped.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

const SERVICES: &[&str] = &["agent-runner", "communication", "gateway", "orchestrator", "registry"];

/// What each of our crates may depend on, among our crates, in what it ships (tests may use `testkit` besides).
fn allowed() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    const SHARED: &[&str] =
        &["access", "contracts", "domain", "errors", "lifecycle", "settings", "store", "telemetry", "trace"];
    let shared = |more: &[&'static str]| SHARED.iter().chain(more).copied().collect::<BTreeSet<_>>();
    let set = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
    BTreeMap::from([
        // The words and the tools: each one job, and none knows a service.
        ("access", set(&["domain", "errors", "settings"])),
        ("contracts", set(&["trace"])),
        ("domain", set(&[])),
        ("errors", set(&[])),
        ("expressions", set(&[])),
        ("lifecycle", set(&[])),
        ("settings", set(&[])),
        ("telemetry", set(&["settings", "trace"])),
        ("trace", set(&[])),
        ("store", set(&["domain", "errors", "lifecycle", "settings"])),
        ("rpc", set(&["access", "contracts", "domain", "errors", "lifecycle", "settings", "trace"])),
        // The engine is pure: it knows the words and nothing that could reach the outside.
        ("workflow", set(&["domain", "expressions"])),
        // Others build on it: no store and no settings of ours.
        ("agent-sdk", set(&["contracts", "domain", "errors", "lifecycle", "trace"])),
        // Services meet in `contracts`, never in each other.
        ("registry", shared(&[])),
        ("communication", shared(&[])),
        ("orchestrator", shared(&["workflow"])),
        ("agent-runner", shared(&["agent-sdk", "expressions"])),
        ("gateway", shared(&[])),
        // The binary sees all of them, and so do the tests that drive it.
        ("troupe", shared(&[SERVICES, &["agent-sdk", "rpc"]].concat())),
        ("testkit", set(&[])),
        ("troupe-tests", set(&["testkit"])),
        ("custom-agent", set(&["agent-sdk"])),
    ])
}

/// Every crate's dependencies of the workspace, by kind.
fn arrows(kind: DependencyKind) -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata answers");
    let ours: BTreeSet<_> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let dependencies = |package: &cargo_metadata::Package| {
        let of_kind = package.dependencies.iter().filter(|dependency| dependency.kind == kind);
        of_kind.map(|dependency| dependency.name.clone()).filter(|name| ours.contains(name)).collect()
    };
    metadata.packages.iter().map(|package| (package.name.to_string(), dependencies(package))).collect()
}

#[test]
fn every_arrow_between_crates_is_an_allowed_one() {
    let allowed = allowed();
    for (package, dependencies) in arrows(DependencyKind::Normal) {
        let allowed = allowed
            .get(package.as_str())
            .unwrap_or_else(|| panic!("{package} has no place in the house: give it one here"));
        let wrong: Vec<_> = dependencies.iter().filter(|name| !allowed.contains(name.as_str())).collect();
        assert!(wrong.is_empty(), "{package} must not depend on {wrong:?}");
    }
}

#[test]
fn no_service_sees_another_even_in_tests() {
    for kind in [DependencyKind::Normal, DependencyKind::Development, DependencyKind::Build] {
        let arrows = arrows(kind);
        for service in SERVICES {
            let seen: Vec<_> = arrows[*service].iter().filter(|name| SERVICES.contains(&name.as_str())).collect();
            assert!(seen.is_empty(), "{service} sees {seen:?}");
        }
    }
}

#[test]
fn the_engine_is_pure() {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata answers");
    let engine = metadata.packages.iter().find(|package| package.name == "workflow").expect("the engine exists");
    let impure = ["tokio", "tonic", "sqlx", "axum", "reqwest", "rand", "lifecycle", "store"];
    let found: Vec<_> = engine
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind == DependencyKind::Normal && impure.contains(&dependency.name.as_str()))
        .map(|dependency| &dependency.name)
        .collect();
    assert!(
        found.is_empty(),
        "crates/workflow does no I/O, reads no clock and draws no numbers, so it cannot need {found:?}"
    );
}
