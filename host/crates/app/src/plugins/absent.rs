//! Why no plugin of this process handles a queue, and which one would.

use chrono::{DateTime, Utc};
use patchbay_model::grant::Ask;
use patchbay_model::{PluginName, QueueName, RevisionDigest};
use patchbay_store::{ActivationRow, RevisionRow, StoreError};

use super::Plugins;
use super::conflicts::manifest_of;

/// The plugin that would handle a queue, with the revision to activate.
#[derive(Debug, Clone, PartialEq)]
pub struct AbsentPlugin {
    pub plugin: PluginName,
    pub digest: RevisionDigest,
    pub why: Absence,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Absence {
    Deactivated {
        by: String,
        at: DateTime<Utc>,
        /// In the operator's words.
        because: Option<String>,
    },
    NeverActivated,
    /// The active revision does not handle the queue any more.
    Dropped {
        active: RevisionDigest,
    },
    /// It is active, and does not run in this process.
    NotLoaded {
        reason: Option<String>,
    },
}

impl Plugins {
    /// The plugin whose manifest names the queue, for a queue that no plugin handles here.
    pub async fn absent_handler_of(
        &self,
        queue: &QueueName,
    ) -> Result<Option<AbsentPlugin>, StoreError> {
        let rows = self.store.revisions(None).await?;
        let handles = |row: &RevisionRow| {
            manifest_of(row).is_ok_and(|manifest| manifest.queue(queue).is_some())
        };
        let candidates: Vec<&RevisionRow> = rows.iter().filter(|row| handles(row)).collect();
        let Some(likeliest) = likeliest(&candidates) else {
            return Ok(None);
        };
        let plugin = &likeliest.plugin;
        let activations = self.store.activations(plugin).await?;
        let active = rows
            .iter()
            .find(|row| row.plugin == *plugin && row.is_current);
        let mut absent = absence(likeliest, &candidates, active, &activations);
        if let Absence::NotLoaded { reason } = &mut absent.why {
            *reason = self.failure(plugin);
        }
        Ok(Some(absent))
    }

    /// What the running revision of the plugin asks for and is not granted now.
    pub async fn missing_grants(&self, plugin: &PluginName) -> Result<Vec<Ask>, StoreError> {
        match self.runtime.registry().get(plugin) {
            Some(revision) => self.missing(revision.manifest()).await,
            None => Ok(Vec::new()),
        }
    }
}

/// The active revision, or else the one that was active last, or else the newest.
fn likeliest<'a>(candidates: &[&'a RevisionRow]) -> Option<&'a RevisionRow> {
    let rank = |row: &&RevisionRow| (row.is_current, row.activated_at, row.created_at);
    candidates.iter().copied().max_by_key(rank)
}

fn absence(
    likeliest: &RevisionRow,
    candidates: &[&RevisionRow],
    active: Option<&RevisionRow>,
    activations: &[ActivationRow],
) -> AbsentPlugin {
    let why = match (active, activations.last()) {
        (Some(active), _) if active.digest == likeliest.digest => {
            Absence::NotLoaded { reason: None }
        }
        (Some(active), _) => Absence::Dropped {
            active: active.digest,
        },
        (None, Some(last)) if last.digest.is_none() => Absence::Deactivated {
            by: last.actor.clone(),
            at: last.at,
            because: last.reason.clone(),
        },
        (None, _) => Absence::NeverActivated,
    };
    let is_candidate = |digest: &&RevisionDigest| {
        let mut candidates = candidates.iter();
        candidates.any(|row| row.plugin == likeliest.plugin && row.digest == **digest)
    };
    let mut was_active = activations
        .iter()
        .rev()
        .filter_map(|row| row.digest.as_ref());
    AbsentPlugin {
        plugin: likeliest.plugin.clone(),
        digest: was_active
            .find(is_candidate)
            .copied()
            .unwrap_or(likeliest.digest),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).expect("a time")
    }

    fn row(content: &[u8], created: i64, activated: Option<i64>, is_current: bool) -> RevisionRow {
        RevisionRow {
            plugin: "email".parse().expect("a name"),
            digest: RevisionDigest::of(content),
            version: "0.1.0".into(),
            manifest: serde_json::Value::Null,
            state: "retired".into(),
            is_current,
            created_at: at(created),
            created_by: "ops".into(),
            activated_at: activated.map(at),
            size_bytes: 1,
        }
    }

    fn activation(content: Option<&[u8]>, second: i64) -> ActivationRow {
        ActivationRow {
            digest: content.map(RevisionDigest::of),
            version: None,
            grants: serde_json::Value::Null,
            actor: "ops".into(),
            at: at(second),
            reason: Some("INC-7".into()),
        }
    }

    #[test]
    fn a_deactivated_plugin_is_named_with_who_did_it_and_the_revision_that_ran() {
        let (old, new) = (row(b"old", 1, Some(10), false), row(b"new", 2, None, false));
        let candidates = [&new, &old];
        let likeliest = likeliest(&candidates).expect("one");
        let activations = [activation(Some(b"old"), 10), activation(None, 20)];
        let absent = absence(likeliest, &candidates, None, &activations);
        assert_eq!(
            absent.digest, old.digest,
            "the one that ran, not the newest"
        );
        let expected = Absence::Deactivated {
            by: "ops".into(),
            at: at(20),
            because: Some("INC-7".into()),
        };
        assert_eq!(absent.why, expected);
    }

    #[test]
    fn what_never_ran_what_does_not_run_here_and_what_dropped_the_queue_are_told_apart() {
        let why = |rows: &[&RevisionRow], active: Option<&RevisionRow>| {
            absence(likeliest(rows).expect("one"), rows, active, &[]).why
        };
        let staged = row(b"a", 1, None, false);
        assert_eq!(why(&[&staged], None), Absence::NeverActivated);
        let active = row(b"b", 2, Some(2), true);
        assert_eq!(
            why(&[&staged, &active], Some(&active)),
            Absence::NotLoaded { reason: None }
        );
        let expected = Absence::Dropped {
            active: active.digest,
        };
        assert_eq!(why(&[&staged], Some(&active)), expected);
    }
}
