//! `patchbay plugin keygen|sign|verify`: works on local files, without a host.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use patchbay_model::signature::{
    PrivateKey, PublicKey, Signature, TrustedKeys, read_public_keys, read_signatures,
};
use serde_json::json;

use super::Output;
use super::refusal::Refusal;

#[derive(Args)]
pub struct Keygen {
    /// Output file of the private key; an existing file is never overwritten
    #[arg(long, value_name = "FILE", default_value = "patchbay.key")]
    out: PathBuf,
}

#[derive(Args)]
pub struct Sign {
    /// Packed component
    file: PathBuf,
    /// File with the private key (PKCS#8 in PEM), made by `patchbay plugin keygen`
    #[arg(long, value_name = "KEYFILE")]
    key: PathBuf,
    /// Output file of the signature [default: FILE.sig]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Keep existing signatures by other keys, to change from one key to another
    #[arg(long)]
    add: bool,
}

#[derive(Args)]
pub struct Verify {
    /// Packed component
    file: PathBuf,
    /// File with its signatures [default: FILE.sig]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// A public key (ed25519:…), or a file of public keys; one of them must have signed. May be
    /// repeated
    #[arg(long, required = true, value_name = "PUBLIC|FILE")]
    key: Vec<String>,
}

pub(super) fn keygen(args: &Keygen, output: Output) -> anyhow::Result<()> {
    let key = PrivateKey::generate();
    let path = args.out.display();
    // Never overwrites a file: a lost key means that nothing more can be signed with it.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&args.out)
        .with_context(|| format!("cannot make {path}"))?;
    file.write_all(key.to_pem()?.as_bytes())?;
    file.sync_all()?;
    let public = key.public();
    let text = format!(
        "private key: {path} (keep it where plugins are signed, and on no host)\npublic key:  {public}\nkey id:      {}\n\
         hosts trust it by: plugins.trusted_keys = [\"{public}\"]",
        public.id()
    );
    let value = json!({ "privateKeyFile": args.out, "publicKey": public.to_string(), "keyId": public.id().to_string() });
    output.value(&text, &value);
    Ok(())
}

pub(super) fn sign(args: &Sign, output: Output) -> anyhow::Result<()> {
    let component = read(&args.file)?;
    // Only files that hosts accept are signed.
    let inspected =
        patchbay_runtime::inspect(&component).with_context(|| args.file.display().to_string())?;
    let key = private_key(&args.key)?;
    let signature = key.sign(&inspected.digest);
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| signature_file(&args.file));
    let mut signatures = if args.add && out.exists() {
        signatures_in(&out)?
    } else {
        Vec::new()
    };
    signatures.retain(|kept| kept.key != signature.key);
    signatures.push(signature);
    let text: String = signatures
        .iter()
        .map(|signature| format!("{signature}\n"))
        .collect();
    // Written as a whole or not at all, because another process may be pushing it.
    let temporary = beside(&out, ".tmp");
    std::fs::write(&temporary, text)
        .with_context(|| format!("cannot write {}", temporary.display()))?;
    std::fs::rename(&temporary, &out).with_context(|| format!("cannot write {}", out.display()))?;
    let (manifest, digest, id) = (&inspected.manifest, inspected.digest, key.public().id());
    let message = format!(
        "{}: {} {} ({}) signed by {id}",
        out.display(),
        manifest.name,
        manifest.version,
        digest.short()
    );
    let value = json!({
        "file": out, "plugin": manifest.name, "version": manifest.version, "digest": digest, "keyId": id.to_string(),
    });
    output.value(&message, &value);
    Ok(())
}

pub(super) fn verify(args: &Verify, output: Output) -> anyhow::Result<()> {
    let digest = patchbay_model::RevisionDigest::of(&read(&args.file)?);
    let path = args
        .signature
        .clone()
        .unwrap_or_else(|| signature_file(&args.file));
    let signatures = signatures_in(&path)?;
    let mut keys = Vec::new();
    for key in &args.key {
        keys.extend(public_keys(key)?);
    }
    TrustedKeys::new(keys.clone())
        .check(&digest, &signatures)
        .with_context(|| args.file.display().to_string())?;
    let by: Vec<String> = signatures
        .iter()
        .filter(|signature| {
            keys.iter()
                .any(|key| key.id() == signature.key && key.verifies(&digest, signature))
        })
        .map(|signature| signature.key.to_string())
        .collect();
    let message = format!(
        "{} ({}) is signed by {}",
        args.file.display(),
        digest.short(),
        by.join(", ")
    );
    output.value(&message, &json!({ "digest": digest, "signedBy": by }));
    Ok(())
}

/// Signatures for an upload: those in the named file, else those beside the component, if any.
pub fn signatures_for(component: &Path, named: Option<&Path>) -> anyhow::Result<Vec<Signature>> {
    let beside = signature_file(component);
    match named {
        Some(path) => signatures_in(path),
        None if beside.exists() => signatures_in(&beside),
        None => Ok(Vec::new()),
    }
}

/// FILE.sig
fn signature_file(component: &Path) -> PathBuf {
    beside(component, ".sig")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn signatures_in(path: &Path) -> anyhow::Result<Vec<Signature>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    read_signatures(&text).with_context(|| path.display().to_string())
}

fn private_key(path: &Path) -> anyhow::Result<PrivateKey> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        eprintln!("warning: others may read {}: chmod 600 it", path.display());
    }
    PrivateKey::from_pem(&text).with_context(|| path.display().to_string())
}

/// `text` is a key or the path of a file with keys.
fn public_keys(text: &str) -> anyhow::Result<Vec<PublicKey>> {
    if text.starts_with("ed25519:") {
        return Ok(vec![text.parse().context("--key")?]);
    }
    let Ok(content) = std::fs::read_to_string(text) else {
        let message =
            format!("--key {text} is neither a public key (ed25519:…) nor a file that can be read");
        return Err(Refusal(message).into());
    };
    read_public_keys(&content).with_context(|| text.to_owned())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
