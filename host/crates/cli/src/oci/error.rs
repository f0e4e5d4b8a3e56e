//! Errors of registries, grouped by what the user does next.

use std::error::Error;
use std::io;

use oci_client::Reference;
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};

/// Limit for messages of registries, in characters.
const MAX_REASON_CHARS: usize = 300;

/// All messages are safe to show: none contains a credential.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("{0}")]
    Reference(String),
    #[error("cannot use the registry's credentials: {0}")]
    Credentials(String),
    #[error("cannot reach {registry}: {reason}")]
    Unreachable { registry: String, reason: String },
    #[error(
        "cannot use TLS with {registry}: {reason}. For a registry without TLS, in a network that you trust, use --plain-http"
    )]
    NoTls { registry: String, reason: String },
    #[error("{registry} does not answer in time")]
    TimedOut { registry: String },
    #[error(
        "{registry} does not accept the credentials: log in with `docker login {registry}`, or set PATCHBAY_REGISTRY_USER and \
         PATCHBAY_REGISTRY_PASSWORD"
    )]
    Unauthorized { registry: String },
    #[error(
        "{registry} denies access to {repository}: ask who runs the registry, or use other credentials"
    )]
    Denied {
        registry: String,
        repository: String,
    },
    #[error("{0} does not exist in the registry")]
    NotFound(String),
    #[error("{reference} is not a plugin but {found}: publish one with `patchbay plugin publish`")]
    NotAPlugin { reference: String, found: String },
    #[error("{reference} has {count} layers; a plugin has one")]
    Layers { reference: String, count: usize },
    #[error("the component has {bytes} bytes, more than {max}")]
    TooLarge { bytes: u64, max: u64 },
    #[error(
        "{registry} sent other content than requested: expected {expected}, got {actual}. Nothing of it was used"
    )]
    Damaged {
        registry: String,
        expected: String,
        actual: String,
    },
    #[error("{registry}: {reason}")]
    Failed { registry: String, reason: String },
}

impl RegistryError {
    /// The exit codes are listed in `patchbay --help`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => 3,
            Self::Unreachable { .. } | Self::NoTls { .. } | Self::TimedOut { .. } => 5,
            Self::Failed { .. } => 1,
            _ => 4,
        }
    }

    pub(super) fn of(error: OciDistributionError, reference: &Reference) -> Self {
        let registry = reference.registry().to_owned();
        match error {
            OciDistributionError::RequestError(error) => Self::of_request(&error, registry),
            OciDistributionError::IoError(error) => Self::of_download(&error, registry),
            OciDistributionError::DigestError(error) => Self::of_digest(&error, registry),
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_) => Self::Unauthorized { registry },
            OciDistributionError::ServerError { code, message, .. } => {
                Self::of_status(code, &message, reference)
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let codes: Vec<&OciErrorCode> =
                    envelope.errors.iter().map(|error| &error.code).collect();
                let message = envelope.to_string();
                Self::of_status(status_of(&codes), &message, reference)
            }
            OciDistributionError::ImageIndexParsingNoPlatformResolverError => Self::NotAPlugin {
                reference: reference.to_string(),
                found: "an index of several images".into(),
            },
            OciDistributionError::UnsupportedMediaTypeError(found) => Self::NotAPlugin {
                reference: reference.to_string(),
                found: legible(&found),
            },
            other => Self::Failed {
                registry,
                reason: legible(&other.to_string()),
            },
        }
    }

    fn of_status(status: u16, message: &str, reference: &Reference) -> Self {
        let registry = reference.registry().to_owned();
        match status {
            401 => Self::Unauthorized { registry },
            403 => Self::Denied {
                registry,
                repository: reference.repository().to_owned(),
            },
            404 => Self::NotFound(reference.to_string()),
            0 => Self::Failed {
                registry,
                reason: legible(message),
            },
            _ => Self::Failed {
                registry,
                reason: legible(&format!("HTTP {status}: {message}")),
            },
        }
    }

    fn of_request(error: &reqwest::Error, registry: String) -> Self {
        if error.is_timeout() {
            return Self::TimedOut { registry };
        }
        let reason = legible(&root_cause(error).to_string());
        if speaks_no_tls(error) {
            return Self::NoTls { registry, reason };
        }
        if error.is_connect() || error.is_request() {
            return Self::Unreachable { registry, reason };
        }
        Self::Failed { registry, reason }
    }

    fn of_digest(error: &DigestError, registry: String) -> Self {
        match error {
            DigestError::VerificationError { expected, actual } => Self::Damaged {
                registry,
                expected: legible(expected),
                actual: actual.clone(),
            },
            other => Self::Failed {
                registry,
                reason: legible(&other.to_string()),
            },
        }
    }

    /// A stream of bytes fails with the actual cause inside the I/O error.
    pub(super) fn of_download(error: &io::Error, registry: String) -> Self {
        let cause = error.get_ref().map(|cause| cause as &(dyn Error + 'static));
        match (
            cause.and_then(|cause| cause.downcast_ref()),
            cause.and_then(|cause| cause.downcast_ref()),
        ) {
            (Some(digest), _) => Self::of_digest(digest, registry),
            (_, Some(request)) => Self::of_request(request, registry),
            _ => Self::Failed {
                registry,
                reason: legible(&error.to_string()),
            },
        }
    }
}

/// The HTTP status that the OCI distribution specification assigns to these codes; 0 for others.
fn status_of(codes: &[&OciErrorCode]) -> u16 {
    let has = |sought: &[OciErrorCode]| codes.iter().any(|code| sought.contains(code));
    match () {
        () if has(&[OciErrorCode::Unauthorized]) => 401,
        () if has(&[OciErrorCode::Denied]) => 403,
        () if has(&[
            OciErrorCode::ManifestUnknown,
            OciErrorCode::NameUnknown,
            OciErrorCode::BlobUnknown,
            OciErrorCode::NotFound,
        ]) =>
        {
            404
        }
        () => 0,
    }
}

/// Whether the other side does not speak TLS, so most likely HTTP.
fn speaks_no_tls(error: &(dyn Error + 'static)) -> bool {
    if let Some(tls) = error.downcast_ref() {
        return matches!(tls, rustls::Error::InvalidMessage(_));
    }
    // `source` of an I/O error skips the error inside it.
    let within = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
        .map(|inner| speaks_no_tls(inner));
    within
        .or_else(|| error.source().map(speaks_no_tls))
        .unwrap_or_default()
}

/// The innermost cause: "connection refused" rather than "error sending request".
fn root_cause<'e>(mut error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// Cleans a text from elsewhere: removes control characters (they could steer the terminal) and
/// shortens it.
pub(super) fn legible(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_REASON_CHARS + 1)
        .collect();
    if shown.chars().count() > MAX_REASON_CHARS {
        shown.pop();
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_registry_without_tls_is_said_to_need_plain_http() {
        let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.expect("a client");
            tokio::io::AsyncWriteExt::write_all(&mut client, b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
        });
        let error = reqwest::get(format!("https://{address}/v2/"))
            .await
            .expect_err("no TLS");
        let error = RegistryError::of_request(&error, address);
        assert!(error.to_string().contains("--plain-http"), "{error}");
        assert_eq!(error.exit_code(), 5);
    }

    #[test]
    fn what_others_wrote_cannot_steer_a_terminal() {
        assert_eq!(legible("a\x1b[2Jb\nc"), "a[2Jbc");
        assert_eq!(legible(&"x".repeat(1_000)).chars().count(), 301);
    }
}
