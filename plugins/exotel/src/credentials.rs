//! Whether calls can be made here: for clients, and in detail for operators.

use patchbay_plugin::{Answer, Failure, json, secrets};

use crate::settings::{Settings, WEBHOOK_TOKEN};
use crate::vendor::{Trouble, Vendor};

/// `GET /api/exotel/config`. Without all that is needed, clients fall back to `tel:` links.
pub fn config() -> Result<Answer, Failure> {
    let settings = Settings::load()?;
    Ok(Answer::json(&json!({
        "enabled": settings.account().is_ok(),
        "sms": settings.sms_sender().is_ok(),
    })))
}

/// `patchbay plugin call exotel check-credentials`: asks the vendor, and says what else is missing.
pub fn check(deadline: u64) -> Result<Answer, Failure> {
    let settings = Settings::load()?;
    let vendor = Vendor::new(&settings, deadline)?;
    if let Err(trouble) = vendor.check() {
        let mut failure = trouble.failure();
        failure.message = format!("{}: {}", settings.api_url, failure.message);
        if let Some(other) = other_cluster(&vendor, &settings, &trouble) {
            failure.message += &format!(
                ". {other} accepts them: patchbay plugin settings set exotel apiUrl={other}"
            );
        }
        return Err(failure);
    }
    let mut problems = Vec::new();
    if settings.public_url.is_none() {
        problems.push("publicUrl is not set: the vendor sends no callbacks");
    }
    if !secrets::is_configured(WEBHOOK_TOKEN) {
        problems.push("EXOTEL_WEBHOOK_TOKEN is not set: the vendor sends no callbacks");
    }
    if settings.sms_sender_id.is_none() {
        problems.push("smsSenderId is not set: text messages are off");
    } else if settings.dlt_entity_id.is_none() {
        problems.push("dltEntityId is not set: operators in India drop messages without it");
    }
    Ok(Answer::json(&json!({
        "ok": true,
        "apiUrl": settings.api_url,
        "balance": vendor.balance(),
        "problems": problems,
    })))
}

/// Another cluster that takes the same credentials.
fn other_cluster<'a>(
    vendor: &Vendor<'a>,
    settings: &'a Settings,
    trouble: &Trouble,
) -> Option<&'a str> {
    let Trouble::Refused(reason) = trouble else {
        return None;
    };
    if reason.code != "bad-credentials" {
        return None;
    }
    settings
        .clusters
        .iter()
        .filter(|url| **url != settings.api_url)
        .find(|url| vendor.at(url).check().is_ok())
        .map(String::as_str)
}
