//! Embeds the BullMQ scripts that this crate calls, from the package that Cargo fetched, so that
//! the repository holds no copy.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

const SCRIPTS: [&str; 26] = [
    "addDelayedJob-6.lua",
    "addJobScheduler-11.lua",
    "addParentJob-6.lua",
    "addPrioritizedJob-9.lua",
    "addStandardJob-9.lua",
    "changeDelay-4.lua",
    "changePriority-7.lua",
    "cleanJobsInSet-3.lua",
    "drain-5.lua",
    "extendLocks-1.lua",
    "moveJobFromActiveToWait-9.lua",
    "moveJobsToWait-8.lua",
    "moveStalledJobsToWait-9.lua",
    "moveToActive-11.lua",
    "moveToDelayed-11.lua",
    "moveToFinished-14.lua",
    "obliterate-2.lua",
    "pause-7.lua",
    "promote-9.lua",
    "releaseParentIfNoPendingDependencies-2.lua",
    "removeJob-2.lua",
    "removeJobScheduler-3.lua",
    "reprocessJob-9.lua",
    "retryJob-11.lua",
    "updateData-1.lua",
    "updateJobScheduler-12.lua",
];

fn main() {
    // Offline where that is enough. On a new machine, Cargo has not yet fetched what other
    // packages' tests need.
    let metadata = metadata(&["--offline"])
        .or_else(|_| metadata(&[]))
        .unwrap_or_else(|error| panic!("cargo metadata: {error}"));
    let package = metadata["packages"]
        .as_array()
        .and_then(|all| {
            all.iter()
                .find(|package| package["name"] == "bullmq-official")
        })
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

fn metadata(flags: &[&str]) -> Result<serde_json::Value, String> {
    let output = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--filter-platform"])
        .arg(env::var("TARGET").expect("cargo sets TARGET"))
        .args(flags)
        .current_dir(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
        .output()
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
}
