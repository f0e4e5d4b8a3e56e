//! The newest batch of each audit trail, noted in Redis: a Postgres that was restored from an older
//! dump is shorter.

use std::collections::BTreeMap;

use crate::{Broker, QueueError};

impl Broker {
    /// What was noted, by trail.
    pub async fn audit_anchors(&self) -> Result<BTreeMap<String, String>, QueueError> {
        let mut command = redis::cmd("HGETALL");
        command.arg(self.audit_anchors_key());
        Ok(command.query_async(&mut self.connection.get()).await?)
    }

    /// Notes a text for each of these trails.
    pub async fn note_audit_anchors(&self, anchors: &[(String, String)]) -> Result<(), QueueError> {
        if anchors.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("HSET");
        command.arg(self.audit_anchors_key());
        for (trail, anchor) in anchors {
            command.arg(trail).arg(anchor);
        }
        let _added: u64 = command.query_async(&mut self.connection.get()).await?;
        Ok(())
    }

    fn audit_anchors_key(&self) -> String {
        format!("{}:audit-anchors", self.config.own_prefix)
    }
}
