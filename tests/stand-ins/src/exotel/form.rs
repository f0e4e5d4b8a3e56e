//! What requests bring: pairs of name and text.

use std::collections::BTreeMap;

use super::state::{Callback, Encoding};

pub(super) type Pairs = BTreeMap<String, String>;

pub(super) fn pairs(encoded: &[u8]) -> Pairs {
    url::form_urlencoded::parse(encoded).into_owned().collect()
}

pub(super) fn required<'a>(form: &'a Pairs, name: &str) -> Result<&'a str, String> {
    let value = form.get(name).map(String::as_str).unwrap_or_default();
    if value.is_empty() {
        return Err(format!("Bad or missing parameters: {name}"));
    }
    Ok(value)
}

pub(super) fn at_most(form: &Pairs, name: &str, limit: u32) -> Result<(), String> {
    match form.get(name).map(|text| text.parse::<u32>()) {
        None => Ok(()),
        Some(Ok(number)) if number <= limit => Ok(()),
        Some(_) => Err(format!("Bad or missing parameters: {name}")),
    }
}

pub(super) fn callback_of(form: &Pairs) -> Option<Callback> {
    let url = form.get("StatusCallback").filter(|url| !url.is_empty())?;
    let mut events = Vec::new();
    for (name, value) in form {
        if name == "StatusCallbackEvents" || name.starts_with("StatusCallbackEvents[") {
            events.extend(value.split(',').map(|event| event.trim().to_owned()));
        }
    }
    let encoding = match form.get("StatusCallbackContentType").map(String::as_str) {
        Some("application/json") => Encoding::Json,
        _ => Encoding::Multipart,
    };
    Some(Callback {
        url: url.clone(),
        events,
        encoding,
    })
}
