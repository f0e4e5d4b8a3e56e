//! A released contract never changes: compares wit/v0.1 with the released texts, as the component
//! linker sees it.
//!
//! Comments may be improved. A patch (0.1.x) may add functions to interfaces that plugins import,
//! and nothing else. The tools that make the bindings parse and compare the texts, so that whatever
//! is allowed here also links.

use wit_component::WitPrinter;
use wit_parser::{PackageId, Resolve};

/// What the changes of the tests below are made to.
const RELEASED: &str = include_str!("../../../../wit/released/0.1.0.wit");
/// The newest patch.
const PATCHED: &str = include_str!("../../../../wit/released/0.1.1.wit");
const NOW: &str = include_str!("../../../../wit/v0.1/plugin.wit");

const WHAT_TO_DO: &str = "\n\nWIT 0.1 is released, and plugins are built against it. See wit/README.md:\n\
    - a change of a record, variant, enum, flags, parameter or export is a new minor version: put it into wit/v0.2, the draft;\n\
    - functions that are added to an imported interface are a patch: count the version up, as in `package patchbay:plugin@0.1.1`.";

/// Why a plugin that was built against `released` might not run on a host that serves `now`.
fn broken(released: &str, now: &str) -> Result<(), String> {
    let mut resolve = Resolve::default();
    // Two packages of one name need two versions. The comparison ignores versions.
    let before = read(
        &mut resolve,
        &released.replacen("@0.1.0;", "@0.1.0-before;", 1),
    )?;
    let after = read(&mut resolve, now)?;
    let (before_text, after_text) = (canonical(&resolve, before)?, canonical(&resolve, after)?);
    for (name, world) in &resolve.packages[before].worlds {
        let Some(same) = resolve.packages[after].worlds.get(name) else {
            return Err(format!("the world {name} is gone"));
        };
        // The linker accepts a world with fewer exports, but a host that no longer calls them
        // breaks plugins.
        if resolve.worlds[*world].exports.len() != resolve.worlds[*same].exports.len() {
            return Err(format!("the world {name} has other exports"));
        }
        wit_component::semver_check(resolve.clone(), *world, *same)
            .map_err(|error| format!("the world {name} has changed: {error:#}"))?;
    }
    match resolve.packages[after]
        .name
        .version
        .as_ref()
        .map(ToString::to_string)
        .as_deref()
    {
        Some("0.1.0") if before_text == after_text => Ok(()),
        Some("0.1.0") => Err("something has changed, and its version has not".into()),
        Some(patch) if patch.starts_with("0.1.") => Ok(()),
        other => Err(format!("the version is {other:?}")),
    }
}

fn read(resolve: &mut Resolve, text: &str) -> Result<PackageId, String> {
    resolve
        .push_str("plugin.wit", text)
        .map_err(|error| format!("{error:#}"))
}

/// Without comments and version, in one spelling.
fn canonical(resolve: &Resolve, package: PackageId) -> Result<String, String> {
    let mut printer = WitPrinter::default();
    printer
        .emit_docs(false)
        .print(resolve, package, &[])
        .map_err(|error| format!("{error:#}"))?;
    let text = printer.output.to_string();
    Ok(text
        .split_once(';')
        .map(|(_, rest)| rest.to_owned())
        .unwrap_or_default())
}

#[test]
fn wit_0_1_is_as_it_was_released() {
    if let Err(reason) = broken(RELEASED, NOW) {
        panic!("{reason}{WHAT_TO_DO}");
    }
    if let Err(reason) = unchanged(PATCHED, NOW) {
        panic!("{reason}{WHAT_TO_DO}");
    }
}

/// Whether this is the text of the newest patch; a next one has its own text in `released`.
fn unchanged(released: &str, now: &str) -> Result<(), String> {
    let text = |text: &str| {
        let mut resolve = Resolve::default();
        let package = read(&mut resolve, text)?;
        canonical(&resolve, package)
    };
    match text(released)? == text(now)? {
        true => Ok(()),
        false => Err("something has changed since the newest patch".into()),
    }
}

/// Applies a change to the released text and checks the result.
fn changed(from: &str, to: &str) -> Result<(), String> {
    assert!(RELEASED.contains(from), "{from}");
    broken(RELEASED, &RELEASED.replacen(from, to, 1))
}

#[test]
fn every_change_that_the_linker_would_refuse_is_found() {
    for (from, to) in [
        ("    attempt: u32,\n", "    attempt: u32,\n    new: u32,\n"),
        ("    attempt: u32,\n", ""),
        ("    attempt: u32,\n", "    attempt: u64,\n"),
        ("enum level { trace,", "enum level { fatal, trace,"),
        (
            "    denied(string),\n",
            "    denied(string),\n    withheld(string),\n",
        ),
        ("    never,\n", ""),
        ("get: func(key: string)", "get: func(key: list<u8>)"),
        ("get: func(key: string)", "read: func(key: string)"),
        (
            "  run: func(job: job)",
            "  stop: func();\n  run: func(job: job)",
        ),
        ("  export operations;\n", ""),
        ("world tested-plugin {\n", "world renamed {\n"),
        ("  import flows;\n", ""),
    ] {
        // Also as a patch: another version does not make the change allowed.
        let reason = changed(from, to).expect_err(from);
        println!("{from:?} → {to:?}: {reason}");
        let patch = RELEASED
            .replacen("@0.1.0;", "@0.1.1;", 1)
            .replacen(from, to, 1);
        assert!(
            broken(RELEASED, &patch).is_err(),
            "{from:?} → {to:?} as 0.1.1"
        );
    }
}

#[test]
fn comments_may_change_and_a_patch_may_add_functions_to_imported_interfaces() {
    assert_eq!(
        changed(
            "/// How many milliseconds until the next probe.",
            "/// Milliseconds until the next probe."
        ),
        Ok(())
    );
    let (from, to) = (
        "interface kv {\n",
        "interface kv {\n  touch: func(key: string);\n",
    );
    assert!(changed(from, to).is_err_and(|reason| reason.contains("its version has not")));
    let patch = RELEASED
        .replacen("@0.1.0;", "@0.1.1;", 1)
        .replacen(from, to, 1);
    assert_eq!(broken(RELEASED, &patch), Ok(()));
    let other = RELEASED.replacen("@0.1.0;", "@0.2.0;", 1);
    assert!(broken(RELEASED, &other).is_err_and(|reason| reason.contains("0.2.0")));
}
