//! Other producers' names and fields, translated into ours by the settings.

use patchbay_plugin::Failure;
use serde_json::Value;

use crate::settings::Settings;

/// The job's name and data as [`crate::payload`] knows them.
pub fn apply(settings: &Settings, name: &str, data: &str) -> Result<(String, Value), Failure> {
    let data: Value = patchbay_plugin::parse(data)?;
    let Some(mapping) = settings.mapping.get(name) else {
        return Ok((name.to_owned(), data));
    };
    let mut mapped = data.clone();
    if !mapped.is_object() {
        mapped = Value::Object(serde_json::Map::new());
    }
    for (field, value) in &mapping.values {
        mapped[field] = value.clone();
    }
    for (field, path) in &mapping.fields {
        if let Some(value) = lookup(&data, path) {
            mapped[field] = value.clone();
        }
    }
    Ok((mapping.job.clone(), mapped))
}

/// `user.emails.0`
fn lookup<'a>(data: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(data, |value, part| match value {
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        other => other.get(part),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_and_nested_fields_become_ours() {
        let settings: Settings = serde_json::from_value(serde_json::json!({ "mapping": { "sendOtpEmail": {
            "job": "otp", "fields": { "to": "user.emails.0", "otp": "code" }, "values": { "expiresInMinutes": 5 }
        } } }))
        .expect("settings");
        let data = r#"{"user":{"emails":["a@example.com"]},"code":"1234"}"#;
        let (name, mapped) = apply(&settings, "sendOtpEmail", data).expect("mapped");
        assert_eq!(
            (name.as_str(), &mapped["to"], &mapped["otp"]),
            ("otp", &"a@example.com".into(), &"1234".into())
        );
        assert_eq!(mapped["expiresInMinutes"], 5);
        assert_eq!(apply(&settings, "send", "{}").expect("as it is").0, "send");
    }
}
