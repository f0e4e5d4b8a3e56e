//! Plugins in OCI registries, in the layout of the CNCF's "Wasm OCI Artifact": an image manifest
//! whose config describes the component, and whose single layer is the unchanged file. So the
//! digest of the layer is also the digest of the revision.
//!
//! This module contacts only the named registry, and rejects content that does not match its
//! digest.

mod access;
mod error;
mod name;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use oci_client::client::{ClientConfig, ClientProtocol, ImageLayer};
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use patchbay_model::RevisionDigest;
use serde::Serialize;

pub(super) use self::access::RegistryArgs;
pub(super) use self::error::RegistryError;
use self::error::legible;
use self::name::{SCHEME, is_this_machine, parse, without_digest};
pub(super) use self::name::{name_in, refuse_without_tag};
use patchbay_model::signature::{self, Signature};

const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
const LAYER_TYPE: &str = "application/wasm";
/// Annotation of the image manifest with the signatures, separated by commas.
const SIGNATURES: &str = "patchbay.signatures";

/// The default limit of hosts (`runtime.max_component_mb`).
const MAX_COMPONENT_BYTES: u64 = 64 << 20;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Maximum time between two chunks of a response.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// Limit for the whole transfer: 64 MiB over a line of 1.5 Mbit/s.
const LIMIT: Duration = Duration::from_secs(360);

/// A plugin from a registry.
pub(super) struct Fetched {
    pub(super) component: Vec<u8>,
    pub(super) signatures: Vec<Signature>,
    /// Origin, with the digest of the image manifest.
    pub(super) source: String,
}

pub(super) struct Publication<'a> {
    pub(super) component: Vec<u8>,
    pub(super) inspected: &'a patchbay_runtime::Inspected,
    pub(super) signatures: &'a [Signature],
    /// Time when the file was made. It is fixed, so that publishing the file again gives the same
    /// digest.
    pub(super) created: chrono::DateTime<chrono::Utc>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WasmConfig<'a> {
    created: chrono::DateTime<chrono::Utc>,
    architecture: &'static str,
    os: &'static str,
    layer_digests: [&'a str; 1],
    component: ComponentConfig<'a>,
}

#[derive(Serialize)]
struct ComponentConfig<'a> {
    exports: &'a [String],
    imports: &'a [String],
}

/// A name in a registry, with the client to reach it.
pub(super) struct Registry {
    reference: Reference,
    client: Client,
}

