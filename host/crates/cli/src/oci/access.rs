//! Who asks a registry, and over what.

use std::path::PathBuf;

use clap::Args;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::secrets::RegistryAuth;

use super::RegistryError;

/// How registries are spoken to.
#[derive(Args)]
pub(crate) struct RegistryArgs {
    /// Speak HTTP without TLS to the registry; on this machine (localhost, 127.…) that is so without asking
    #[arg(long, help_heading = "Registry")]
    pub(super) plain_http: bool,
    /// The user of the registry [default: what `docker login` has stored, else nobody]
    #[arg(long, env = "PATCHBAY_REGISTRY_USER", requires = "registry_password", help_heading = "Registry")]
    registry_user: Option<String>,
    /// The registry's password or token; better in the environment than on the command line
    #[arg(
        long,
        env = "PATCHBAY_REGISTRY_PASSWORD",
        requires = "registry_user",
        hide_env_values = true,
        help_heading = "Registry"
    )]
    registry_password: Option<String>,
    /// Folder with Docker's config.json, which says how to log in [default: ~/.docker]
    #[arg(long, env = "DOCKER_CONFIG", value_name = "DIR", help_heading = "Registry")]
    docker_config: Option<PathBuf>,
}

impl RegistryArgs {
    /// Given ones, else what Docker knows of this registry, else none.
    pub(super) fn auth(&self, registry: &str) -> Result<RegistryAuth, RegistryError> {
        if let (Some(user), Some(password)) = (&self.registry_user, &self.registry_password) {
            return Ok(RegistryAuth::Basic(user.clone(), password.clone()));
        }
        let dir = self.docker_config.clone().or_else(|| std::env::home_dir().map(|home| home.join(".docker")));
        let Some(path) = dir.map(|dir| dir.join("config.json")) else { return Ok(RegistryAuth::Anonymous) };
        let wrong = |reason: &dyn std::fmt::Display| {
            RegistryError::Credentials(format!("Docker's config.json ({}): {reason}", path.display()))
        };
        let file = match std::fs::read_to_string(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(RegistryAuth::Anonymous),
            Err(error) => return Err(wrong(&error)),
        };
        // Only where it stops being JSON, and nothing of what it says.
        serde_json::from_str::<serde::de::IgnoredAny>(&file).map_err(|error| wrong(&error))?;
        match docker_credential::get_credential_from_reader(file.as_bytes(), registry) {
            Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
            Ok(DockerCredential::IdentityToken(_)) => Err(RegistryError::Credentials(format!(
                "Docker has an identity token for {registry}, which is not supported; set PATCHBAY_REGISTRY_USER and PATCHBAY_REGISTRY_PASSWORD"
            ))),
            Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(RegistryAuth::Anonymous),
            // A helper's output is not shown: it may be the credential.
            Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
                Err(RegistryError::Credentials(format!("Docker's credential helper {helper} failed")))
            }
            Err(CredentialRetrievalError::CredentialDecodingError) => {
                Err(wrong(&format_args!("the auth of {registry} is not USER:PASSWORD in base64: log in again")))
            }
            Err(CredentialRetrievalError::HelperCommunicationError) => {
                Err(wrong(&format_args!("the credential helper that it names for {registry} cannot be run")))
            }
            Err(error) => Err(wrong(&error)),
        }
    }
}
