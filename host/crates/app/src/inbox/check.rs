//! The host's own check of a request: a token or an HMAC, compared in constant time, before the
//! plugin sees it. The value of a token never reaches the plugin.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use patchbay_capability::{HashKind, SecretSource};
use patchbay_model::PluginName;
use patchbay_model::grant::{Ask, Granted};
use patchbay_model::manifest::{
    HmacCheck, HmacEncoding, HmacHash, TokenCheck, TokenPlace, WebhookCheck,
};
use patchbay_model::webhook::WebhookRequest;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Checked {
    /// Also where there is no check.
    Passed,
    /// `missing-token`, `bad-token`, `missing-signature`, `malformed-signature` or `bad-signature`.
    Refused(&'static str),
    /// The secret has no value, or is not granted: that is not a "no".
    NoSecret(String),
}

/// Checks the request by every valid version of the secret.
pub(super) fn check(
    check: Option<&WebhookCheck>,
    plugin: &PluginName,
    secrets: &dyn SecretSource,
    granted: &Granted,
    request: &WebhookRequest,
) -> Checked {
    let Some(check) = check else {
        return Checked::Passed;
    };
    let name = check.secret();
    if !granted.contains(&Ask::secret(name)) {
        return Checked::NoSecret(format!("The secret {name} is not granted to {plugin}"));
    }
    let versions = secrets.current(plugin, name);
    if versions.is_empty() {
        return Checked::NoSecret(format!(
            "The secret {name} of {plugin} has no value. Set it: patchbay secret set {plugin} {name}"
        ));
    }
    match check {
        WebhookCheck::Token(token) => {
            let Some(given) = token_of(token, request) else {
                return Checked::Refused("missing-token");
            };
            let signed = match &token.signs {
                None => None,
                Some(name) => match parameter(&request.query, name) {
                    None => return Checked::Refused("missing-token"),
                    signed => signed,
                },
            };
            let mac = || hex::decode(&given).unwrap_or_default();
            // All are compared, so that the time does not show which one matches.
            let fits = versions.iter().fold(false, |fits, version| {
                fits | match &signed {
                    None => version.matches(&given),
                    Some(signed) => version.verify(HashKind::Sha256, signed, &mac()),
                }
            });
            if fits {
                Checked::Passed
            } else {
                Checked::Refused("bad-token")
            }
        }
        WebhookCheck::Hmac(hmac) => {
            let Some(given) = header(request, &hmac.header) else {
                return Checked::Refused("missing-signature");
            };
            let Some(mac) = mac_of(hmac, given) else {
                return Checked::Refused("malformed-signature");
            };
            let hash = match hmac.hash {
                HmacHash::Sha1 => HashKind::Sha1,
                HmacHash::Sha256 => HashKind::Sha256,
                HmacHash::Sha512 => HashKind::Sha512,
            };
            let fits = versions.iter().fold(false, |fits, version| {
                fits | version.verify(hash, &request.body, &mac)
            });
            if fits {
                Checked::Passed
            } else {
                Checked::Refused("bad-signature")
            }
        }
    }
}

/// What a code of the check means, for operators.
pub(super) fn meaning(code: &str) -> &'static str {
    match code {
        "missing-token" => {
            "The request has no token or more than one, or lacks the parameter that its token signs"
        }
        "bad-token" => "The token is none that the secret allows",
        "missing-signature" => "The request has no signature, or more than one",
        "malformed-signature" => {
            "The signature does not begin with the prefix that the manifest declares, or is not in its encoding"
        }
        _ => "The signature was not made with the secret, or not over this body",
    }
}

/// How requests are checked, for operators: where the proof stands, how it is made, and by which secret.
pub(super) fn described(check: &WebhookCheck) -> String {
    match check {
        WebhookCheck::Token(token) => {
            let place = match token.place {
                TokenPlace::Header => "header",
                TokenPlace::Query => "parameter",
            };
            let signs = token.signs.as_ref();
            let signs = signs.map(|name| format!(", the HMAC-SHA-256 of the parameter {name}"));
            let (name, secret) = (&token.name, &token.secret);
            format!(
                "token in the {place} {name}{}, by the secret {secret}",
                signs.unwrap_or_default()
            )
        }
        WebhookCheck::Hmac(hmac) => {
            let hash = match hmac.hash {
                HmacHash::Sha1 => "SHA-1",
                HmacHash::Sha256 => "SHA-256",
                HmacHash::Sha512 => "SHA-512",
            };
            let encoding = match hmac.encoding {
                HmacEncoding::Hex => "hex",
                HmacEncoding::Base64 => "base64",
            };
            let prefix = match hmac.prefix.as_str() {
                "" => String::new(),
                prefix => format!(" after {prefix:?}"),
            };
            let (header, secret) = (&hmac.header, &hmac.secret);
            format!(
                "HMAC-{hash} of the body in {encoding}{prefix}, in the header {header}, by the secret {secret}"
            )
        }
    }
}

