//! The operator's settings; see settings.schema.json.

use patchbay_plugin::Failure;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    pub api_url: String,
    pub page_size: u64,
    pub utc_offset: String,
    pub stale_run_minutes: u32,
    pub keep_runs_days: u32,
    pub reminder_zone: String,
    pub reminder_subject: String,
    pub reminder_text: String,
    pub whatsapp_template: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            api_url: "https://api.ongraphy.com".into(),
            page_size: 200,
            utc_offset: "+05:30".into(),
            stale_run_minutes: 15,
            keep_runs_days: 90,
            reminder_zone: "Asia/Kolkata".into(),
            reminder_subject: "Continue with {{course}}".into(),
            reminder_text:
                "Hello {{name}},\n\nyou have completed {{progress}} % of {{course}}. Keep going!\n"
                    .into(),
            whatsapp_template: "mrlearn_progress_reminder".into(),
        }
    }
}

impl Settings {
    pub fn load() -> Result<Self, Failure> {
        patchbay_plugin::settings::all()
    }
}
