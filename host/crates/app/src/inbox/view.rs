//! A request as operators see it. Credentials, and what the manifest redacts, are never shown; the
//! rest only to those who ask, which is recorded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use patchbay_api::inbox::{InboxContent, InboxHeader};
use patchbay_model::manifest::{TokenCheck, TokenPlace, WebhookCheck, WebhookSpec};
use patchbay_model::redaction::{REDACTED, is_secret};
use patchbay_model::{DataPath, Redaction};

use super::check;
use super::event::{Content, is_form};

/// Headers that say nothing of a person.
const PLAIN: [&str; 9] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "date",
    "host",
    "transfer-encoding",
    "user-agent",
];
/// Headers that are never shown.
const CREDENTIALS: [&str; 4] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
];
/// Longest name of a field, in bytes.
const MAX_FIELD: usize = 64;
/// Bytes of a body that are shown.
const MAX_SHOWN: usize = 256 << 10;

/// `spec`: of the active revision, if the webhook is still there. What it hides now and what the
/// webhook hid when the request came are both hidden.
pub(super) fn content(content: &Content, spec: Option<&WebhookSpec>, reveal: bool) -> InboxContent {
    let checks = [
        content.hides.check.as_ref(),
        spec.and_then(|spec| spec.check.as_ref()),
    ];
    let mut request = content.request.clone();
    for check in checks {
        request = check::stripped(check, &request);
    }
    let hidden_header = |name: &str| {
        checks.iter().any(|check| match check {
            Some(WebhookCheck::Token(TokenCheck {
                place: TokenPlace::Header,
                name: token,
                ..
            })) => name.eq_ignore_ascii_case(token),
            _ => false,
        })
    };
    let mut paths = content.hides.redact.clone();
    paths.extend(spec.into_iter().flat_map(|spec| spec.redact.clone()));
    let header = |(name, value): &(String, Vec<u8>)| {
        let is_credential = CREDENTIALS.contains(&name.as_str()) || hidden_header(name);
        let is_shown =
            !is_credential && (PLAIN.contains(&name.as_str()) || (reveal && !is_secret(name)));
        InboxHeader {
            name: name.clone(),
            value: match is_shown {
                true => String::from_utf8_lossy(value).into_owned(),
                false => REDACTED.into(),
            },
        }
    };
    let (body, is_base64) = body(&request.body, &content.request, &paths, reveal);
    let kept = |text: &str| match reveal || text.is_empty() {
        true => text.to_owned(),
        false => REDACTED.to_owned(),
    };
    InboxContent {
        event_id: content.event_id.as_deref().map(kept),
        path: request.path.clone(),
        query: pairs(&request.query, &paths, reveal, true),
        headers: content.request.headers.iter().map(header).collect(),
        address: kept(&request.ip),
        body,
        is_base64,
        is_redacted: !reveal,
    }
}

