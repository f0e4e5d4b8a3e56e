use serde_json::json;

use super::*;

fn none_stored(_: &str, _: Option<i64>) -> Result<Stored, Failure> {
    Err(Failure::invalid_input("template", "there is none"))
}

fn made(name: &str, data: Value) -> Result<Message, Failure> {
    let brand = Brand {
        name: Some("Acme".into()),
        utc_offset: Some("+05:30".into()),
        ..Brand::default()
    };
    message(name, &data, &Settings::default(), &brand, &none_stored).map(|made| made.message)
}

/// One valid payload per job.
fn samples() -> Vec<(&'static str, &'static str, Value)> {
    let to = "a@example.com";
    vec![
        (
            "send",
            "send",
            json!({ "to": [to], "subject": "s", "text": "t", "attachments": [{ "filename": "a.txt", "content": "aGk=" }] }),
        ),
        (
            "template",
            "template",
            json!({ "to": to, "subject": "Hi {{name}}", "html": "<b>{{name}}</b>", "variables": { "name": "A" } }),
        ),
        (
            "otp",
            "otp",
            json!({ "to": to, "otp": 1234, "expiresInMinutes": 10 }),
        ),
        (
            "credentials",
            "credentials",
            json!({ "to": to, "password": "p", "loginUrl": "https://example.com" }),
        ),
        (
            "meeting-booked",
            "meeting",
            json!({ "to": to, "startTime": "2026-01-02T03:04:05Z", "with": "B" }),
        ),
        (
            "meeting-reminder",
            "meeting",
            json!({ "to": to, "startTime": "tomorrow at 5" }),
        ),
        (
            "meeting-cancelled",
            "meeting",
            json!({ "to": to, "startTime": "2026-01-02T03:04:05Z", "reason": "ill" }),
        ),
        (
            "payment-receipt",
            "payment-receipt",
            json!({ "to": to, "amount": 499.5, "currency": "INR", "paymentId": "pay_1" }),
        ),
        (
            "discount-decision",
            "discount-decision",
            json!({ "to": to, "decision": "approved", "discount": "10 %" }),
        ),
    ]
}

