//! The operator's settings; see settings.schema.json.

use patchbay_plugin::{Failure, Retry, secrets};
use serde::Deserialize;

pub const API_KEY: &str = "EXOTEL_API_KEY";
pub const API_TOKEN: &str = "EXOTEL_API_TOKEN";
pub const WEBHOOK_TOKEN: &str = "EXOTEL_WEBHOOK_TOKEN";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    pub sid: Option<String>,
    pub caller_id: Option<String>,
    pub api_url: String,
    pub clusters: Vec<String>,
    pub public_url: Option<String>,
    pub sms_sender_id: Option<String>,
    pub dlt_entity_id: Option<String>,
    pub dlt_template_id: Option<String>,
    pub sms_type: String,
    pub country_code: String,
    pub utc_offset: String,
    pub record: bool,
    pub time_limit_seconds: u32,
    pub ring_seconds: u32,
    pub sales_head_scope: SalesHeadScope,
    pub connect_timeout_ms: u64,
    pub repeat_guard_seconds: u32,
    pub reconcile_after_minutes: f64,
    pub give_up_hours: u32,
    pub keep_unknown_days: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SalesHeadScope {
    Pool,
    All,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sid: None,
            caller_id: None,
            api_url: "https://api.exotel.com".into(),
            clusters: vec![
                "https://api.exotel.com".into(),
                "https://api.in.exotel.com".into(),
            ],
            public_url: None,
            sms_sender_id: None,
            dlt_entity_id: None,
            dlt_template_id: None,
            sms_type: "transactional".into(),
            country_code: "91".into(),
            utc_offset: "+05:30".into(),
            record: true,
            time_limit_seconds: 3600,
            ring_seconds: 40,
            sales_head_scope: SalesHeadScope::Pool,
            connect_timeout_ms: 8_000,
            repeat_guard_seconds: 30,
            reconcile_after_minutes: 10.0,
            give_up_hours: 24,
            keep_unknown_days: 30,
        }
    }
}

/// What is needed to place a call.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    pub sid: &'a str,
    pub caller_id: &'a str,
}

impl Settings {
    pub fn load() -> Result<Self, Failure> {
        patchbay_plugin::settings::all()
    }

    /// Settings and secrets that calls need and that have no value.
    pub fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        for (name, value) in [("sid", &self.sid), ("callerId", &self.caller_id)] {
            if value.is_none() {
                missing.push(name);
            }
        }
        for name in [API_KEY, API_TOKEN] {
            if !secrets::is_configured(name) {
                missing.push(name);
            }
        }
        missing
    }

    /// The account, when everything that calls need has a value.
    pub fn account(&self) -> Result<Account<'_>, Failure> {
        let missing = self.missing();
        match (&self.sid, &self.caller_id) {
            (Some(sid), Some(caller_id)) if missing.is_empty() => Ok(Account { sid, caller_id }),
            _ => Err(Failure::new(
                "unavailable",
                format!("calls are off: {} not set", missing.join(", ")),
                Retry::Never,
            )),
        }
    }

    /// Sender of text messages, when they are on.
    pub fn sms_sender(&self) -> Result<&str, Failure> {
        self.account()?;
        self.sms_sender_id.as_deref().ok_or_else(|| {
            Failure::new(
                "unavailable",
                "text messages are off: smsSenderId not set",
                Retry::Never,
            )
        })
    }
}
