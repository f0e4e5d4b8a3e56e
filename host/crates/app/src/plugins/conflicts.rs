//! Refuses what only one plugin can have: a queue, a schedule, the path of a route or webhook.

use std::collections::HashSet;

use patchbay_model::manifest::Manifest;
use patchbay_store::RevisionRow;

use super::PluginError;

/// Refuses a manifest that wants what the active revision of another plugin has, or a path of the
/// host. Rows that are not active, or of the same plugin, do not count.
pub(super) fn refuse(manifest: &Manifest, rows: &[RevisionRow]) -> Result<(), PluginError> {
    if let Some(overlap) = manifest.overlap_with_host() {
        return Err(PluginError::Conflict(overlap.to_string()));
    }
    for row in rows
        .iter()
        .filter(|row| row.is_current && row.plugin != manifest.name)
    {
        let other = manifest_of(row)?;
        if let Some(queue) = manifest
            .queues
            .iter()
            .map(|queue| &queue.name)
            .find(|name| other.queue(name).is_some())
        {
            return Err(both_want(manifest, &other, "queue", queue.as_str()));
        }
        let schedules = |manifest: &Manifest| {
            manifest
                .schedules
                .iter()
                .map(|spec| spec.id.clone())
                .collect::<HashSet<_>>()
        };
        if let Some(id) = schedules(manifest).intersection(&schedules(&other)).next() {
            return Err(both_want(manifest, &other, "schedule", id.as_str()));
        }
        if let Some(overlap) = manifest.overlap_with(&other) {
            let standing = format!("{}, revision {}", row.state, row.digest.short());
            return Err(PluginError::Conflict(
                overlap.with_standing(&standing).to_string(),
            ));
        }
    }
    Ok(())
}

fn both_want(manifest: &Manifest, other: &Manifest, what: &str, name: &str) -> PluginError {
    let (one, two) = (&manifest.name, &other.name);
    PluginError::Conflict(format!(
        "{one} and {two} both want {what} {name}. A {what} can belong to one plugin only"
    ))
}

/// Parses the manifest that Postgres has.
pub(super) fn manifest_of(row: &RevisionRow) -> Result<Manifest, PluginError> {
    Manifest::from_stored(row.manifest.clone()).map_err(|error| {
        PluginError::Conflict(format!(
            "the stored manifest of {} cannot be read: {error}",
            row.plugin
        ))
    })
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use patchbay_model::RevisionDigest;
    use serde_json::{Value, json};

    use super::*;

    fn manifest(name: &str, sections: &Value) -> Value {
        let mut value = json!({ "format": 1, "name": name, "version": "1.0.0", "wit": "0.1" });
        value
            .as_object_mut()
            .expect("an object")
            .extend(sections.as_object().cloned().expect("an object"));
        value
    }

    fn row(name: &str, sections: &Value, is_current: bool) -> RevisionRow {
        RevisionRow {
            plugin: name.parse().expect("a name"),
            digest: RevisionDigest::of(name.as_bytes()),
            version: "1.0.0".into(),
            manifest: manifest(name, sections),
            state: if is_current { "active" } else { "staged" }.into(),
            is_current,
            created_at: Utc::now(),
            created_by: "operator".into(),
            activated_at: None,
            size_bytes: 1,
        }
    }

    fn refused(sections: &Value, rows: &[RevisionRow]) -> Option<String> {
        let manifest = Manifest::from_stored(manifest("mine", sections)).expect("valid");
        refuse(&manifest, rows).err().map(|error| error.to_string())
    }

    fn route(path: &str) -> Value {
        json!({ "routes": [{ "method": "GET", "path": path, "roles": ["user"], "operation": "list" }] })
    }

    #[test]
    fn one_plugin_owns_a_queue_a_schedule_and_a_path_and_only_active_revisions_of_others_count() {
        let queue = json!({ "queues": [{ "name": "q" }] });
        let scheduled = json!({
            "queues": [{ "name": "p" }],
            "schedules": [{ "id": "s", "queue": "p", "name": "n", "every_ms": 1000 }],
        });
        let mut also_scheduled = scheduled.clone();
        also_scheduled["queues"][0]["name"] = json!("other");
        also_scheduled["schedules"][0]["queue"] = json!("other");
        assert_eq!(
            refused(&queue, &[row("theirs", &queue, true)]).as_deref(),
            Some("mine and theirs both want queue q. A queue can belong to one plugin only")
        );
        assert_eq!(
            refused(&scheduled, &[row("theirs", &also_scheduled, true)]).as_deref(),
            Some("mine and theirs both want schedule s. A schedule can belong to one plugin only")
        );
        let theirs = row("theirs", &route("/api/leads/{id}"), true);
        let expected = format!(
            "GET /api/leads/new of mine overlaps GET /api/leads/{{id}} of theirs (active, revision {}). Change one of \
             them, or deactivate theirs: patchbay plugin deactivate theirs",
            theirs.digest.short()
        );
        assert_eq!(refused(&route("/api/leads/new"), &[theirs]), Some(expected));
        for rows in [
            vec![row("theirs", &route("/api/leads/{id}"), false)],
            vec![row("mine", &route("/api/leads/{id}"), true)],
            vec![row("theirs", &route("/api/leads/{id}/call"), true)],
        ] {
            assert_eq!(refused(&route("/api/leads/new"), &rows), None);
        }
    }

    #[test]
    fn a_path_of_the_host_is_refused_without_any_other_plugin() {
        assert_eq!(
            refused(&route("/api/admin/leads"), &[]).as_deref(),
            Some(
                "GET /api/admin/leads of mine overlaps /api/admin of the host. Choose another path"
            )
        );
    }
}
