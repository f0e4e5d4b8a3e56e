//! The hashes of audit trails: leaf of an entry, root and chain of a batch. Pure.
//!
//! `audit_leaf` of migration 0039 computes the same leaves in Postgres. Every function here is a
//! format on disk: a change makes all existing entries look changed.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

/// SHA-256.
pub type Hash = [u8; 32];

const LEAF: &[u8] = b"patchbay-audit-v1";
const ROOT: &[u8] = b"patchbay-audit-root-v1";
const CHAIN: &[u8] = b"patchbay-audit-chain-v1";

/// Everything that an entry says, as Postgres writes it as text. The order is that of the leaf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeafFields {
    pub id: i64,
    pub trail: String,
    pub entry_key: String,
    pub idempotency_key: Option<String>,
    pub plugin: Option<String>,
    pub revision: Option<String>,
    pub queue: Option<String>,
    pub job_id: Option<String>,
    pub correlation_id: Option<String>,
    /// In microseconds since 1970.
    pub at_us: i64,
    /// `entry::text`.
    pub entry: String,
    pub actor_kind: Option<String>,
    pub actor_id: Option<String>,
    pub actor_name: Option<String>,
    pub action: Option<String>,
    pub entity: Option<String>,
    /// `address::text`, with its mask.
    pub address: Option<String>,
    pub platform: Option<String>,
    pub origin: String,
}

/// The leaf of an entry.
pub fn leaf(entry: &LeafFields) -> Hash {
    let (id, at) = (entry.id.to_string(), entry.at_us.to_string());
    let fields: [Option<&str>; 19] = [
        Some(&id),
        Some(&entry.trail),
        Some(&entry.entry_key),
        entry.idempotency_key.as_deref(),
        entry.plugin.as_deref(),
        entry.revision.as_deref(),
        entry.queue.as_deref(),
        entry.job_id.as_deref(),
        entry.correlation_id.as_deref(),
        Some(&at),
        Some(&entry.entry),
        entry.actor_kind.as_deref(),
        entry.actor_id.as_deref(),
        entry.actor_name.as_deref(),
        entry.action.as_deref(),
        entry.entity.as_deref(),
        entry.address.as_deref(),
        entry.platform.as_deref(),
        Some(&entry.origin),
    ];
    let mut hash = Sha256::new();
    hash.update(LEAF);
    for field in fields {
        // The length comes first, so that no two entries give the same bytes. Postgres's texts have
        // less than 1 GiB.
        match field {
            Some(text) => {
                hash.update(i32::try_from(text.len()).unwrap_or(i32::MAX).to_be_bytes());
                hash.update(text.as_bytes());
            }
            None => hash.update((-1_i32).to_be_bytes()),
        }
    }
    hash.finalize().into()
}

/// The root of a batch, over the leaves of its entries in their order.
pub fn root<'a>(leaves: impl IntoIterator<Item = &'a Hash>) -> Hash {
    let mut hash = Sha256::new();
    hash.update(ROOT);
    for leaf in leaves {
        hash.update(leaf);
    }
    hash.finalize().into()
}

/// A batch, as far as its chain covers it.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    pub trail: &'a str,
    pub epoch: i32,
    pub n: i64,
    /// Chain of the batch before; absent for the first of a trail.
    pub before: Option<&'a Hash>,
    pub count: i32,
    pub root: &'a Hash,
    /// In microseconds since 1970.
    pub sealed_at_us: i64,
}

/// The chain of a batch.
pub fn chain(link: &Link<'_>) -> Hash {
    let mut hash = Sha256::new();
    hash.update(CHAIN);
    hash.update((link.trail.len() as u64).to_be_bytes());
    hash.update(link.trail.as_bytes());
    hash.update(link.epoch.to_be_bytes());
    hash.update(link.n.to_be_bytes());
    match link.before {
        Some(before) => {
            hash.update([1]);
            hash.update(before);
        }
        None => hash.update([0]),
    }
    hash.update(link.count.to_be_bytes());
    hash.update(link.root);
    hash.update(link.sealed_at_us.to_be_bytes());
    hash.finalize().into()
}

/// The newest batch of a trail, as it is noted outside of Postgres.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// Name of the trail.
    pub trail: String,
    /// Epoch of the batch.
    #[schema(minimum = 1)]
    pub epoch: i32,
    /// Number of the batch within its epoch.
    #[schema(minimum = 1)]
    pub n: i64,
    /// Chain of the batch, in 64 hexadecimal digits.
    pub chain: String,
    /// When the batch was sealed, if that was noted.
    #[serde(default, rename = "sealedAt", skip_serializing_if = "Option::is_none")]
    pub sealed_at: Option<DateTime<Utc>>,
}

impl Anchor {
    pub fn new(trail: &str, (epoch, n): (i32, i64), chain: &[u8]) -> Self {
        Self {
            trail: trail.to_owned(),
            epoch,
            n,
            chain: hex::encode(chain),
            sealed_at: None,
        }
    }

    #[must_use]
    pub fn sealed_at(mut self, at: DateTime<Utc>) -> Self {
        self.sealed_at = Some(at);
        self
    }

    pub fn place(&self) -> (i32, i64) {
        (self.epoch, self.n)
    }

