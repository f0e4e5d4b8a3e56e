//! HTTPS of the host itself: its certificate, which may be renewed while the host runs.
//!
//! New files are used only if they fit together and are valid now. Otherwise the certificate before
//! goes on, and the problem is told in [`HttpStanding`]. Connections that are open are not touched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use patchbay_app::http_standing::{Certificate, HttpStanding};
use patchbay_app::service::Service;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How often the files are read.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Longest file. A chain has a few certificates of some KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The host's certificate, then those that signed it, each by the next.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What is wrong with the files. The text holds nothing of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {reason}")]
    Unreadable { path: String, reason: String },
    #[error("{0} can be read or written by everyone: chmod 600 {0}")]
    Loose(String),
    #[error("{0} holds no certificate in PEM form (BEGIN CERTIFICATE)")]
    NoCertificate(String),
    #[error("{0} holds no private key in PEM form (BEGIN PRIVATE KEY), or an encrypted one")]
    NoKey(String),
    #[error("the key in {key} does not belong to the first certificate in {certificate}")]
    OtherKey { certificate: String, key: String },
    #[error(
        "certificate {number} in {path} was not signed by the one after it. The host's own comes first, then the one that signed it, and so on"
    )]
    Chain { path: String, number: usize },
    #[error("the certificate in {path} has ended on {on}")]
    Ended { path: String, on: String },
    #[error("the certificate in {path} is not valid before {on}")]
    NotYet { path: String, on: String },
}

/// A certificate with its key, checked.
#[derive(Debug)]
pub struct Pair {
    key: Arc<CertifiedKey>,
    /// Of both files as they were read.
    digest: [u8; 32],
    /// Names for which it is valid.
    pub names: Vec<String>,
    pub ends: DateTime<Utc>,
}

impl Pair {
    /// Reads and checks both files. `now` decides about validity.
    pub fn load(files: &TlsFiles, now: DateTime<Utc>) -> Result<Self, TlsError> {
        let Read {
            certificate,
            key,
            digest,
        } = Read::of(files)?;
        let (path, key_path) = (shown(&files.certificate), shown(&files.key));
        let no_certificate = || TlsError::NoCertificate(path.clone());
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| no_certificate())?;
        let key =
            PrivateKeyDer::from_pem_slice(&key).map_err(|_| TlsError::NoKey(key_path.clone()))?;
        let parsed: Vec<X509Certificate<'_>> = chain
            .iter()
            .map(|der| X509Certificate::from_der(der).map(|(_, parsed)| parsed))
            .collect::<Result<_, _>>()
            .map_err(|_| no_certificate())?;
        let own = parsed.first().ok_or_else(no_certificate)?;
        let broken = parsed
            .windows(2)
            .position(|pair| pair[0].issuer() != pair[1].subject());
        if let Some(place) = broken {
            return Err(TlsError::Chain {
                path,
                number: place + 1,
            });
        }
        let at = |time: x509_parser::time::ASN1Time| {
            DateTime::from_timestamp(time.timestamp(), 0).unwrap_or_default()
        };
        let (begins, ends) = (at(own.validity().not_before), at(own.validity().not_after));
        let on = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M UTC").to_string();
        if ends <= now {
            return Err(TlsError::Ended { path, on: on(ends) });
        }
        if begins > now {
            let on = on(begins);
            return Err(TlsError::NotYet { path, on });
        }
        let names = names(own);
        let other_key = |_| TlsError::OtherKey {
            certificate: path.clone(),
            key: key_path.clone(),
        };
        let key = CertifiedKey::from_der(chain.clone(), key, &provider()).map_err(other_key)?;
        Ok(Self {
            key: Arc::new(key),
            digest,
            names,
            ends,
        })
    }
}

struct Read {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
    digest: [u8; 32],
}

impl Read {
    fn of(files: &TlsFiles) -> Result<Self, TlsError> {
        let key = zeroize::Zeroizing::new(content(&files.key)?);
        refuse_loose(&files.key)?;
        let certificate = content(&files.certificate)?;
        let digest = Sha256::new()
            .chain_update(Sha256::digest(&certificate))
            .chain_update(Sha256::digest(&*key))
            .finalize()
            .into();
        Ok(Self {
            certificate,
            key,
            digest,
        })
    }
}

fn content(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let unreadable = |reason: String| TlsError::Unreadable {
        path: shown(path),
        reason,
    };
    let mut content = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content))
        .map_err(|error| unreadable(error.to_string()))?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(unreadable("larger than 1 MiB".into()));
    }
    Ok(content)
}

/// A group may read it, as on Debian (`ssl-cert`) and in Kubernetes.
fn refuse_loose(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    match mode & 0o027 {
        0 => Ok(()),
        _ => Err(TlsError::Loose(shown(path))),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
            v4.or(v6).ok().map(|address| address.to_string())
        }
        _ => None,
    };
    names.value.general_names.iter().filter_map(name).collect()
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// The certificate in use. It is replaced as a whole.
#[derive(Debug)]
struct Current(ArcSwap<Pair>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().key))
    }
}

/// HTTPS with the certificate in these files.
pub struct Tls {
    files: TlsFiles,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
}

impl Tls {
    /// Fails unless the files can be used now.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let pair = Pair::load(&files, Utc::now())?;
        let current = Arc::new(Current(ArcSwap::from_pointee(pair)));
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites of both versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as _);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            files,
            current,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    pub(crate) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// The standing without a problem.
    pub(crate) fn standing(&self) -> Certificate {
        Certificate {
            ends_unix_s: self.current.0.load().ends.timestamp(),
            problem: None,
        }
    }

    /// Takes new files into use, if there are any. Fails while the present ones cannot be used.
    fn look(&self) -> Result<(), TlsError> {
        if Read::of(&self.files)?.digest == self.current.0.load().digest {
            return Ok(());
        }
        let pair = Pair::load(&self.files, Utc::now())?;
        info!(ends = %pair.ends, names = pair.names.join(", "), "a new certificate is served");
        self.current.0.store(Arc::new(pair));
        Ok(())
    }
}

/// Reads the files again and again.
pub(crate) struct CertificateWatch {
    pub(crate) tls: Arc<Tls>,
    pub(crate) standing: Arc<HttpStanding>,
}

#[async_trait]
impl Service for CertificateWatch {
    fn name(&self) -> &'static str {
        "tls-certificate"
    }

    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut told = None;
        loop {
            let tls = Arc::clone(&self.tls);
            let problem = tokio::task::spawn_blocking(move || tls.look()).await?.err();
            if told != problem {
                match &problem {
                    Some(problem) => warn!(
                        %problem,
                        "the new certificate cannot be used; the one before is still served"
                    ),
                    None => info!("the files of the certificate can be used again"),
                }
                told.clone_from(&problem);
            }
            self.standing.set_certificate(Certificate {
                problem: problem.map(|problem| problem.to_string()),
                ..self.tls.standing()
            });
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
