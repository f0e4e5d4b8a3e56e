//! Connection options and credentials for registries.

use std::path::PathBuf;

use clap::Args;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::secrets::RegistryAuth;

use super::RegistryError;

#[derive(Args)]
pub(crate) struct RegistryArgs {
    /// Use HTTP without TLS; this is the default for registries on this machine (localhost, 127.…)
    #[arg(long, help_heading = "Registry")]
    pub(super) plain_http: bool,
    /// User of the registry [default: as stored by `docker login`, else anonymous]
    #[arg(
        long,
        env = "PATCHBAY_REGISTRY_USER",
        requires = "registry_password",
        help_heading = "Registry"
    )]
    registry_user: Option<String>,
    /// Password or token of the registry; set it in the environment rather than on the command line
    #[arg(
        long,
        env = "PATCHBAY_REGISTRY_PASSWORD",
        requires = "registry_user",
        hide_env_values = true,
        help_heading = "Registry"
    )]
    registry_password: Option<String>,
    /// Directory with Docker's config.json, which holds the logins [default: ~/.docker]
    #[arg(
        long,
        env = "DOCKER_CONFIG",
        value_name = "DIR",
        help_heading = "Registry"
    )]
    docker_config: Option<PathBuf>,
}

impl RegistryArgs {
    /// The given credentials, else those that Docker has for this registry, else anonymous.
    pub(super) fn auth(&self, registry: &str) -> Result<RegistryAuth, RegistryError> {
        if let (Some(user), Some(password)) = (&self.registry_user, &self.registry_password) {
            return Ok(RegistryAuth::Basic(user.clone(), password.clone()));
        }
        let dir = self
            .docker_config
            .clone()
            .or_else(|| std::env::home_dir().map(|home| home.join(".docker")));
        let Some(path) = dir.map(|dir| dir.join("config.json")) else {
            return Ok(RegistryAuth::Anonymous);
        };
        let wrong = |reason: &dyn std::fmt::Display| {
            RegistryError::Credentials(format!(
                "Docker's config.json ({}): {reason}",
                path.display()
            ))
        };
        let file = match std::fs::read_to_string(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(RegistryAuth::Anonymous);
            }
            Err(error) => return Err(wrong(&error)),
        };
        // The error only shows the position in the file, never its contents.
        serde_json::from_str::<serde::de::IgnoredAny>(&file).map_err(|error| wrong(&error))?;
        match docker_credential::get_credential_from_reader(file.as_bytes(), registry) {
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                Ok(RegistryAuth::Basic(user, password))
            }
            Ok(DockerCredential::IdentityToken(_)) => Err(RegistryError::Credentials(format!(
                "Docker has an identity token for {registry}, which is not supported; set PATCHBAY_REGISTRY_USER and PATCHBAY_REGISTRY_PASSWORD"
            ))),
            Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(RegistryAuth::Anonymous),
            // The output of the helper is not shown, because it may contain the credential.
            Err(CredentialRetrievalError::HelperFailure { helper, .. }) => Err(
                RegistryError::Credentials(format!("Docker's credential helper {helper} failed")),
            ),
            Err(CredentialRetrievalError::CredentialDecodingError) => Err(wrong(&format_args!(
                "the credentials of {registry} are not USER:PASSWORD in base64. Log in again"
            ))),
            Err(CredentialRetrievalError::HelperCommunicationError) => Err(wrong(&format_args!(
                "it names a credential helper for {registry} that cannot be run"
            ))),
            Err(error) => Err(wrong(&error)),
        }
    }
}
