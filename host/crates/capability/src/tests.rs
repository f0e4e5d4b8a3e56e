use std::collections::BTreeSet;

use wit_parser::{Resolve, WorldItem};

use super::*;

const EVERYTHING: &str = r#"
name = "everything"
version = "1.0.0"
wit = "0.1"

[[secrets]]
name = "KEY"

[[egress]]
url = "https://api.example.com/**"
methods = ["GET"]

[kv]

[enqueue]
queues = ["otherQueue"]

[sql.tables]
"crm.leads" = ["select"]

[smtp]
allowed = true

[audit]
trails = ["leads"]

[[queues]]
name = "ownQueue"

[runtime_schedules]
prefix = "everything-"
queues = ["ownQueue"]

[credentials]
prefix = "school-"
fields = ["key"]

[accounts]
"#;

/// What a world with all capabilities imports, without the types.
fn imported(contract: &str) -> BTreeSet<String> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("plugin.wit", contract).expect("valid WIT");
    let world = resolve.packages[package].worlds["capabilities"];
    let interfaces = resolve.worlds[world]
        .imports
        .values()
        .filter_map(|item| match item {
            WorldItem::Interface { id, .. } => resolve.interfaces[*id].name.clone(),
            _ => None,
        });
    interfaces.filter(|name| name != "types").collect()
}

#[test]
fn every_interface_that_a_version_imports_is_listed_can_be_asked_for_and_is_documented() {
    let listed: BTreeSet<String> = LISTED.iter().map(|&name| name.to_owned()).collect();
    for contract in [
        include_str!("../../../../wit/v0.1/plugin.wit"),
        include_str!("../../../../wit/v0.2/plugin.wit"),
    ] {
        assert_eq!(
            imported(contract),
            listed,
            "`capabilities!` in capability/src/lib.rs lists other interfaces"
        );
    }
    let manifest =
        Manifest::from_toml(EVERYTHING, |_| Err("no such file".into())).expect("a manifest");
    let asked: BTreeSet<String> = manifest
        .asked_interfaces()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let unasked: Vec<_> = listed.difference(&asked).collect();
    assert!(
        unasked.is_empty(),
        "a manifest that asks for everything does not ask for {unasked:?}"
    );
    let docs = include_str!("../../../../docs/plugins/README.md");
    for interface in listed {
        assert!(
            docs.contains(&format!("`{interface}`")),
            "docs/plugins/README.md does not name `{interface}`"
        );
    }
}