impl Registry {
    /// `name` is HOST/REPOSITORY with a tag, a digest or neither.
    pub(super) async fn new(name: &str, args: &RegistryArgs) -> Result<Self, RegistryError> {
        let reference = parse(name)?;
        let registry = reference.registry();
        let plain = args.plain_http || is_this_machine(registry);
        let client = Client::try_from(ClientConfig {
            protocol: if plain {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            platform_resolver: None,
            connect_timeout: Some(CONNECT_LIMIT),
            read_timeout: Some(READ_LIMIT),
            user_agent: concat!("patchbay/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        });
        let client = client.map_err(|error| RegistryError::of(error, &reference))?;
        client
            .store_auth_if_needed(reference.resolve_registry(), &args.auth(registry)?)
            .await;
        Ok(Self { reference, client })
    }

    pub(super) async fn fetch(&self) -> Result<Fetched, RegistryError> {
        self.in_time(self.fetch_unbounded()).await
    }

    async fn fetch_unbounded(&self) -> Result<Fetched, RegistryError> {
        // The credentials stored in the client are used, not this argument.
        let pulled = self
            .client
            .pull_image_manifest(&self.reference, &RegistryAuth::Anonymous)
            .await;
        let (manifest, digest) = pulled.map_err(|error| self.failed(error))?;
        let layer = self.layer_of(&manifest)?;
        let component = self.download(layer).await?;
        Ok(Fetched {
            component,
            signatures: self.signatures_of(&manifest)?,
            source: format!("{SCHEME}{}@{digest}", without_digest(&self.reference)),
        })
    }

    /// The single layer of a plugin.
    fn layer_of(&self, manifest: &OciImageManifest) -> Result<OciDescriptor, RegistryError> {
        let reference = self.reference.to_string();
        if manifest.config.media_type != CONFIG_TYPE {
            let found = legible(&format!(
                "an artifact with the config type {}",
                manifest.config.media_type
            ));
            return Err(RegistryError::NotAPlugin { reference, found });
        }
        let [layer] = manifest.layers.as_slice() else {
            return Err(RegistryError::Layers {
                reference,
                count: manifest.layers.len(),
            });
        };
        if layer.media_type != LAYER_TYPE {
            let found = legible(&format!(
                "an artifact with the layer type {}",
                layer.media_type
            ));
            return Err(RegistryError::NotAPlugin { reference, found });
        }
        check_size(u64::try_from(layer.size).unwrap_or(u64::MAX))?;
        // URLs in the manifest are removed: the layer comes from this registry or not at all.
        Ok(OciDescriptor {
            urls: None,
            ..layer.clone()
        })
    }

    async fn download(&self, layer: OciDescriptor) -> Result<Vec<u8>, RegistryError> {
        let mut stream = self
            .client
            .pull_blob_stream(&self.reference, &layer)
            .await
            .map_err(|error| self.failed(error))?;
        let mut component = Vec::new();
        // The stream ends with an error unless the digest matches.
        loop {
            let piece = stream.try_next().await;
            let piece = piece.map_err(|error| {
                RegistryError::of_download(&error, self.reference.registry().to_owned())
            })?;
            let Some(piece) = piece else {
                return Ok(component);
            };
            check_size((component.len() + piece.len()) as u64)?;
            component.extend_from_slice(&piece);
        }
    }

    fn signatures_of(&self, manifest: &OciImageManifest) -> Result<Vec<Signature>, RegistryError> {
        let annotation = manifest
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(SIGNATURES));
        let Some(text) = annotation else {
            return Ok(Vec::new());
        };
        signature::read_signatures(&text.replace(',', "\n")).map_err(|error| {
            RegistryError::Failed {
                registry: self.reference.registry().to_owned(),
                reason: format!("the annotation {SIGNATURES}: {error}"),
            }
        })
    }

    /// Uploads the plugin and returns its name with the digest. What the tag named before is only
    /// reachable by its digest from then on.
    pub(super) async fn publish(
        &self,
        publication: Publication<'_>,
    ) -> Result<String, RegistryError> {
        self.in_time(self.publish_at_leisure(publication)).await
    }

    async fn publish_at_leisure(
        &self,
        publication: Publication<'_>,
    ) -> Result<String, RegistryError> {
        let Publication {
            component,
            inspected,
            signatures,
            created,
        } = publication;
        check_size(component.len() as u64)?;
        let digest = format!("sha256:{}", inspected.digest);
        let config = WasmConfig {
            created,
            architecture: "wasm",
            os: "wasip2",
            layer_digests: [&digest],
            component: ComponentConfig {
                exports: &inspected.exports,
                imports: &inspected.imports,
            },
        };
        let config = oci_client::client::Config::new(plain_json(&config), CONFIG_TYPE.into(), None);
        let layer = ImageLayer::new(component, LAYER_TYPE.into(), None);
        let annotations = annotations_of(&inspected.manifest, signatures);
        let mut manifest =
            OciImageManifest::build(std::slice::from_ref(&layer), &config, Some(annotations));
        manifest.media_type = Some(OCI_IMAGE_MEDIA_TYPE.into());
        let body = plain_json(&manifest);
        let named = format!(
            "{SCHEME}{}@sha256:{}",
            self.reference,
            RevisionDigest::of(&body)
        );
        let failed = |error| self.failed(error);
        self.client
            .push_blob(&self.reference, layer.data, &digest)
            .await
            .map_err(failed)?;
        self.client
            .push_blob(&self.reference, config.data, &manifest.config.digest)
            .await
            .map_err(failed)?;
        let kind = http::HeaderValue::from_static(OCI_IMAGE_MEDIA_TYPE);
        self.client
            .push_manifest_raw(&self.reference, body, kind)
            .await
            .map_err(failed)?;
        Ok(named)
    }

    async fn in_time<T>(
        &self,
        act: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let late = |_| RegistryError::TimedOut {
            registry: self.reference.registry().to_owned(),
        };
        tokio::time::timeout(LIMIT, act).await.map_err(late)?
    }

    fn failed(&self, error: oci_client::errors::OciDistributionError) -> RegistryError {
        RegistryError::of(error, &self.reference)
    }
}

fn check_size(bytes: u64) -> Result<(), RegistryError> {
    if bytes > MAX_COMPONENT_BYTES {
        return Err(RegistryError::TooLarge {
            bytes,
            max: MAX_COMPONENT_BYTES,
        });
    }
    Ok(())
}

/// Annotations that registries show for an artifact, and the signatures.
fn annotations_of(
    manifest: &patchbay_model::manifest::Manifest,
    signatures: &[Signature],
) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([
        (
            "org.opencontainers.image.title".to_owned(),
            manifest.name.to_string(),
        ),
        (
            "org.opencontainers.image.version".to_owned(),
            manifest.version.to_string(),
        ),
        (
            "org.opencontainers.image.description".to_owned(),
            manifest.description.clone(),
        ),
    ]);
    if !signatures.is_empty() {
        let all: Vec<String> = signatures.iter().map(ToString::to_string).collect();
        annotations.insert(SIGNATURES.to_owned(), all.join(","));
    }
    annotations
}

fn plain_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}