/// The request without the value of its token.
pub(super) fn stripped(check: Option<&WebhookCheck>, request: &WebhookRequest) -> WebhookRequest {
    let mut request = request.clone();
    if let Some(WebhookCheck::Token(TokenCheck { place, name, .. })) = check {
        match place {
            TokenPlace::Header => request
                .headers
                .retain(|(known, _)| !known.eq_ignore_ascii_case(name)),
            TokenPlace::Query => request.query = without(&request.query, name),
        }
    }
    request
}

/// A query without a parameter, the rest as it was sent.
fn without(query: &str, name: &str) -> String {
    let others = query.split('&').filter(|pair| {
        let known = pair.split('=').next().unwrap_or_default();
        decoded(known) != name.as_bytes()
    });
    others.collect::<Vec<_>>().join("&")
}

/// A parameter that stands twice is not taken: two readers may see two values.
fn token_of(token: &TokenCheck, request: &WebhookRequest) -> Option<Vec<u8>> {
    match token.place {
        TokenPlace::Header => header(request, &token.name).map(<[u8]>::to_vec),
        TokenPlace::Query => parameter(&request.query, &token.name),
    }
}

fn parameter(query: &str, name: &str) -> Option<Vec<u8>> {
    let mut found = query.split('&').filter_map(|pair| {
        // To other readers, a name alone has an empty value.
        let (known, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(known) == name.as_bytes()).then(|| decoded(value))
    });
    found.next().filter(|_| found.next().is_none())
}

/// A header that stands twice is not taken, likewise.
fn header<'a>(request: &'a WebhookRequest, name: &str) -> Option<&'a [u8]> {
    let mut found = request
        .headers
        .iter()
        .filter(|(known, _)| known.eq_ignore_ascii_case(name));
    let (_, value) = found.next()?;
    found.next().is_none().then_some(value.as_slice())
}

fn mac_of(hmac: &HmacCheck, given: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(given).ok()?.trim();
    let text = text.strip_prefix(&hmac.prefix)?;
    match hmac.encoding {
        HmacEncoding::Hex => hex::decode(text).ok(),
        HmacEncoding::Base64 => STANDARD.decode(text).ok(),
    }
}

