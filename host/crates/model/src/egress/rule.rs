//! A manifest's entry for outbound requests, and the checks that refuse it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::credential::{CredentialPlaces, check_header_name};
use super::pattern::UrlPattern;
use super::target::Target;
use crate::breaker::BreakerSpec;

/// Methods that make a server tunnel or echo the request.
const FORBIDDEN_METHODS: &[&str] = &["CONNECT", "TRACE", "TRACK"];
/// Methods whose requests have no body to put a form field into.
const WITHOUT_BODY: &[&str] = &["GET", "HEAD", "DELETE", "OPTIONS"];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressRule {
    /// See [`UrlPattern`].
    pub url: String,
    /// Upper case. At least one.
    pub methods: Vec<String>,
    /// Credentials that the host fills in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<EgressAuth>,
    /// Default 10 s. The host call may set a shorter limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Counted after decompression; default 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_response_bytes: Option<u64>,
    /// Longest response that a route relays to its client; default `max_response_bytes`. The host
    /// holds only a small part of it at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_relay_bytes: Option<u64>,
    /// Exceptions for addresses that are normally blocked: IPs or CIDR networks, for a service on
    /// the same network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_addresses: Vec<String>,
    /// When calls to the rule's host are refused for a while. All rules for one host share a
    /// breaker, so only one of them sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerSpec>,
}

/// Credentials that the host fills in, by the names of their secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum EgressAuth {
    /// `Authorization: Basic`.
    Basic {
        /// Secret with the user name.
        username: String,
        /// Secret with the password.
        password: String,
    },
    /// `Authorization: Bearer`.
    Bearer {
        /// Secret with the token.
        token: String,
    },
    /// A custom header.
    Header {
        name: String,
        /// Secret with the value.
        value: String,
    },
    Query {
        name: String,
        /// Secret with the value.
        value: String,
    },
    /// A field of an `application/x-www-form-urlencoded` body.
    Form {
        name: String,
        /// Secret with the value.
        value: String,
    },
    /// `Authorization: Bearer` with a token that the host fetches by the client credentials grant
    /// (RFC 6749, 4.4).
    OAuth2 {
        /// Where tokens are issued. It needs no rule of its own.
        token_url: String,
        /// Secret with the client's id.
        client_id: String,
        /// Secret with the client's secret.
        client_secret: String,
        /// Scopes, separated by spaces.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<String>,
    },
    /// A credential that the plugin has handed over at run time; each call names which one.
    Credential(CredentialPlaces),
}

impl EgressAuth {
    /// Names of the secrets that it uses.
    pub fn secrets(&self) -> Vec<&str> {
        match self {
            Self::Basic { username, password } => vec![username, password],
            Self::Bearer { token } => vec![token],
            Self::Header { value, .. } | Self::Query { value, .. } | Self::Form { value, .. } => {
                vec![value]
            }
            Self::OAuth2 {
                client_id,
                client_secret,
                ..
            } => vec![client_id, client_secret],
            Self::Credential(_) => Vec::new(),
        }
    }
}

/// Upper limit of `max_response_bytes`: the host holds the whole response, and so must the guest.
const MAX_RESPONSE_BYTES: u64 = 64 << 20;

/// Upper limit of `max_relay_bytes`.
const MAX_RELAY_BYTES: u64 = 2 << 30;

/// The key that is wrong, and why.
type Problem = (String, String);

/// The breaker of every host that the rules name, by `scheme://host:port`.
pub fn breakers(rules: &[EgressRule]) -> BTreeMap<String, BreakerSpec> {
    let mut breakers: BTreeMap<String, BreakerSpec> = BTreeMap::new();
    for rule in rules {
        let Ok(pattern) = UrlPattern::parse(&rule.url) else {
            continue;
        };
        let spec = breakers.entry(pattern.origin()).or_default();
        *spec = rule.breaker.unwrap_or(*spec);
    }
    breakers
}

