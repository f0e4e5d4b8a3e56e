//! Checks who could change audit trails, and whether they are sealed and verified.

use patchbay_app::audit::protection::view;
use patchbay_store::Store;

use super::{Findings, Level};
use crate::config::Config;

const CHECK: &str = "audit trails";
/// In seconds.
const UNSEALED: f64 = 60.0;

pub(super) async fn check_ledger(config: &Config, store: &Store, findings: &mut Findings) {
    // Before the first migration there is nothing to check; that was reported already.
    let Ok(seen) = store.audit_protection().await else {
        return;
    };
    let is_production = config.general.environment.as_str() == "production";
    let protection = view(&seen);
    let message = format!("{}: {}", protection.level, protection.meaning);
    let harden = "patchbay audit harden writes the statements for an administrator of the database";
    match protection.level.as_str() {
        "separate-owner" => findings.ok(CHECK, message),
        "unguarded" => findings.bad(CHECK, Level::Error, message, harden),
        // A trial needs no second role.
        _ if !is_production => findings.ok(CHECK, message),
        _ => findings.bad(CHECK, Level::Warning, message, harden),
    }
    let has_key = config.secrets.master_keys().iter().any(Option::is_some);
    let message = "no master key: batches have no MAC, so whoever can write to the database could compute a chain that fits";
    match (has_key, is_production) {
        (true, _) => {}
        (false, true) => findings.bad(CHECK, Level::Warning, message, "set secrets.key_file"),
        (false, false) => findings.ok(CHECK, message),
    }
    for waiting in store.audit_pending().await.unwrap_or_default() {
        if waiting.age_s >= UNSEALED {
            let message = format!(
                "{} entries of {} are not sealed, the oldest for {:.0} s",
                waiting.count, waiting.trail, waiting.age_s
            );
            let mend = "check that a host runs, and its log for audit-sealer";
            findings.bad(CHECK, Level::Warning, message, mend);
        }
    }
    for row in store.audit_verifications().await.unwrap_or_default() {
        if row.result != "whole" {
            let problem = row.problem.unwrap_or(row.result);
            let message = format!("{}: {problem}", row.trail);
            let mend = format!("patchbay audit verify --trail {}", row.trail);
            findings.bad(CHECK, Level::Error, message, mend);
        }
    }
}
