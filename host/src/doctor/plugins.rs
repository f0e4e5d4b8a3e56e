//! Checks of active plugins, and of the schedules in their queues.

use std::collections::BTreeSet;

use patchbay_app::scheduling;
use patchbay_model::QueueName;
use patchbay_model::manifest::Manifest;
use patchbay_queue::Broker;
use patchbay_store::{SecretRow, SignatureRow, Store};

use super::{Findings, LIMIT, Level};
use crate::config::Config;

pub(super) async fn check_plugins(
    config: &Config,
    store: &Store,
    kept: &[SecretRow],
    findings: &mut Findings,
) {
    const CHECK: &str = "plugins";
    let rows = match store.revisions(None).await {
        Ok(rows) => rows,
        // Before the first migration there is nothing to check; that was reported above.
        Err(_) => return,
    };
    for row in rows
        .iter()
        .filter(|row| row.is_current && row.state == "quarantined")
    {
        let mend = format!(
            "activate another revision, or: patchbay plugin release {}",
            row.plugin
        );
        findings.bad(
            CHECK,
            Level::Error,
            format!("{} is quarantined: its queues wait", row.plugin),
            mend,
        );
    }
    let active: Vec<_> = rows.iter().filter(|row| row.state == "active").collect();
    if active.is_empty() {
        return findings.bad(
            CHECK,
            Level::Warning,
            "none is active: Patchbay takes no jobs",
            "patchbay plugin push FILE --activate",
        );
    }
    let trusted = config.plugins.trusted();
    if trusted.are_required() {
        findings.ok(
            "signatures",
            format!("required, by one of {}", trusted.ids()),
        );
    }
    for row in active {
        let name = &row.plugin;
        if trusted.are_required() {
            let kept = store.signatures(&row.digest).await.unwrap_or_default();
            let kept: Vec<_> = kept.iter().filter_map(SignatureRow::signature).collect();
            if let Err(reason) = trusted.check(&row.digest, &kept) {
                let mend = "sign it (`patchbay plugin sign`) and push it again, or trust its key (plugins.trusted_keys)";
                findings.bad(
                    "signatures",
                    Level::Error,
                    format!("{name}: {reason}"),
                    mend,
                );
            }
        }
        let Ok(manifest) = Manifest::from_stored(row.manifest.clone()) else {
            let mend = format!("push it again, or: patchbay plugin rollback {name}");
            findings.bad(
                CHECK,
                Level::Error,
                format!("{name}: this version of Patchbay cannot read its manifest"),
                mend,
            );
            continue;
        };
        let missing: Vec<&str> = manifest
            .secrets
            .iter()
            .map(|secret| secret.name.as_str())
            .filter(|secret| {
                !kept
                    .iter()
                    .any(|row| &row.plugin == name && row.name.as_str() == *secret)
            })
            .filter(|secret| config.plugin_secret(name, secret).is_none())
            .collect();
        if missing.is_empty() {
            findings.ok(
                CHECK,
                format!("{name} {} {}", row.version, row.digest.short()),
            );
        } else {
            let commands: Vec<String> = missing
                .iter()
                .map(|secret| format!("patchbay secret set {name} {secret}"))
                .collect();
            let mend = commands.join("; ");
            findings.bad(
                CHECK,
                Level::Warning,
                format!("{name}: secrets without a value: {}", missing.join(", ")),
                mend,
            );
        }
    }
}

/// Finds schedules that have no next tick, in queues that are handled here.
pub(super) async fn check_schedules(config: &Config, store: &Store, findings: &mut Findings) {
    const CHECK: &str = "schedules";
    // Problems with Postgres or Redis were reported above.
    let (Ok(rows), Ok(revisions)) = (store.schedules().await, store.revisions(None).await) else {
        return;
    };
    let connected = tokio::time::timeout(LIMIT, Broker::connect(config.redis.queues())).await;
    let Ok(Ok(queues)) = connected else { return };
    let queues = queues.with_default_zone(*config.schedule.default_zone);
    let active = revisions.into_iter().filter(|row| row.is_current);
    let manifests = active.filter_map(|row| Manifest::from_stored(row.manifest).ok());
    let mut handled: BTreeSet<QueueName> = rows
        .iter()
        .filter_map(|row| row.queue.parse().ok())
        .collect();
    handled.extend(
        manifests
            .flat_map(|manifest| manifest.queues)
            .map(|queue| queue.name),
    );
    let mut troubles: Vec<String> = Vec::new();
    for row in rows.iter().filter(|row| row.paused_by.is_none()) {
        troubles.extend(
            scheduling::spec(row, queues.default_zone())
                .err()
                .map(|reason| format!("{}: {reason}", row.id)),
        );
    }
    for queue in handled {
        // A damaged queue is listed as damaged.
        let views = tokio::time::timeout(LIMIT, queues.schedulers(&queue))
            .await
            .ok()
            .and_then(Result::ok);
        troubles.extend(
            views
                .into_iter()
                .flatten()
                .filter_map(|view| Some(format!("{queue} {}: {}", view.id, view.trouble?))),
        );
    }
    if troubles.is_empty() {
        let zone = queues.default_zone();
        return findings.ok(
            CHECK,
            format!("all have a next tick; the zone of those that name none is {zone}"),
        );
    }
    let message = format!(
        "without a next tick, or with a last one ahead: {}",
        troubles.join("; ")
    );
    findings.bad(
        CHECK,
        Level::Warning,
        message,
        "correct them where they were made; to find them: patchbay schedule list",
    );
}