/// Checks all rules of a manifest; `secrets` are the names of those that it asks for.
pub(crate) fn check(rules: &[EgressRule], secrets: &BTreeSet<&str>) -> Result<(), Problem> {
    let mut seen: Vec<UrlPattern> = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let key = format!("egress[{i}]");
        let pattern =
            UrlPattern::parse(&rule.url).map_err(|e| (format!("{key}.url"), e.to_string()))?;
        check_methods(rule).map_err(|reason| (format!("{key}.methods"), reason))?;
        if rule
            .max_response_bytes
            .is_some_and(|bytes| bytes > MAX_RESPONSE_BYTES)
        {
            let reason = format!(
                "must be at most {MAX_RESPONSE_BYTES} bytes: the host keeps the whole body in memory"
            );
            return Err((format!("{key}.max_response_bytes"), reason));
        }
        if rule
            .max_relay_bytes
            .is_some_and(|bytes| bytes > MAX_RELAY_BYTES)
        {
            let reason = format!("must be at most {MAX_RELAY_BYTES} bytes");
            return Err((format!("{key}.max_relay_bytes"), reason));
        }
        let tie = seen.iter().zip(rules).position(|(other, rule_of_other)| {
            other.ties_with(&pattern)
                && rule
                    .methods
                    .iter()
                    .any(|method| rule_of_other.methods.contains(method))
        });
        if let Some(other) = tie {
            let reason = format!(
                "covers the same requests as egress[{other}], and neither is more specific"
            );
            return Err((format!("{key}.url"), reason));
        }
        if let Some(spec) = &rule.breaker {
            spec.check()
                .map_err(|(field, reason)| (format!("{key}.breaker.{field}"), reason))?;
            let other = seen.iter().zip(rules).position(|(other, rule_of_other)| {
                other.origin() == pattern.origin()
                    && rule_of_other
                        .breaker
                        .is_some_and(|of_other| of_other != *spec)
            });
            if let Some(other) = other {
                let reason = format!(
                    "differs from that of egress[{other}]: all rules for one host share a breaker"
                );
                return Err((format!("{key}.breaker"), reason));
            }
        }
        seen.push(pattern);
        for text in &rule.allow_addresses {
            network(text).ok_or_else(|| {
                (
                    format!("{key}.allow_addresses"),
                    format!("{text:?} is neither an IP address nor a network"),
                )
            })?;
        }
        if let Some(auth) = &rule.auth {
            check_auth(auth, rule, secrets).map_err(|reason| (format!("{key}.auth"), reason))?;
        }
    }
    Ok(())
}

fn check_methods(rule: &EgressRule) -> Result<(), String> {
    if rule.methods.is_empty() {
        return Err("name at least one method".into());
    }
    for method in &rule.methods {
        if method.is_empty() || !method.chars().all(|c| c.is_ascii_uppercase()) {
            return Err("must be in upper case, such as \"GET\"".into());
        }
        if FORBIDDEN_METHODS.contains(&method.as_str()) {
            return Err(format!("{method} is not supported"));
        }
    }
    Ok(())
}

fn check_auth(
    auth: &EgressAuth,
    rule: &EgressRule,
    secrets: &BTreeSet<&str>,
) -> Result<(), String> {
    if let Some(secret) = auth
        .secrets()
        .into_iter()
        .find(|secret| !secrets.contains(secret))
    {
        return Err(format!("{secret} is not in [[secrets]]"));
    }
    match auth {
        EgressAuth::Basic { .. } | EgressAuth::Bearer { .. } => Ok(()),
        EgressAuth::Header { name, .. } => check_header_name(name),
        EgressAuth::Query { name, .. } if name.is_empty() => {
            Err("the name of the query parameter must not be empty".into())
        }
        EgressAuth::Query { .. } => Ok(()),
        EgressAuth::Form { name, .. } if name.is_empty() => {
            Err("the name of the form field must not be empty".into())
        }
        EgressAuth::Form { .. } => check_has_body(rule),
        EgressAuth::OAuth2 { token_url, .. } => check_token_url(token_url, rule),
        EgressAuth::Credential(places) => {
            places.check()?;
            match places.form.is_empty() {
                true => Ok(()),
                false => check_has_body(rule),
            }
        }
    }
}

