//! Checks who may do everything: owners with names of their own, or everybody who knows the shared
//! login.

use patchbay_model::words::counted;
use patchbay_store::{BasicMode, Store};

use super::{Findings, Level};
use crate::config::Config;

const CHECK: &str = "operators";

pub(super) async fn check_operators(config: &Config, store: &Store, findings: &mut Findings) {
    // Before the first migration there is nothing to check; that was reported already.
    let (Ok(mode), Ok((owners, seen))) = (store.basic_mode().await, store.count_owners().await)
    else {
        return;
    };
    let is_production = config.general.environment.as_str() == "production";
    let note = |findings: &mut Findings, message: &str, mend: &str| match is_production {
        true => findings.bad(CHECK, Level::Warning, message, mend),
        // A trial needs nobody else.
        false => findings.ok(CHECK, format!("{message}. Next: {mend}")),
    };
    let has_basic = config.admin.operator().is_some();
    let first = "patchbay operator create ada --role owner";
    match (owners, seen) {
        (0, _) if has_basic => note(
            findings,
            "No owner yet. Anyone with the shared login (admin.username) has every right",
            &format!("`{first}`"),
        ),
        (0, _) => findings.bad(
            CHECK,
            Level::Warning,
            "No owner, and no shared login: nobody can use /api/admin",
            format!("set admin.username and admin.password, restart, then `{first}`"),
        ),
        (_, 0) => note(
            findings,
            &format!(
                "{}, of whom none has logged in yet",
                counted(owners.unsigned_abs(), "owner")
            ),
            "that person uses the link: `patchbay operator enrol LINK`, then `patchbay login`",
        ),
        (1, _) => note(
            findings,
            "One owner: whoever loses password and recovery codes needs another one, or this machine",
            "`patchbay operator create NAME --role owner`",
        ),
        _ => findings.ok(CHECK, counted(owners.unsigned_abs(), "owner")),
    }
    if has_basic && mode == BasicMode::On && seen > 0 {
        note(
            findings,
            "The shared login (admin.username) still opens everything, although an owner has logged in",
            "`patchbay operator basic board`",
        );
    }
}
