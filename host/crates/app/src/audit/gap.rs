//! Going on after a restore: an operator accepts that entries are missing.

use patchbay_api::audit::{AcceptedGap, AuditAcceptGap};
use patchbay_model::TrailName;
use patchbay_model::audit::ActorKind;
use patchbay_store::{NewHostEntry, Sealable};
use serde_json::{Value, json};

use super::chain::{self, PURPOSE};
use super::sealer::behind;
use super::verify::GAP;
use super::{Audit, anchors};
use crate::Error;
use crate::actions::Caller;

impl Audit {
    /// Begins a new epoch with an entry that names both heads: that of the database, and the one
    /// that was noted elsewhere.
    pub async fn accept_gap(&self, who: &Caller, name: &str) -> Result<AcceptedGap, Error> {
        let trail: TrailName = name.parse()?;
        let act = self.begin_epoch(who, trail.as_str());
        self.actions
            .record::<AuditAcceptGap, _>(who, trail.as_str(), json!({}), act)
            .await
    }

    async fn begin_epoch(&self, who: &Caller, trail: &str) -> Result<AcceptedGap, Error> {
        let head = self
            .store
            .audit_heads(Some(trail))
            .await?
            .into_iter()
            .next();
        let mut noted = self.ledger.known_anchors(&self.store).await?;
        noted.retain(|anchor| anchor.trail == trail);
        if behind(&self.store, head.as_ref(), &noted).await?.is_none() {
            return Err(Error::conflict(format!(
                "Audit trail {trail} is not behind what was noted outside of the database: nothing is to be accepted. See: patchbay audit verify --trail {trail}"
            )));
        }
        if who.reason.is_none() {
            return Err(Error::invalid(
                "reason: say why entries are missing, for example: restored from the dump of Monday",
            ));
        }
        let Some(lost) = noted.into_iter().max_by_key(|anchor| anchor.place()) else {
            return Err(Error::conflict(format!(
                "Nothing is noted of audit trail {trail}"
            )));
        };
        let present = head.as_ref().map(anchors::of);
        let epoch = lost
            .epoch
            .max(present.as_ref().map_or(0, |head| head.epoch))
            + 1;
        let gap = AcceptedGap {
            trail: trail.to_owned(),
            present,
            lost,
            epoch,
        };
        let key = match self.ledger.keys.has_master_key() {
            true => Some(self.ledger.keys.get_or_replace(PURPOSE).await?),
            false => None,
        };
        let told = serde_json::to_value(&gap).unwrap_or(Value::Null);
        let entry_key = format!("gap/{epoch}");
        let entry = NewHostEntry {
            trail,
            entry_key: &entry_key,
            actor_kind: ActorKind::Operator,
            actor_id: Some(&who.actor),
            actor_name: Some(&who.actor),
            action: GAP,
            entity: Some(trail),
            address: who.from,
            platform: None,
            correlation_id: who.trace.correlation_id.as_deref(),
            entry: &told,
        };
        let present = gap.present.clone();
        let make = |sealable: &Sealable<'_>| {
            (sealable.head.map(anchors::of) == present)
                .then(|| chain::next(sealable, key.as_ref(), Some(epoch)))
                .flatten()
        };
        let batch = self.store.begin_audit_epoch(&entry, make).await?;
        self.ledger.anchors.note(&[anchors::of(&batch)]).await;
        self.ledger.anchors.publish(vec![anchors::of(&batch)]).await;
        Ok(gap)
    }
}