/// Pairs of a form, or as they stand of a query. Names are shown, their values on request; what is
/// no name of a field may be a value.
fn pairs(text: &str, paths: &[DataPath], reveal: bool, as_they_stand: bool) -> String {
    let redaction = Redaction::new(paths);
    let shown = |pair: &str| {
        let (name, value) = url::form_urlencoded::parse(pair.as_bytes())
            .next()
            .unwrap_or_default();
        let is_name = pair.contains('=') && is_field(&name);
        // What has no name may be what is to be hidden.
        let is_hidden = !reveal || redaction.covers(&name) || !(is_name || paths.is_empty());
        match (is_hidden, is_name) {
            (true, true) => format!("{name}={REDACTED}"),
            (true, false) => REDACTED.to_owned(),
            (false, _) if as_they_stand => pair.to_owned(),
            (false, _) => format!("{name}={value}"),
        }
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(shown).collect::<Vec<_>>().join("&")
}

fn is_field(name: &str) -> bool {
    let may_have = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-[]".contains(&byte);
    (1..=MAX_FIELD).contains(&name.len()) && name.bytes().all(may_have)
}

fn body(
    bytes: &[u8],
    request: &patchbay_model::webhook::WebhookRequest,
    paths: &[DataPath],
    reveal: bool,
) -> (String, bool) {
    let cut = &bytes[..bytes.len().min(MAX_SHOWN)];
    let Ok(text) = std::str::from_utf8(bytes) else {
        return match reveal && paths.is_empty() {
            true => (STANDARD.encode(cut), true),
            false => (REDACTED.into(), false),
        };
    };
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let is_form = is_form(request);
    let shown = match (is_json, is_form) {
        (true, _) => {
            let redaction = match reveal {
                true => Redaction::new(paths),
                false => strict(paths),
            };
            redaction.data(text).0.text.into_owned()
        }
        (false, true) => pairs(text, paths, reveal, false),
        // What its parts are called is not known.
        (false, false) if reveal && paths.is_empty() => text.to_owned(),
        (false, false) if text.is_empty() => String::new(),
        (false, false) => REDACTED.into(),
    };
    let end = (0..=shown.len().min(MAX_SHOWN))
        .rev()
        .find(|&at| shown.is_char_boundary(at));
    (shown[..end.unwrap_or_default()].to_owned(), false)
}

/// Paths of the manifest, and what looks like a key or a person.
fn strict(paths: &[DataPath]) -> Redaction {
    Redaction::strict().with_paths(paths)
}

#[cfg(test)]
mod tests {
    use patchbay_model::webhook::WebhookRequest;

    use super::super::event::Hides;
    use super::*;

    /// As long as the webhook is there; `is_gone`: its plugin was deactivated meanwhile.
    fn seen(kind: &str, body: &str, reveal: bool, is_gone: bool) -> InboxContent {
        let spec: WebhookSpec = serde_json::from_value(serde_json::json!({
            "name": "w", "path": "/api/v/w", "queue": "q", "redact": ["phone"],
            "check": { "token": { "in": "query", "name": "token", "secret": "T" } },
        }))
        .expect("a webhook");
        let spec_now = (!is_gone).then(|| spec.clone());
        let headers = [
            ("content-type", kind),
            ("authorization", "Basic abc"),
            ("x-vendor", "v1"),
        ];
        let sent = Content {
            request: WebhookRequest {
                name: "w".into(),
                method: "POST".into(),
                path: "/api/v/w".into(),
                query: "token=hunter2&a=1".into(),
                headers: headers
                    .map(|(name, value)| (name.to_owned(), value.into()))
                    .to_vec(),
                body: body.into(),
                ip: "203.0.113.7".into(),
                received_at_ms: 1,
            },
            event_id: Some("e-1".into()),
            platform: None,
            hides: Hides::of(&spec),
        };
        content(&sent, spec_now.as_ref(), reveal)
    }

    #[test]
    fn credentials_and_redacted_fields_are_never_shown_and_the_rest_only_on_request() {
        let json = r#"{"phone":"+15550101","amount":7}"#;
        for (kind, body) in [
            ("application/json", json),
            (
                "application/x-www-form-urlencoded",
                "phone=%2B15550101&amount=7",
            ),
        ] {
            for is_gone in [false, true] {
                let hidden =
                    serde_json::to_string(&seen(kind, body, false, is_gone)).expect("JSON");
                let shown = serde_json::to_string(&seen(kind, body, true, is_gone)).expect("JSON");
                for never in ["hunter2", "Basic abc", "15550101"] {
                    assert!(
                        !hidden.contains(never) && !shown.contains(never),
                        "{never}: {shown}"
                    );
                }
                for asked in ["203.0.113.7", "e-1", "a=1", "v1"] {
                    assert!(
                        !hidden.contains(asked) && shown.contains(asked),
                        "{asked}: {hidden} {shown}"
                    );
                }
                assert!(hidden.contains("amount") && hidden.contains(kind));
            }
        }
        assert_eq!(
            seen("multipart/form-data", "--x phone", true, false).body,
            REDACTED
        );
    }

    #[test]
    fn what_is_no_name_of_a_field_is_hidden_as_a_value_is() {
        let form = "application/x-www-form-urlencoded";
        for body in [
            r#"{"phone":"+15550103","a":"#,
            "+15550104",
            "15550104",
            r#"{"phone":"+15550103","a":=1"#,
        ] {
            for reveal in [false, true] {
                let seen = seen(form, body, reveal, false).body;
                assert!(!seen.contains("1555"), "{body}: {seen}");
            }
        }
        let paths = ["phone".parse().expect("a path")];
        let query = "phone=%2B15550110&%2B15550111&Legs[0][id]=7&a=%20";
        assert_eq!(
            pairs(query, &paths, true, true),
            "phone=[redacted]&[redacted]&Legs[0][id]=7&a=%20"
        );
        assert_eq!(
            pairs(query, &paths, false, true),
            "phone=[redacted]&[redacted]&Legs[0][id]=[redacted]&a=[redacted]"
        );
        assert_eq!(pairs("a&b=1", &[], true, false), "a=&b=1");
    }
}
