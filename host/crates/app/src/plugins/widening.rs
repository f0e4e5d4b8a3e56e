//! What a revision would show of jobs that the plugin does not show now. A plugin's answers and
//! failures may quote the data of its jobs, and its manifest says what of them is redacted.

use patchbay_model::manifest::Manifest;
use patchbay_model::{DataPath, PluginName};
use patchbay_store::RevisionRow;

use super::{PluginError, Plugins, conflicts};

/// What an activation may do beyond replacing the code.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// Grant what the revision asks for.
    pub grants: bool,
    /// Take further queues, and drop redactions.
    pub widening: bool,
}

impl Plugins {
    /// Refuses a revision that takes queues, or drops redactions, compared with the active one. While
    /// none is active, the one that was active last counts: to stop a plugin must not widen it.
    pub(super) async fn refuse_widening(
        &self,
        plugin: &PluginName,
        manifest: &Manifest,
    ) -> Result<(), PluginError> {
        let before = self.last_active(plugin).await?;
        let before = before.as_ref().map(conflicts::manifest_of).transpose()?;
        match widened(before.as_ref(), manifest) {
            Some(what) => Err(PluginError::Widens(what)),
            None => Ok(()),
        }
    }

    async fn last_active(&self, plugin: &PluginName) -> Result<Option<RevisionRow>, PluginError> {
        let mut rows = self.store.revisions(Some(plugin)).await?;
        if let Some(place) = rows.iter().position(|row| row.is_current) {
            return Ok(Some(rows.swap_remove(place)));
        }
        let activations = self.store.activations(plugin).await?;
        let last = activations
            .iter()
            .rev()
            .find_map(|activation| activation.digest);
        Ok(rows.into_iter().find(|row| Some(row.digest) == last))
    }
}

/// The first thing that would be shown anew, in words.
fn widened(before: Option<&Manifest>, after: &Manifest) -> Option<String> {
    after.queues.iter().find_map(|queue| {
        let Some(known) = before.and_then(|before| before.queue(&queue.name)) else {
            return Some(format!("takes the queue {}", queue.name));
        };
        let dropped = |path: &&DataPath| !queue.redact.iter().any(|kept| covers(kept, path));
        let dropped = known.redact.iter().find(dropped)?;
        Some(format!(
            "no longer redacts {dropped} in jobs of {}",
            queue.name
        ))
    })
}

fn covers(kept: &DataPath, path: &DataPath) -> bool {
    let rest = path.as_str().strip_prefix(kept.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_queues_and_fewer_redactions_show_more() {
        let manifest = |queues: &[(&str, &str)]| {
            let queues: String = queues
                .iter()
                .map(|(name, redact)| format!("[[queues]]\nname = \"{name}\"\nredact = {redact}\n"))
                .collect();
            let text = format!(
                "name = \"reader\"\nversion = \"1.0.0\"\nwit = \"0.1\"\ndescription = \"d\"\n{queues}"
            );
            Manifest::from_toml(&text, |file| Err(format!("{file} is not expected")))
                .expect("a manifest")
        };
        let before = manifest(&[("a", r#"["to", "lead.id"]"#), ("b", "[]")]);
        let of = |queues: &[(&str, &str)]| widened(Some(&before), &manifest(queues));
        assert_eq!(of(&[("a", r#"["to", "lead", "more"]"#)]), None);
        assert_eq!(of(&[("b", r#"["x"]"#)]), None);
        assert_eq!(
            of(&[("a", r#"["to.x", "lead"]"#)]).as_deref(),
            Some("no longer redacts to in jobs of a")
        );
        assert_eq!(of(&[("c", "[]")]).as_deref(), Some("takes the queue c"));
        assert_eq!(widened(None, &before).as_deref(), Some("takes the queue a"));
    }
}