#[test]
fn every_job_becomes_a_message_and_its_schema_agrees() {
    for (name, schema, data) in samples() {
        let path = format!("{}/schemas/{schema}.json", env!("CARGO_MANIFEST_DIR"));
        let schema: Value =
            serde_json::from_str(&std::fs::read_to_string(path).expect("a schema")).expect("JSON");
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        assert!(
            validator.is_valid(&data),
            "{name}: the schema refuses its sample"
        );
        let message = made(name, data.clone())
            .unwrap_or_else(|failure| panic!("{name}: {}", failure.message));
        assert!(message.text.is_some() || message.html.is_some(), "{name}");
        // What the schema requires, the code requires.
        for field in schema["required"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
        {
            let mut without = data.clone();
            without.as_object_mut().expect("an object").remove(field);
            assert!(
                !validator.is_valid(&without),
                "{name} without {field}: the schema takes it"
            );
            let failure = made(name, without).expect_err("refused");
            assert!(
                failure.code == "invalid-input" && failure.message.contains(field),
                "{name} without {field}: {}",
                failure.message
            );
        }
    }
}

#[test]
fn letters_carry_the_brand_and_local_times_and_escape_what_they_show() {
    let message = made(
        "meeting-booked",
        json!({ "to": "a@example.com", "name": "<i>", "startTime": "2026-01-02T03:04:05Z" }),
    )
    .expect("made");
    assert_eq!(message.subject, "Meeting booked - Acme");
    assert!(
        message
            .text
            .as_deref()
            .is_some_and(|text| text.contains("2 January 2026, 08:34 (UTC+05:30)"))
    );
    assert!(
        message
            .html
            .as_deref()
            .is_some_and(|html| html.contains("Hello &lt;i&gt;,"))
    );
}

#[test]
fn what_a_mail_must_not_carry_is_refused_and_named() {
    let send = |extra: Value| {
        let mut data = json!({ "to": "a@example.com", "subject": "s", "text": "t" });
        data.as_object_mut()
            .expect("an object")
            .extend(extra.as_object().cloned().expect("an object"));
        made("send", data).expect_err("refused").message
    };
    assert!(send(json!({ "subject": "a\r\nBcc: x@example.com" })).starts_with("subject:"));
    assert!(
        send(json!({ "attachments": [{ "filename": "a", "content": "***" }] }))
            .starts_with("attachments[0].content:")
    );
    assert!(
            send(json!({ "attachments": [{ "filename": "a", "content": "aGk=", "contentType": "x\r\ny/z" }] }))
                .starts_with("attachments[0].contentType:")
        );
    let large =
        base64::engine::general_purpose::STANDARD.encode(vec![0; DEFAULT_MAX_ATTACHMENT_BYTES + 1]);
    assert!(
        send(json!({ "attachments": [{ "filename": "a", "content": large }] }))
            .starts_with("attachments:")
    );
    assert!(
        made("newsletter", json!({ "to": "a@example.com" }))
            .expect_err("unknown")
            .message
            .starts_with("name:")
    );
}

#[test]
fn a_job_that_names_a_template_gets_the_stored_one_and_tells_its_version() {
    let library = |name: &str, version: Option<i64>| match name {
        "offer" => Ok(Stored {
            id: "7d".into(),
            version: version.unwrap_or(3),
            is_marketing: true,
            subject: "For {{ name }}".into(),
            html: Some("<p>{% for one in courses %}{{ one }};{% endfor %}</p>".into()),
            text: None,
        }),
        name => none_stored(name, version),
    };
    let settings: Settings = serde_json::from_value(json!({
        "templates": { "hello": { "subject": "Hello {{name}}", "text": "{{name}}" } },
        "unsubscribe": ["https://example.com/u"],
    }))
    .expect("settings");
    let made = |data: Value| message("template", &data, &settings, &Brand::default(), &library);
    let variables = json!({ "name": "Asha", "courses": ["<a>", "b"] });
    let data = json!({ "to": "a@example.com", "template": "offer", "variables": variables, "leadId": "l1", "sentBy": "u1" });
    let offer = made(data.clone()).expect("made");
    assert_eq!(offer.message.subject, "For Asha");
    assert_eq!(offer.message.html.as_deref(), Some("<p>&lt;a&gt;;b;</p>"));
    assert_eq!(offer.message.unsubscribe, ["https://example.com/u"]);
    let used = offer.about.template.expect("a template");
    assert_eq!((used.name.as_str(), used.version), ("offer", Some(3)));
    assert_eq!(
        (
            offer.about.lead_id.as_deref(),
            offer.about.sent_by.as_deref()
        ),
        (Some("l1"), Some("u1"))
    );

    let mut pinned = data.clone();
    pinned["templateVersion"] = 2.into();
    let pinned = made(pinned)
        .expect("made")
        .about
        .template
        .expect("a template");
    assert_eq!(pinned.version, Some(2));
    let mut of_settings = data.clone();
    of_settings["template"] = "hello".into();
    let of_settings = made(of_settings).expect("made");
    assert_eq!(
        (
            of_settings.message.subject.as_str(),
            of_settings.message.unsubscribe.len()
        ),
        ("Hello Asha", 0)
    );
    let mut missing = data;
    missing["variables"] = json!({ "courses": [] });
    let missing = made(missing).expect_err("a variable is missing");
    assert_eq!(
        (missing.code.as_str(), missing.message.as_str()),
        (
            "invalid-input",
            "variables.name: is missing; the template needs it"
        )
    );
}

#[test]
fn a_mail_of_the_kind_marketing_needs_a_way_to_get_no_more_of_them() {
    let send = |extra: Value| {
        let mut data = json!({ "to": "a@example.com", "subject": "s", "text": "t" });
        data.as_object_mut()
            .expect("an object")
            .extend(extra.as_object().cloned().expect("an object"));
        made("send", data)
    };
    let refused = |extra: Value| send(extra).expect_err("refused").message;
    assert!(refused(json!({ "kind": "marketing" })).starts_with("unsubscribe: is missing"));
    for evil in [
        "http://example.com",
        "https://a b",
        "https://a>\r\nBcc: x@y",
        "mailto:a@x,b@y",
        "javascript:1",
    ] {
        assert!(
            refused(json!({ "kind": "marketing", "unsubscribe": evil }))
                .starts_with("unsubscribe: must"),
            "{evil}"
        );
    }
    let both = json!(["https://example.com/u?t=1", "mailto:u@example.com"]);
    let message = send(json!({ "kind": "marketing", "unsubscribe": both })).expect("made");
    assert_eq!(message.unsubscribe.len(), 2);
    assert!(send(json!({})).expect("made").unsubscribe.is_empty());
}
