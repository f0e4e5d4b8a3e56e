//! The operator's settings; see settings.schema.json, whose defaults are repeated here for members
//! of objects.

use patchbay_plugin::{Failure, Retry};
use serde::Deserialize;

use crate::time::Offset;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    pub expired_by: ExpiredBy,
    pub grace_minutes: i64,
    pub unbooked_statuses: Vec<String>,
    pub utc_offset: Offset,
    /// Most slots that one transaction deletes.
    pub batch_size: u32,
    pub other_job_names: Vec<String>,
    pub refund: Refund,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            expired_by: ExpiredBy::End,
            grace_minutes: 0,
            unbooked_statuses: vec!["tentative".into()],
            utc_offset: Offset::default(),
            batch_size: 1_000,
            other_job_names: Vec::new(),
            refund: Refund::default(),
        }
    }
}

/// Which time of a slot must have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpiredBy {
    End,
    Start,
}

impl ExpiredBy {
    /// Its column, for a statement.
    pub fn column(self) -> &'static str {
        match self {
            Self::End => "\"endDateTime\"",
            Self::Start => "\"startDateTime\"",
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Refund {
    pub enabled: bool,
    pub statuses: Vec<String>,
    pub new_status: String,
    pub grace_minutes: i64,
    pub look_back_days: i64,
    pub negative_amounts: bool,
}

impl Default for Refund {
    fn default() -> Self {
        Self {
            enabled: false,
            statuses: vec!["confirmed".into(), "cancellation_requested".into()],
            new_status: "cancelled".into(),
            grace_minutes: 60,
            look_back_days: 7,
            negative_amounts: false,
        }
    }
}

impl Settings {
    /// As set, and what no schema can check.
    pub fn read() -> Result<Self, Failure> {
        let settings: Self = patchbay_plugin::settings::all()?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), Failure> {
        let refused = |message: String| Err(Failure::new("bad-settings", message, Retry::Never));
        let refund = &self.refund;
        if refund.statuses.contains(&refund.new_status) {
            return refused(format!(
                "refund.newStatus: {:?} is one of refund.statuses, so a refunded meeting would be looked at again",
                refund.new_status
            ));
        }
        if self.unbooked_statuses.contains(&refund.new_status) && refund.enabled {
            return refused(format!(
                "refund.newStatus: {:?} is one of unbookedStatuses, and a refunded meeting keeps its student",
                refund.new_status
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_schema_and_nothing_is_refunded() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../settings.schema.json")).expect("JSON");
        let defaults = |properties: &serde_json::Value| {
            let members = properties.as_object().expect("properties").iter();
            let members = members.map(|(name, spec)| (name.clone(), spec["default"].clone()));
            serde_json::Value::Object(members.collect())
        };
        let mut stated = defaults(&schema["properties"]);
        stated["refund"] = defaults(&schema["properties"]["refund"]["properties"]);
        let stated: Settings = serde_json::from_value(stated).expect("settings");
        assert_eq!(format!("{stated:?}"), format!("{:?}", Settings::default()));
        assert!(!stated.refund.enabled);
        assert!(stated.check().is_ok());
    }

    #[test]
    fn a_refunded_meeting_must_not_be_due_again() {
        let settings = |json| {
            serde_json::from_str::<Settings>(json)
                .expect("settings")
                .check()
        };
        let wrong = settings(r#"{"refund":{"newStatus":"confirmed"}}"#).expect_err("due again");
        assert_eq!(wrong.code, "bad-settings");
        assert!(settings(r#"{"refund":{"enabled":true,"newStatus":"tentative"}}"#).is_err());
    }
}
