//! `[operators.oidc]`: single sign-on of operators.

use patchbay_app::operators::OperatorRole;
use patchbay_app::operators::oidc::{OidcConfig, is_protected};
use patchbay_app::vault::readable_by_others;
use url::Url;
use zeroize::Zeroizing;

use super::http::Http;
use super::key::{key, section};
use super::kind::{Form, Kind, items, list, scalar, text};

section! {
    /// Single sign-on.
    pub struct Oidc {
        /// Address of the OpenID Connect provider by which operators sign in, exactly as it writes it;
        /// unset: no single sign-on
        issuer: Option<String> = key("operators.oidc.issuer", issuer());
        /// What the provider knows this installation as
        client_id: Option<String> = key("operators.oidc.client_id", text());
        /// The secret that the provider has given it; unset: a public client, protected by PKCE
        client_secret: Option<Zeroizing<String>> = key("operators.oidc.client_secret", secret()).secret();
        /// File with that secret instead, for its owner only
        client_secret_file: Option<Zeroizing<String>> = key("operators.oidc.client_secret_file", secret_file());
        /// Scopes that are asked for besides openid
        scopes: Vec<String> = key("operators.oidc.scopes", list()).default("profile,email");
        /// Claim of the ID token with the groups of a person
        groups_claim: String = key("operators.oidc.groups_claim", text()).default("groups");
        /// What groups give, each as group:role, with viewer, operator or owner; the highest counts
        roles: Vec<(String, OperatorRole)> = key("operators.oidc.roles", roles()).or_empty();
        /// Groups whose operators may see data, results and logs of jobs
        payload_groups: Vec<String> = key("operators.oidc.payload_groups", list()).or_empty();
        /// Methods of which the provider must report one (claim amr), such as mfa; unset: this host
        /// asks for its own second factor (operators.require_totp)
        require_amr: Vec<String> = key("operators.oidc.require_amr", list()).or_empty();
        /// What people know the provider as
        label: String = key("operators.oidc.label", text()).default("single sign-on");
    }
}

fn issuer() -> Kind<String> {
    scalar(
        "must be an https:// URL without query (http:// only on this machine)",
        |text| {
            let url: Url = text.parse().ok()?;
            let is_plain = url.query().is_none() && url.fragment().is_none();
            (is_protected(&url) && is_plain && url.username().is_empty()).then(|| text.to_owned())
        },
    )
}

fn secret() -> Kind<Zeroizing<String>> {
    scalar("must be a text", |text| Some(text.to_owned().into()))
}

fn secret_file() -> Kind<Zeroizing<String>> {
    Kind::new(Form::Scalar, |given| {
        let problem = |what: String| {
            Err(format!(
                "{} (from {}): {} {what}",
                given.key, given.source, given.text
            ))
        };
        let path = std::path::Path::new(&given.text);
        let read = match std::fs::read_to_string(path) {
            Ok(read) => Zeroizing::new(read),
            Err(error) => return problem(format!("cannot be read: {error}")),
        };
        if readable_by_others(path) {
            return problem(
                "can be read by others than its owner; chmod 600 corrects that".to_owned(),
            );
        }
        match read.trim() {
            "" => problem("is empty".to_owned()),
            secret => Ok(secret.to_owned().into()),
        }
    })
}

/// Groups may hold colons.
fn roles() -> Kind<Vec<(String, OperatorRole)>> {
    Kind::new(Form::Array, |given| {
        let read = |item: &str| {
            let (group, role) = item.rsplit_once(':')?;
            let role = OperatorRole::parse(role.trim())?;
            (!group.trim().is_empty()).then(|| (group.trim().to_owned(), role))
        };
        let read: Option<_> = items(&given.text).map(read).collect();
        read.ok_or_else(|| {
            given.problem("each item must be group:role, with the role viewer, operator or owner")
        })
    })
}

impl Oidc {
    /// Nothing where single sign-on is off.
    pub fn sso(&self, http: &Http) -> Option<OidcConfig> {
        let secret = self.client_secret.clone();
        Some(OidcConfig {
            issuer: self.issuer.clone()?,
            client_id: self.client_id.clone()?,
            client_secret: secret.or_else(|| self.client_secret_file.clone()),
            scopes: self.scopes.clone(),
            groups_claim: self.groups_claim.clone(),
            roles: self.roles.clone(),
            data_groups: self.payload_groups.clone(),
            require_amr: self.require_amr.clone(),
            label: self.label.clone(),
            public_url: http.public_url.clone()?,
        })
    }
}
