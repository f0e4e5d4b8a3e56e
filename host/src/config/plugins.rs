//! `[plugins]`: whose plugins are accepted, and which revisions are kept.

use patchbay_store::Keep;

use super::key::{key, section};
use super::kind::{Form, Kind, boolean, items, number};
use patchbay_model::signature::{PublicKey, TrustedKeys, read_public_keys};

section! {
    /// Plugins.
    pub struct Plugins {
        /// Public keys (ed25519:…): only plugins that one of them has signed are accepted and run;
        /// none: no signature is required
        trusted_keys: Vec<PublicKey> = key("plugins.trusted_keys", public_keys()).or_empty();
        /// File with more trusted keys, one per line or in PEM; read at the start
        trusted_keys_file: Vec<PublicKey> = key("plugins.trusted_keys_file", file_of_public_keys()).or_empty();
        /// Whether plugins may be built against the draft of the next WIT version, which changes
        /// without notice; not in production
        draft_wit: bool = key("plugins.draft_wit", boolean()).default("false");
        /// Revisions of each plugin that are never deleted automatically: the newest by their last
        /// activation
        keep_revisions: i64 = key("plugins.keep_revisions", number(2..=10_000)).default("10");
        /// Older revisions are kept, too, if they were pushed, activated or ran a job within this
        /// many days
        keep_days: i32 = key("plugins.keep_days", number(1..=3_650)).default("30");
    }
}

/// An empty key is refused: it may have been meant to trust nobody, and would trust everybody.
fn public_keys() -> Kind<Vec<PublicKey>> {
    Kind {
        form: Form::Array,
        read: Box::new(|given| {
            let named = format!("{} (from {})", given.key, given.source);
            let (mut keys, mut problems) = (Vec::new(), Vec::new());
            for (at, text) in items(&given.text).enumerate() {
                match text.parse() {
                    Ok(key) => keys.push(key),
                    Err(error) => problems.push(format!("{named}, key {}: {error}", at + 1)),
                }
            }
            if keys.is_empty() && problems.is_empty() {
                problems.push(format!(
                    "{named} is empty: remove it if plugins need no signature, or give at least one key"
                ));
            }
            if problems.is_empty() {
                Ok(keys)
            } else {
                Err(problems)
            }
        }),
    }
}

fn file_of_public_keys() -> Kind<Vec<PublicKey>> {
    Kind::new(Form::Scalar, |given| {
        let text = std::fs::read_to_string(&given.text).map_err(|error| error.to_string());
        let keys = text.and_then(|text| read_public_keys(&text).map_err(|error| error.to_string()));
        keys.map_err(|error| {
            format!(
                "{} (from {}), {}: {error}",
                given.key, given.source, given.text
            )
        })
    })
}

impl Plugins {
    /// Keys whose signatures let a plugin run.
    pub fn trusted(&self) -> TrustedKeys {
        TrustedKeys::new(
            self.trusted_keys
                .iter()
                .chain(self.trusted_keys_file.iter())
                .cloned(),
        )
    }

    /// Old revisions that are not deleted.
    pub fn keep(&self) -> Keep {
        Keep {
            revisions: *self.keep_revisions,
            days: *self.keep_days,
        }
    }
}
