//! Each night, one process of the fleet verifies every trail, and sends the newest batches over the
//! alerts' webhook.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Days, NaiveTime, Utc};
use patchbay_api::audit::Verdict;
use patchbay_model::audit_chain::Anchor;
use patchbay_store::{LeaderTask, Leadership, Store};
use tracing::{error, info};

use super::{Audit, Ledger};
use crate::Parts;
use crate::alerts::AlertWatch;
use crate::leader::{Led, LedTask, Next};
use crate::service::Service;

/// Between looks at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// In UTC.
const NIGHT: NaiveTime = NaiveTime::from_hms_opt(2, 10, 0).expect("a time of day");

/// Verifies each night.
pub fn nightly(parts: &Parts) -> Arc<dyn Service> {
    let task = Nightly {
        store: parts.store.clone(),
        ledger: Arc::clone(&parts.audit),
        alerts: Arc::clone(&parts.alerts),
    };
    Arc::new(Led::new(parts.store.clone(), task))
}

struct Nightly {
    store: Store,
    ledger: Arc<Ledger>,
    alerts: Arc<AlertWatch>,
}

#[async_trait]
impl LedTask for Nightly {
    const TASK: LeaderTask = LeaderTask::VerifyAudit;
    const NAME: &'static str = "audit-verification";
    const FAILING: &'static str = "audit trails are not verified each night";

    fn every(&self) -> Duration {
        LOOK_EVERY
    }

    async fn is_needed(&mut self) -> anyhow::Result<bool> {
        let oldest = self.store.audit_verified_at().await?;
        Ok(is_due(oldest, Utc::now()))
    }

    async fn round(&mut self, _lead: &mut Leadership<'_>) -> anyhow::Result<Next> {
        let report = Audit::verify_all(&self.store, &self.ledger, None).await?;
        if report.result == Verdict::Whole {
            info!(trails = report.trails.len(), "audit trails are whole");
        }
        for trail in report
            .trails
            .iter()
            .filter(|trail| trail.result != Verdict::Whole)
        {
            let problem = trail
                .problems
                .first()
                .map(|problem| problem.message.as_str());
            let problem = problem.or(trail
                .missing
                .as_ref()
                .map(|missing| missing.message.as_str()));
            error!(
                trail = trail.trail,
                problem, "an audit trail is not whole; see: patchbay audit verify"
            );
        }
        // Of a trail that is not whole, too: that is when an older one is needed.
        let heads: Vec<Anchor> = report
            .trails
            .iter()
            .filter_map(|trail| trail.head.clone())
            .collect();
        self.alerts.post_anchors(&heads).await?;
        Ok(Next::Later)
    }
}

/// Whether the night has come since the oldest verification. Without one: every trail is new.
fn is_due(oldest: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    let tonight = now.date_naive().and_time(NIGHT).and_utc();
    let last_night = if now >= tonight {
        Some(tonight)
    } else {
        tonight.checked_sub_days(Days::new(1))
    };
    match (oldest, last_night) {
        (Some(oldest), Some(night)) => oldest < night,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_night_without_a_verification_makes_one_due() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
        let now = at("2026-11-30T10:00:00Z");
        assert!(is_due(Some(at("2026-11-30T02:00:00Z")), now));
        assert!(!is_due(Some(at("2026-11-30T02:30:00Z")), now));
        assert!(!is_due(
            Some(at("2026-11-29T02:30:00Z")),
            at("2026-11-30T01:00:00Z")
        ));
        assert!(!is_due(None, now));
    }
}
