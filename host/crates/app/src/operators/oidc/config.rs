//! What is configured of single sign-on, and what a person's groups give.

use patchbay_api::oidc::OidcCallback;
use patchbay_api::operation::Endpoint;
use patchbay_model::operator::OperatorRole;
use zeroize::Zeroizing;

#[derive(Clone)]
pub struct OidcConfig {
    /// As the provider writes it, to the last slash.
    pub issuer: String,
    pub client_id: String,
    /// Absent: a public client, which PKCE alone protects.
    pub client_secret: Option<Zeroizing<String>>,
    /// Besides `openid`.
    pub scopes: Vec<String>,
    /// The claim of the ID token that holds the groups.
    pub groups_claim: String,
    /// Groups with the role that they give.
    pub roles: Vec<(String, OperatorRole)>,
    /// Groups that may see data of jobs.
    pub data_groups: Vec<String>,
    /// Methods of which the provider must name one (`amr`); empty: this host asks for its own second
    /// factor.
    pub require_amr: Vec<String>,
    /// What people know the provider as.
    pub label: String,
    /// `http.public_url`.
    pub public_url: String,
}

/// What groups give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) role: OperatorRole,
    pub(super) may_see_data: bool,
}

/// What a provider announces; `None`: nothing about it.
pub(super) struct Offers {
    pub(super) scopes: Option<Vec<String>>,
    pub(super) claims: Option<Vec<String>>,
    /// Methods of PKCE.
    pub(super) pkce: Option<Vec<String>>,
}

impl OidcConfig {
    /// Where the provider sends browsers back to. Nothing of a request is in it.
    pub fn redirect_uri(&self) -> String {
        format!("{}{}", self.public_url, OidcCallback::OPERATION.path)
    }

    /// The highest role that these groups give. `None`: none of them has one.
    pub(super) fn rights(&self, groups: &[String]) -> Option<Rights> {
        let has = |group: &String| groups.contains(group);
        let given = self.roles.iter().filter(|(group, _)| has(group));
        Some(Rights {
            role: given.map(|(_, role)| *role).max()?,
            may_see_data: self.data_groups.iter().any(has),
        })
    }

    /// What of the configuration does not fit the provider.
    pub(super) fn problems(&self, offers: &Offers, keys: usize) -> Vec<String> {
        let lacks = |offered: &Option<Vec<String>>, name: &str| {
            let offered = offered.as_ref();
            offered.is_some_and(|names| !names.iter().any(|known| known == name))
        };
        let mut problems = Vec::new();
        if keys == 0 {
            problems
                .push("The provider publishes no key, so no ID token can be verified".to_owned());
        }
        for scope in self
            .scopes
            .iter()
            .filter(|scope| lacks(&offers.scopes, scope))
        {
            problems.push(format!(
                "The provider does not announce the scope {scope} (operators.oidc.scopes)"
            ));
        }
        if lacks(&offers.claims, &self.groups_claim) {
            problems.push(format!(
                "The provider does not announce the claim {} (operators.oidc.groups_claim). Some do not announce all that they send: sign in once; a \
                 refusal names the groups that came",
                self.groups_claim
            ));
        }
        if !self.require_amr.is_empty() && lacks(&offers.claims, "amr") {
            problems.push(
                "The provider does not announce the claim amr, which operators.oidc.require_amr needs"
                    .to_owned(),
            );
        }
        if lacks(&offers.pkce, "S256") {
            problems.push("The provider does not announce PKCE with S256".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_role_of_all_groups_counts() {
        let config = OidcConfig {
            issuer: "https://id.example".to_owned(),
            client_id: "patchbay".to_owned(),
            client_secret: None,
            scopes: Vec::new(),
            groups_claim: "groups".to_owned(),
            roles: vec![
                ("staff".to_owned(), OperatorRole::Viewer),
                ("admins".to_owned(), OperatorRole::Owner),
                ("on-call".to_owned(), OperatorRole::Operator),
            ],
            data_groups: vec!["support".to_owned()],
            require_amr: Vec::new(),
            label: "Example".to_owned(),
            public_url: "https://ops.example".to_owned(),
        };
        let of = |groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
            let rights = config.rights(&groups)?;
            Some((rights.role, rights.may_see_data))
        };
        assert_eq!(
            of(&["staff", "on-call"]),
            Some((OperatorRole::Operator, false))
        );
        assert_eq!(of(&["admins", "staff"]), Some((OperatorRole::Owner, false)));
        assert_eq!(
            of(&["support", "staff"]),
            Some((OperatorRole::Viewer, true))
        );
        // Data alone is no role, and names are compared as they are.
        assert_eq!(of(&["support"]), None);
        assert_eq!(of(&["Admins", "other"]), None);
        assert_eq!(of(&[]), None);
        let expected = "https://ops.example/api/admin/oidc/callback";
        assert_eq!(config.redirect_uri(), expected);
    }
}