    /// The chain; `None` if it is not one.
    pub fn hash(&self) -> Option<Hash> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&self.chain, &mut hash).ok()?;
        Some(hash)
    }

    /// Reads a line of an anchor file or of the log: whatever comes first, then
    /// `trail=NAME epoch=N batch=N chain=HEX sealed=TIME`; or the same as JSON. `None` for any other
    /// line.
    pub fn read(line: &str) -> Option<Self> {
        let line = line.trim();
        if line.starts_with('{') {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            // A line of the log has them among its fields.
            let fields = value.get("fields").unwrap_or(&value);
            let number = |name: &str| fields.get(name)?.as_i64();
            let sealed = fields.get("sealed").or_else(|| fields.get("sealedAt"));
            return Self {
                trail: fields.get("trail")?.as_str()?.to_owned(),
                epoch: number("epoch")?.try_into().ok()?,
                n: number("batch").or_else(|| number("n"))?,
                chain: fields.get("chain")?.as_str()?.to_owned(),
                sealed_at: sealed.and_then(|at| at.as_str()?.parse().ok()),
            }
            .checked();
        }
        let mut words = std::collections::BTreeMap::new();
        for word in line.split_whitespace() {
            if let Some((name, value)) = word.split_once('=') {
                words.insert(name, value.trim_matches('"'));
            }
        }
        Self {
            trail: (*words.get("trail")?).to_owned(),
            epoch: words.get("epoch")?.parse().ok()?,
            n: words.get("batch")?.parse().ok()?,
            chain: (*words.get("chain")?).to_owned(),
            sealed_at: words.get("sealed").and_then(|at| at.parse().ok()),
        }
        .checked()
    }

    /// Of each trail and epoch the one that comes last: its chain covers everything before it.
    pub fn newest(anchors: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut by = std::collections::BTreeMap::<(String, i32), Self>::new();
        for anchor in anchors {
            let known = by.entry((anchor.trail.clone(), anchor.epoch));
            let known = known.or_insert_with(|| anchor.clone());
            if known.n < anchor.n {
                *known = anchor;
            }
        }
        by.into_values().collect()
    }

    fn checked(self) -> Option<Self> {
        (self.epoch > 0 && self.n > 0 && self.hash().is_some()).then_some(self)
    }
}

/// The form that [`Anchor::read`] reads.
impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trail,
            epoch,
            n,
            chain,
            sealed_at,
        } = self;
        write!(f, "trail={trail} epoch={epoch} batch={n} chain={chain}")?;
        match sealed_at {
            Some(at) => write!(
                f,
                " sealed={}",
                at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> LeafFields {
        LeafFields {
            id: 7,
            trail: "login_logs".into(),
            entry_key: "k".into(),
            at_us: 1_796_000_000_000_001,
            entry: "{}".into(),
            origin: "live".into(),
            ..LeafFields::default()
        }
    }

    #[test]
    fn each_field_and_its_place_and_absence_change_the_leaf() {
        let plain = leaf(&entry());
        let changes: [fn(&mut LeafFields); 6] = [
            |entry| entry.id = 8,
            |entry| entry.at_us += 1,
            |entry| entry.queue = Some("q".into()),
            |entry| entry.job_id = Some("q".into()),
            |entry| entry.job_id = Some(String::new()),
            |entry| entry.origin = "import".into(),
        ];
        let mut seen = vec![plain];
        for change in changes {
            let mut changed = entry();
            change(&mut changed);
            let changed = leaf(&changed);
            assert!(!seen.contains(&changed));
            seen.push(changed);
        }
    }

    #[test]
    fn the_chain_covers_all_of_a_batch_and_what_came_before() {
        let (one, other) = ([1; 32], [2; 32]);
        let link = Link {
            trail: "a",
            epoch: 1,
            n: 2,
            before: Some(&one),
            count: 3,
            root: &other,
            sealed_at_us: 5,
        };
        let all = [
            chain(&link),
            chain(&Link { trail: "b", ..link }),
            chain(&Link { epoch: 2, ..link }),
            chain(&Link { n: 3, ..link }),
            chain(&Link {
                before: None,
                ..link
            }),
            chain(&Link { count: 4, ..link }),
            chain(&Link { root: &one, ..link }),
            chain(&Link {
                sealed_at_us: 6,
                ..link
            }),
        ];
        for (place, chain) in all.iter().enumerate() {
            assert!(!all[..place].contains(chain));
        }
        assert_ne!(root([&one, &other]), root([&other, &one]));
    }

    #[test]
    fn an_anchor_is_read_from_the_forms_in_which_it_is_written() {
        let anchor = Anchor::new("operators", (2, 41), &[9; 32])
            .sealed_at("2026-11-30T09:59:59Z".parse().expect("a time"));
        let line = format!("2026-11-30T10:00:00Z {anchor} installation=x");
        assert_eq!(Anchor::read(&line), Some(anchor.clone()));
        let json = serde_json::json!({ "timestamp": "x", "fields": {
            "message": "audit anchor", "trail": "operators", "epoch": 2, "batch": 41, "chain": anchor.chain,
            "sealed": "2026-11-30T09:59:59Z",
        } });
        assert_eq!(Anchor::read(&json.to_string()), Some(anchor.clone()));
        assert_eq!(
            Anchor::read(&serde_json::to_string(&anchor).expect("JSON")),
            Some(anchor)
        );
        for wrong in ["", "# a remark", "trail=a epoch=0 batch=1 chain=00", "{}"] {
            assert_eq!(Anchor::read(wrong), None, "{wrong}");
        }
    }
}