/// Percent-decoding, with `+` as a space; a broken escape stands for itself.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = bytes
            .get(at + 1..at + 3)
            .filter(|_| byte == b'%')
            .and_then(|digits| hex::decode(digits).ok()?.first().copied());
        out.push(match (escaped, byte) {
            (Some(value), _) => value,
            (None, b'+') => b' ',
            (None, other) => other,
        });
        at += if escaped.is_some() { 3 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hmac::{Hmac, KeyInit, Mac};
    use patchbay_capability::SecretValue;
    use sha2::Sha256;

    use super::*;

    struct Secrets(Vec<&'static str>);

    impl SecretSource for Secrets {
        fn current(&self, _: &PluginName, _: &str) -> Vec<SecretValue> {
            self.0
                .iter()
                .map(|text| SecretValue::new((*text).into()))
                .collect()
        }
    }

    fn request(query: &str, headers: &[(&str, &str)], body: &str) -> WebhookRequest {
        WebhookRequest {
            name: "w".into(),
            method: "POST".into(),
            path: "/api/w".into(),
            query: query.into(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).into(), value.as_bytes().to_vec()))
                .collect(),
            body: body.into(),
            ip: "127.0.0.1".into(),
            received_at_ms: 1,
        }
    }

    fn token(place: TokenPlace) -> WebhookCheck {
        WebhookCheck::Token(TokenCheck {
            place,
            name: "token".into(),
            secret: "T".into(),
            signs: None,
        })
    }

    fn run(with: &WebhookCheck, secrets: &[&'static str], request: &WebhookRequest) -> Checked {
        let granted: Granted = Arc::new([Ask::secret("T")].into_iter().collect());
        let plugin: PluginName = "vendor".parse().expect("a name");
        check(
            Some(with),
            &plugin,
            &Secrets(secrets.to_vec()),
            &granted,
            request,
        )
    }

    #[test]
    fn a_token_passes_by_any_valid_version_and_never_reaches_the_plugin() {
        let query = token(TokenPlace::Query);
        let sent = request("a=1&tok%65n=s%2Be+cret&b=2", &[], "");
        assert_eq!(run(&query, &["new", "s+e cret"], &sent), Checked::Passed);
        assert_eq!(stripped(Some(&query), &sent).query, "a=1&b=2");
        assert_eq!(run(&query, &["new"], &sent), Checked::Refused("bad-token"));
        // To other readers, a name alone has an empty value.
        let nameless = request("token", &[], "");
        assert_eq!(
            run(&query, &["a"], &nameless),
            Checked::Refused("bad-token")
        );
        for missing in ["", "a=1", "token=a&token=a", "token=a&token"] {
            assert_eq!(
                run(&query, &["a"], &request(missing, &[], "")),
                Checked::Refused("missing-token"),
                "{missing}"
            );
        }
        assert!(matches!(run(&query, &[], &sent), Checked::NoSecret(_)));
        let header = token(TokenPlace::Header);
        let sent = request("", &[("Token", "abc"), ("other", "x")], "");
        assert_eq!(run(&header, &["abc"], &sent), Checked::Passed);
        assert_eq!(
            stripped(Some(&header), &sent).headers,
            [("other".to_owned(), b"x".to_vec())]
        );
        let twice = request("", &[("token", "abc"), ("token", "abc")], "");
        assert_eq!(
            run(&header, &["abc"], &twice),
            Checked::Refused("missing-token")
        );
    }

    #[test]
    fn a_token_that_signs_a_parameter_is_worth_that_value_only() {
        let signing = WebhookCheck::Token(TokenCheck {
            place: TokenPlace::Query,
            name: "token".into(),
            secret: "T".into(),
            signs: Some("about".into()),
        });
        let mut mac = Hmac::<Sha256>::new_from_slice(b"key").expect("a key");
        mac.update(b"call 7");
        let token = hex::encode(mac.finalize().into_bytes());
        let asked = |query: &str| run(&signing, &["new", "key"], &request(query, &[], ""));
        let good = format!("about=call+7&token={token}");
        assert_eq!(asked(&good), Checked::Passed);
        assert_eq!(
            stripped(Some(&signing), &request(&good, &[], "")).query,
            "about=call+7"
        );
        for (query, code) in [
            (format!("about=call+8&token={token}"), "bad-token"),
            ("about=call+7&token=key".into(), "bad-token"),
            ("about=call+7&token=".into(), "bad-token"),
            (format!("token={token}"), "missing-token"),
            (
                format!("about=call+7&about=call+7&token={token}"),
                "missing-token",
            ),
            ("about=call+7".into(), "missing-token"),
        ] {
            assert_eq!(asked(&query), Checked::Refused(code), "{query}");
        }
    }

    #[test]
    fn a_signature_is_over_the_raw_body_with_its_prefix_and_encoding() {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"key").expect("a key");
        mac.update(b"body");
        let mac = mac.finalize().into_bytes();
        let with = |prefix: &str, encoding| {
            WebhookCheck::Hmac(HmacCheck {
                header: "x-signature".into(),
                prefix: prefix.into(),
                hash: HmacHash::Sha256,
                encoding,
                secret: "T".into(),
            })
        };
        let (hexed, based) = (hex::encode(mac), STANDARD.encode(mac));
        let sent = |value: &str, body: &str| request("", &[("X-Signature", value)], body);
        let prefixed = with("sha256=", HmacEncoding::Hex);
        assert_eq!(
            run(
                &prefixed,
                &["old", "key"],
                &sent(&format!("sha256={hexed}"), "body")
            ),
            Checked::Passed
        );
        assert_eq!(
            run(
                &with("", HmacEncoding::Base64),
                &["key"],
                &sent(&based, "body")
            ),
            Checked::Passed
        );
        for (value, body, code) in [
            (hexed.as_str(), "body", "malformed-signature"),
            ("sha256=00", "body", "bad-signature"),
            ("sha256=zz", "body", "malformed-signature"),
            (&format!("sha256={hexed}"), "body2", "bad-signature"),
        ] {
            assert_eq!(
                run(&prefixed, &["key"], &sent(value, body)),
                Checked::Refused(code),
                "{value}"
            );
        }
        assert_eq!(
            run(&prefixed, &["key"], &request("", &[], "body")),
            Checked::Refused("missing-signature")
        );
    }
}