fn check_has_body(rule: &EgressRule) -> Result<(), String> {
    let without = |method: &&String| WITHOUT_BODY.contains(&method.as_str());
    match rule.methods.iter().find(without) {
        Some(method) => Err(format!(
            "a form field cannot be put into {method}, which has no body"
        )),
        None => Ok(()),
    }
}

/// The client's secret is sent to this URL: unencrypted only to an address that the rule allows.
fn check_token_url(text: &str, rule: &EgressRule) -> Result<(), String> {
    let target = Target::parse(text).map_err(|error| format!("token_url: {error}"))?;
    let address = match target.url().host() {
        Some(url::Host::Ipv4(address)) => Some(IpAddr::from(address)),
        Some(url::Host::Ipv6(address)) => Some(IpAddr::from(address)),
        _ => None,
    };
    let opened = |address: IpAddr| {
        rule.allow_addresses
            .iter()
            .filter_map(|text| network(text))
            .any(|net| net.contains(&address))
    };
    if target.url().scheme() == "https" || address.is_some_and(opened) {
        return Ok(());
    }
    Err("token_url: must be https, except at an address that allow_addresses names".into())
}

fn network(text: &str) -> Option<IpNet> {
    IpNet::from_str(text)
        .ok()
        .or_else(|| IpAddr::from_str(text).ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(url: &str, methods: &[&str], auth: Option<EgressAuth>) -> EgressRule {
        EgressRule {
            url: url.into(),
            methods: methods.iter().map(|&method| method.into()).collect(),
            auth,
            timeout_ms: None,
            max_response_bytes: None,
            max_relay_bytes: None,
            allow_addresses: Vec::new(),
            breaker: None,
        }
    }

    fn checked(rules: &[EgressRule]) -> Result<(), String> {
        check(rules, &BTreeSet::from(["ID", "SECRET"]))
            .map_err(|(key, reason)| format!("{key}: {reason}"))
    }

    fn oauth2(token_url: &str) -> EgressAuth {
        EgressAuth::OAuth2 {
            token_url: token_url.into(),
            client_id: "ID".into(),
            client_secret: "SECRET".into(),
            scope: None,
        }
    }

    #[test]
    fn rules_that_tie_are_refused_and_both_are_named() {
        let any = || rule("https://a.example/v1/**", &["GET", "POST"], None);
        let calls = |method| rule("https://a.example/v1/*/calls", &[method], None);
        let refused = checked(&[any(), calls("POST")]).expect_err("a tie");
        assert!(
            refused.contains("egress[1].url") && refused.contains("egress[0]"),
            "{refused}"
        );
        assert_eq!(
            checked(&[any(), calls("PUT")]),
            Ok(()),
            "no method in common"
        );
        assert_eq!(
            checked(&[any(), rule("https://a.example/v1/x/**", &["GET"], None)]),
            Ok(())
        );
    }

    #[test]
    fn methods_that_mirror_or_tunnel_and_broken_addresses_are_refused() {
        for method in ["TRACE", "CONNECT", "get", ""] {
            assert!(
                checked(&[rule("https://a.example/**", &[method], None)]).is_err(),
                "{method}"
            );
        }
        let odd = EgressRule {
            allow_addresses: vec!["10.0.0.0/40".into()],
            ..rule("https://a.example/**", &["GET"], None)
        };
        assert!(
            checked(&[odd])
                .expect_err("no network")
                .contains("egress[0].allow_addresses")
        );
    }

    #[test]
    fn a_response_may_not_be_larger_than_the_host_will_hold() {
        let of = |max_response_bytes| EgressRule {
            max_response_bytes,
            ..rule("https://a.example/**", &["GET"], None)
        };
        assert_eq!(checked(&[of(Some(64 << 20))]), Ok(()));
        assert!(
            checked(&[of(Some(1 << 40))])
                .expect_err("1 TiB")
                .contains("egress[0].max_response_bytes")
        );
    }

    #[test]
    fn a_form_field_needs_a_body_and_a_secret_that_was_asked_for() {
        let form = |value: &str| {
            Some(EgressAuth::Form {
                name: "key".into(),
                value: value.into(),
            })
        };
        assert_eq!(
            checked(&[rule("https://a.example/**", &["POST"], form("SECRET"))]),
            Ok(())
        );
        let refused = checked(&[rule(
            "https://a.example/**",
            &["POST", "GET"],
            form("SECRET"),
        )]);
        assert!(refused.expect_err("GET has no body").contains("GET"));
        let refused = checked(&[rule("https://a.example/**", &["POST"], form("OTHER"))]);
        assert!(
            refused
                .expect_err("not asked for")
                .contains("OTHER is not in [[secrets]]")
        );
    }

    #[test]
    fn a_token_url_is_https_or_at_an_address_that_the_rule_opens() {
        let with = |token_url: &str, allowed: &[&str]| {
            let rule = rule("https://a.example/**", &["GET"], Some(oauth2(token_url)));
            checked(&[EgressRule {
                allow_addresses: allowed.iter().map(|&a| a.into()).collect(),
                ..rule
            }])
        };
        assert_eq!(with("https://login.example/token", &[]), Ok(()));
        assert_eq!(
            with("http://127.0.0.1:8080/token", &["127.0.0.0/8"]),
            Ok(())
        );
        for (url, allowed) in [
            ("http://login.example/token", &["127.0.0.0/8"][..]),
            ("http://127.0.0.1/token", &[]),
            ("http://10.0.0.1/token", &["127.0.0.1"]),
            ("https://user:pw@login.example/token", &[]),
            ("login.example/token", &[]),
        ] {
            assert!(
                with(url, allowed).expect_err(url).contains("token_url"),
                "{url}"
            );
        }
    }

    #[test]
    fn rules_for_one_host_share_a_breaker_within_bounds() {
        let with = |path: &str, failures, open_ms| EgressRule {
            breaker: Some(BreakerSpec {
                failures,
                within_ms: None,
                open_ms,
            }),
            ..rule(&format!("https://a.example/{path}"), &["GET"], None)
        };
        let plain = rule("https://a.example/plain/**", &["GET"], None);
        let other = rule("https://b.example/**", &["GET"], None);
        let rules = [plain, with("x/**", Some(3), Some(2_000)), other];
        assert_eq!(checked(&rules), Ok(()));
        let limits: Vec<_> = breakers(&rules)
            .into_iter()
            .map(|(host, spec)| (host, spec.limits()))
            .collect();
        assert_eq!(
            (limits[0].0.as_str(), limits[0].1.failures),
            ("https://a.example:443", 3)
        );
        assert_eq!(
            (limits[0].1.within.as_secs(), limits[0].1.open.as_secs()),
            (30, 2)
        );
        assert_eq!(
            (limits[1].0.as_str(), limits[1].1.failures),
            ("https://b.example:443", 5)
        );
        let refused = checked(&[with("x/**", Some(3), None), with("y/**", Some(4), None)])
            .expect_err("they differ");
        assert!(
            refused.contains("egress[1].breaker") && refused.contains("egress[0]"),
            "{refused}"
        );
        for (rule, key) in [
            (with("x/**", Some(0), None), "egress[0].breaker.failures"),
            (
                with("x/**", Some(1_001), None),
                "egress[0].breaker.failures",
            ),
            (with("x/**", None, Some(499)), "egress[0].breaker.open_ms"),
            (
                with("x/**", None, Some(600_001)),
                "egress[0].breaker.open_ms",
            ),
        ] {
            assert!(checked(&[rule]).expect_err(key).contains(key), "{key}");
        }
    }

    #[test]
    fn the_kinds_of_auth_are_written_as_documented() {
        let parse = |text: &str| serde_json::from_str::<EgressAuth>(text);
        assert_eq!(
            parse(r#"{"oauth2":{"token_url":"https://a.example/t","client_id":"ID","client_secret":"SECRET"}}"#)
                .expect("valid"),
            oauth2("https://a.example/t")
        );
        assert!(parse(r#"{"form":{"name":"key","value":"SECRET"}}"#).is_ok());
        assert!(
            parse(r#"{"oauth2":{"token_url":"https://a.example/t","client_id":"ID"}}"#).is_err()
        );
        assert!(parse(r#"{"form":{"name":"key","value":"SECRET","extra":1}}"#).is_err());
    }
}
