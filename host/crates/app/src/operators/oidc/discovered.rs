//! What the provider says of itself (OpenID Connect Discovery 1.0), and what of it is believed.

use std::time::Instant;

use openidconnect::core::{
    CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreGrantType,
    CoreJsonWebKey, CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm,
    CoreJwsSigningAlgorithm, CoreResponseMode, CoreResponseType, CoreSubjectIdentifierType,
};
use openidconnect::{AdditionalProviderMetadata, ProviderMetadata};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::config::Offers;

/// What newer standards add to the discovery document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct More {
    /// OpenID Connect RP-Initiated Logout 1.0.
    #[serde(default)]
    end_session_endpoint: Option<String>,
    /// RFC 9207.
    #[serde(default)]
    authorization_response_iss_parameter_supported: Option<bool>,
    /// RFC 8414.
    #[serde(default)]
    code_challenge_methods_supported: Option<Vec<String>>,
}

impl AdditionalProviderMetadata for More {}

pub(super) type Metadata = ProviderMetadata<
    More,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

/// What the provider says of itself, as it was read.
pub(super) struct Discovered {
    pub(super) metadata: Metadata,
    /// Algorithms of ID tokens that it announces and this host believes: none with a shared secret.
    pub(super) algorithms: Vec<CoreJwsSigningAlgorithm>,
    pub(super) read_at: Instant,
}

impl Discovered {
    fn more(&self) -> &More {
        self.metadata.additional_metadata()
    }

    pub(super) fn facts(&self) -> DiscoveredFacts {
        let metadata = &self.metadata;
        let algorithms = self.algorithms.iter().filter_map(text_of);
        DiscoveredFacts {
            authorization_endpoint: metadata.authorization_endpoint().to_string(),
            keys: metadata.jwks().keys().len(),
            algorithms: algorithms.collect(),
            offers: Offers {
                scopes: metadata
                    .scopes_supported()
                    .map(|scopes| scopes.iter().map(|scope| scope.to_string()).collect()),
                claims: metadata
                    .claims_supported()
                    .map(|claims| claims.iter().map(|claim| claim.to_string()).collect()),
                pkce: self.more().code_challenge_methods_supported.clone(),
            },
        }
    }

    /// Whether the answer that a browser brings must name the issuer (RFC 9207).
    pub(super) fn names_issuer(&self) -> bool {
        let announced = self.more().authorization_response_iss_parameter_supported;
        announced == Some(true)
    }

    /// Whether ID tokens can say when somebody has logged in at the provider.
    pub(super) fn reports_auth_time(&self) -> bool {
        let claims = self.metadata.claims_supported();
        claims.is_some_and(|claims| claims.iter().any(|claim| claim.as_str() == "auth_time"))
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = Url> {
        let metadata = &self.metadata;
        let mut urls = vec![
            metadata.authorization_endpoint().url().clone(),
            metadata.jwks_uri().url().clone(),
        ];
        urls.extend(metadata.token_endpoint().map(|url| url.url().clone()));
        urls.extend(self.end_session());
        urls.into_iter()
    }

    /// Where the browser logs out of the provider.
    pub(super) fn end_session(&self) -> Option<Url> {
        self.more().end_session_endpoint.as_deref()?.parse().ok()
    }
}

/// What `patchbay operator oidc test` shows.
pub(super) struct DiscoveredFacts {
    pub(super) authorization_endpoint: String,
    pub(super) keys: usize,
    pub(super) algorithms: Vec<String>,
    pub(super) offers: Offers,
}

fn text_of(algorithm: &CoreJwsSigningAlgorithm) -> Option<String> {
    let value = serde_json::to_value(algorithm).ok()?;
    value.as_str().map(str::to_owned)
}

/// Only signatures that need a private key.
pub(super) fn is_believed(algorithm: &CoreJwsSigningAlgorithm) -> bool {
    use CoreJwsSigningAlgorithm as Algorithm;
    matches!(
        algorithm,
        Algorithm::RsaSsaPkcs1V15Sha256
            | Algorithm::RsaSsaPkcs1V15Sha384
            | Algorithm::RsaSsaPkcs1V15Sha512
            | Algorithm::RsaSsaPssSha256
            | Algorithm::RsaSsaPssSha384
            | Algorithm::RsaSsaPssSha512
            | Algorithm::EcdsaP256Sha256
            | Algorithm::EcdsaP384Sha384
            | Algorithm::EdDsa
    )
}

/// HTTPS, or this machine.
pub fn is_protected(url: &Url) -> bool {
    let is_local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_this_machine_are_protected() {
        let is = |url: &str| is_protected(&url.parse().expect("a URL"));
        for url in [
            "https://id.example/realms/a",
            "http://127.0.0.1:8080",
            "http://[::1]/a",
            "http://localhost:3000",
            "http://id.localhost",
        ] {
            assert!(is(url), "{url}");
        }
        for url in [
            "http://id.example",
            "http://localhost.example",
            "http://10.0.0.1",
            "ftp://127.0.0.1",
            "file:///etc/passwd",
        ] {
            assert!(!is(url), "{url}");
        }
    }

    #[test]
    fn a_token_signed_with_a_shared_secret_or_not_at_all_is_never_believed() {
        use CoreJwsSigningAlgorithm as Algorithm;
        for algorithm in [
            Algorithm::HmacSha256,
            Algorithm::HmacSha384,
            Algorithm::HmacSha512,
            Algorithm::None,
        ] {
            assert!(!is_believed(&algorithm), "{algorithm:?}");
        }
        assert!(is_believed(&Algorithm::RsaSsaPkcs1V15Sha256));
        assert!(is_believed(&Algorithm::EcdsaP256Sha256));
    }
}
