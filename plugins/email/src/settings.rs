//! The operator's settings; see settings.schema.json.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    pub from: Option<String>,
    pub brands: BTreeMap<String, Brand>,
    pub templates: BTreeMap<String, Template>,
    pub mapping: BTreeMap<String, Mapping>,
    /// All attachments together. The default fits the largest job (1 MiB) after base64.
    pub max_attachment_bytes: Option<usize>,
    pub defer_minutes: Option<u64>,
    /// For mails of the kind marketing whose job names no address to unsubscribe at.
    pub unsubscribe: Vec<String>,
}

/// How mails of one platform look.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Brand {
    pub name: Option<String>,
    pub from: Option<String>,
    pub color: Option<String>,
    pub logo_url: Option<String>,
    pub support_email: Option<String>,
    pub footer: Option<String>,
    pub utc_offset: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Template {
    pub subject: String,
    pub html: Option<String>,
    pub text: Option<String>,
}

/// Another producer's job.
#[derive(Debug, Clone, Deserialize)]
pub struct Mapping {
    pub job: String,
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    #[serde(default)]
    pub values: Map<String, Value>,
}

impl Settings {
    /// Of the platform, else the default one.
    pub fn brand(&self, platform: &str) -> Brand {
        self.brands
            .get(platform)
            .or_else(|| self.brands.get("default"))
            .cloned()
            .unwrap_or_default()
    }
}
