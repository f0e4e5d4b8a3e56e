//! Embeds those of BullMQ's own scripts that we call ourselves, from the package that Cargo fetched: no copy in the repository.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

const SCRIPTS: [&str; 7] = [
    "addStandardJob-9.lua",
    "addDelayedJob-6.lua",
    "addPrioritizedJob-9.lua",
    "extendLocks-1.lua",
    "moveToDelayed-11.lua",
    "saveStacktrace-1.lua",
    "reprocessJob-9.lua",
];

fn main() {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform"])
        .arg(env::var("TARGET").expect("cargo sets TARGET"))
        .current_dir(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("cargo metadata: {error}: {}", String::from_utf8_lossy(&output.stderr)));
    let package = metadata["packages"]
        .as_array()
        .and_then(|all| all.iter().find(|package| package["name"] == "bullmq-official"))
        .expect("bullmq-official is a dependency");
    let manifest = PathBuf::from(package["manifest_path"].as_str().expect("a path"));
    let commands = manifest.parent().expect("a folder").join("src/commands");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    for name in SCRIPTS {
        let text = fs::read_to_string(commands.join(name)).unwrap_or_else(|error| {
            panic!("bullmq-official has no {name} (its key count is in its name): {error}; check host/crates/queue against the new version")
        });
        fs::write(out.join(name), text).expect("OUT_DIR is writable");
    }
    println!("cargo::rerun-if-changed={}", commands.display());
    println!("cargo::rerun-if-changed=build.rs");
}
