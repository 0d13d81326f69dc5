//! The floors: who may depend on whom, and what the pure ones may not reach at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Crates and the floor each stands on. `None`: beside the house, may use every floor, never shipped in the server.
const FLOORS: &[(&str, Option<u8>)] = &[
    ("tertulia-model", Some(0)),
    ("tertulia-rtp", Some(0)),
    ("tertulia-xmpp", Some(0)),
    ("tertulia-sfu", Some(1)),
    ("tertulia-conference", Some(1)),
    ("tertulia-media", Some(2)),
    ("tertulia-signal", Some(2)),
    ("tertulia", Some(3)),
    ("tertulia-participant", None),
    ("tertulia-sim", None),
    ("tertulia-load", None),
    ("tertulia-fuzz", None),
    ("xtask", None),
];

/// Neighbours on a floor that may know each other: `model` is under everything.
const SAME_FLOOR: &[(&str, &str)] = &[("tertulia-rtp", "tertulia-model"), ("tertulia-xmpp", "tertulia-model")];

/// Runtimes, sockets, clocks and sources of chance: none of them may be reachable from floors 0 and 1.
const IMPURE: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "mio",
    "socket2",
    "polling",
    "hyper",
    "axum",
    "reqwest",
    "ureq",
    "getrandom",
    "rand",
    "tracing",
    "log",
    "parking_lot",
    "crossbeam-channel",
    "aws-lc-rs",
    "ring",
    "time",
    "chrono",
    "fastrand",
];

/// Findings about dependencies, read from `cargo metadata`.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let output = Command::new(env!("CARGO")).args(["metadata", "--format-version=1"]).current_dir(root).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let graph = Graph::read(&serde_json::from_slice(&output.stdout)?).ok_or("cargo metadata has another shape")?;
    Ok(graph.findings())
}

/// Normal dependencies (not those of tests and build scripts) by package id.
struct Graph {
    names: BTreeMap<String, String>,
    dependencies: BTreeMap<String, BTreeSet<String>>,
    members: Vec<String>,
}

impl Graph {
    fn read(metadata: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mut names = BTreeMap::new();
        for package in metadata["packages"].as_array()? {
            names.insert(text(&package["id"])?, text(&package["name"])?);
        }
        let mut dependencies = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array()? {
            let normal = |dep: &&Value| {
                dep["dep_kinds"]
                    .as_array()
                    .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null() && kind["target"].is_null()))
            };
            let of_node = node["deps"].as_array()?.iter().filter(normal).filter_map(|dep| text(&dep["pkg"])).collect();
            dependencies.insert(text(&node["id"])?, of_node);
        }
        let members = metadata["workspace_members"].as_array()?.iter().filter_map(text).collect();
        Some(Self { names, dependencies, members })
    }

    fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for id in &self.members {
            let name = &self.names[id];
            let Some((_, floor)) = FLOORS.iter().find(|(known, _)| known == name) else {
                findings.push(format!("{name}: stands on no floor; add it to crates/xtask/src/floors.rs"));
                continue;
            };
            self.check_direction(id, name, *floor, &mut findings);
            if matches!(floor, Some(0 | 1)) {
                self.check_purity(id, name, &mut findings);
            }
        }
        findings
    }

    fn check_direction(&self, id: &str, name: &str, floor: Option<u8>, findings: &mut Vec<String>) {
        let Some(own) = floor else { return };
        for dependency in &self.dependencies[id] {
            let other = &self.names[dependency];
            let Some((_, floor)) = FLOORS.iter().find(|(known, _)| known == other) else { continue };
            let neighbour = SAME_FLOOR.contains(&(name, other.as_str()));
            if !neighbour && floor.is_none_or(|floor| floor >= own) {
                findings.push(format!("{name}: depends on {other}, which is not below it"));
            }
        }
    }

    fn check_purity(&self, id: &str, name: &str, findings: &mut Vec<String>) {
        let mut seen = BTreeSet::new();
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(self.dependencies[id].iter().map(String::as_str));
            }
        }
        for reached in seen.iter().map(|id| self.names[*id].as_str()).filter(|reached| IMPURE.contains(reached)) {
            findings.push(format!("{name}: reaches {reached}; floors 0 and 1 are pure"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let names: BTreeSet<&str> = edges.iter().flat_map(|(a, b)| [*a, *b]).filter(|n| !n.is_empty()).collect();
        let packages: Vec<Value> = names.iter().map(|n| json!({"id": n, "name": n})).collect();
        let nodes: Vec<Value> = names
            .iter()
            .map(|n| {
                let deps = edges.iter().filter(|(a, b)| a == n && !b.is_empty());
                let deps: Vec<Value> =
                    deps.map(|(_, b)| json!({"pkg": b, "dep_kinds": [{"kind": null, "target": null}]})).collect();
                json!({"id": n, "deps": deps})
            })
            .collect();
        let members: Vec<&&str> = names.iter().filter(|n| n.starts_with("tertulia")).collect();
        Graph::read(&json!({"packages": packages, "resolve": {"nodes": nodes}, "workspace_members": members})).unwrap()
    }

    #[test]
    fn looking_up_is_a_finding() {
        let findings = graph(&[("tertulia-sfu", "tertulia-media"), ("tertulia-sfu", "tertulia-rtp")]).findings();
        assert_eq!(findings, ["tertulia-sfu: depends on tertulia-media, which is not below it"]);
    }

    #[test]
    fn a_runtime_behind_two_doors_is_a_finding() {
        let findings = graph(&[("tertulia-rtp", "innocent"), ("innocent", "tokio")]).findings();
        assert_eq!(findings, ["tertulia-rtp: reaches tokio; floors 0 and 1 are pure"]);
    }

    #[test]
    fn a_new_crate_needs_a_floor() {
        assert_eq!(graph(&[("tertulia-new", "")]).findings().len(), 1);
    }
}
