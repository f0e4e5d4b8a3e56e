//! Signatures of revisions: stored, never judged. Each host's configuration has its trusted keys.

use chrono::{DateTime, Utc};
use patchbay_model::signature::Signature;
use patchbay_model::{PluginName, RevisionDigest};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::rows::digest;
use crate::{Store, StoreError};

#[derive(Debug)]
pub struct NewSignature {
    pub key_id: String,
    pub bytes: [u8; 64],
}

#[derive(Debug, Clone)]
pub struct SignatureRow {
    pub digest: RevisionDigest,
    pub key_id: String,
    pub bytes: Vec<u8>,
    pub added_by: String,
    pub added_at: DateTime<Utc>,
}

impl SignatureRow {
    /// `None` when the row was changed and holds no signature any more.
    pub fn signature(&self) -> Option<Signature> {
        Signature::from_parts(&self.key_id, &self.bytes)
    }
}

fn signature(row: PgRow) -> Result<SignatureRow, StoreError> {
    Ok(SignatureRow {
        digest: digest(&row, "digest")?,
        key_id: row.try_get("key_id")?,
        bytes: row.try_get("signature")?,
        added_by: row.try_get("added_by")?,
        added_at: row.try_get("added_at")?,
    })
}

/// In the transaction that stores the revision, so that neither exists without the other. A key's
/// last signature replaces one that may be stale, which only a host that trusts the key can tell.
pub(crate) async fn add(
    connection: &mut PgConnection,
    digest: &RevisionDigest,
    signatures: &[NewSignature],
    actor: &str,
) -> Result<(), StoreError> {
    for new in signatures {
        sqlx::query(
            "insert into revision_signatures as kept (digest, key_id, signature, added_by) values ($1, $2, $3, $4) \
             on conflict (digest, key_id) do update \
             set signature = excluded.signature, added_by = excluded.added_by, added_at = now() \
             where kept.signature <> excluded.signature",
        )
        .bind(digest.to_string())
        .bind(&new.key_id)
        .bind(new.bytes.as_slice())
        .bind(actor)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

impl Store {
    /// Signatures of one revision, in the order of their arrival.
    pub async fn signatures(
        &self,
        digest: &RevisionDigest,
    ) -> Result<Vec<SignatureRow>, StoreError> {
        let query = sqlx::query(
            "select digest, key_id, signature, added_by, added_at from revision_signatures \
             where digest = $1 order by added_at, key_id",
        );
        query
            .bind(digest.to_string())
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(signature)
            .collect()
    }

    /// Signatures of all revisions of a plugin.
    pub async fn signatures_of(
        &self,
        plugin: &PluginName,
    ) -> Result<Vec<SignatureRow>, StoreError> {
        let query = sqlx::query(
            "select s.digest, s.key_id, s.signature, s.added_by, s.added_at from revision_signatures s \
             join revisions r using (digest) where r.plugin = $1 order by s.added_at, s.key_id",
        );
        query
            .bind(plugin.as_str())
            .fetch_all(&self.pool)
            .await?
            .into_iter()
            .map(signature)
            .collect()
    }
}
