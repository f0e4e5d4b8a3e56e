//! `patchbay plugin push|publish`: transfers packed files to a host, and from and to registries.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use patchbay_api::plugins::SignedComponent;
use serde_json::json;

use super::client::{Client, ClientArgs};
use super::exact::with_member;
use super::oci::{self, Publication, Registry, RegistryArgs};
use super::refusal::{Refusal, Why};
use super::view::{describe, short, signers, without_value};
use super::{Output, signing};

#[derive(Args)]
pub struct Push {
    /// Packed component, or one in a registry: oci://HOST/REPOSITORY, with :TAG or @sha256:DIGEST
    #[arg(value_name = "FILE|oci://…")]
    from: PathBuf,
    /// File with its signatures [default: FILE.sig, if it exists; for a registry: the signatures
    /// published there]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Activate the revision after the upload
    #[arg(long)]
    activate: bool,
    /// Grant what it asks for when it is activated
    #[arg(long, requires = "activate")]
    grant: bool,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Args)]
pub struct Publish {
    /// Packed component
    file: PathBuf,
    /// Destination oci://HOST/REPOSITORY:TAG; an existing tag is moved to this component
    #[arg(value_name = "oci://…")]
    to: PathBuf,
    /// File with its signatures, which are published, too [default: FILE.sig, if it exists]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(super) async fn push(args: Push, client: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(client)?.because(&args.why);
    let (component, signatures, source) = match oci::name_in(&args.from) {
        Some(name) => {
            let fetched = Registry::new(name, &args.registry).await?.fetch().await?;
            if !output.json {
                eprintln!("fetched {}", fetched.source);
            }
            let signatures = match &args.signature {
                Some(named) => signing::signatures_for(&args.from, Some(named))?,
                None => fetched.signatures,
            };
            (fetched.component, signatures, Some(fetched.source))
        }
        None => {
            let signatures = signing::signatures_for(&args.from, args.signature.as_deref())?;
            let component = std::fs::read(&args.from)
                .with_context(|| format!("cannot read {}", args.from.display()))?;
            (component, signatures, None)
        }
    };
    if !output.json {
        let size = component.len() >> 10;
        eprintln!(
            "pushing {} ({size} KiB); the host checks and compiles it…",
            args.from.display()
        );
    }
    let staged = client
        .push(SignedComponent {
            component,
            signatures,
            source: source.clone(),
        })
        .await?;
    let (plugin, digest) = (staged.data.plugin.as_str(), staged.data.digest.to_string());
    if args.activate {
        let activated = client.activate(plugin, &digest, args.grant).await?;
        output.done(&describe(&activated.data), &activated.raw);
        return Ok(());
    }
    let known = if staged.data.created {
        "staged"
    } else {
        "was here already"
    };
    let missing: String = staged
        .data
        .missing
        .iter()
        .map(|ask| format!("\n  {}", ask.as_str()))
        .collect();
    let (waits, grant) = if missing.is_empty() {
        (String::new(), "")
    } else {
        (format!("\nit is not granted yet:{missing}"), " --grant")
    };
    let secrets = without_value(plugin, &staged.data.secrets_without_value);
    let message = format!(
        "{known}: {plugin} {} {}{waits}{secrets}\nsigned by: {}\nactivate it with: patchbay plugin activate {plugin} {}{grant}",
        staged.data.version,
        short(&digest),
        signers(&staged.data.signatures),
        short(&digest)
    );
    let raw = match source {
        Some(source) => with_member(&staged.raw, "source", &source),
        None => staged.raw,
    };
    output.done(&message, &raw);
    Ok(())
}

pub(super) async fn publish(args: Publish, output: Output) -> anyhow::Result<()> {
    let file = args.file.display();
    let named = || {
        Refusal(format!(
            "{}: not oci://HOST/REPOSITORY:TAG",
            args.to.display()
        ))
    };
    let name = oci::name_in(&args.to).ok_or_else(named)?;
    oci::refuse_without_tag(name)?;
    let component = std::fs::read(&args.file).with_context(|| format!("cannot read {file}"))?;
    // Only files that hosts accept are published.
    let inspected = patchbay_runtime::inspect(&component).with_context(|| file.to_string())?;
    let signatures = signing::signatures_for(&args.file, args.signature.as_deref())?;
    let created = std::fs::metadata(&args.file)?.modified()?.into();
    let registry = Registry::new(name, &args.registry).await?;
    let publication = Publication {
        component,
        inspected: &inspected,
        signatures: &signatures,
        created,
    };
    let published = registry.publish(publication).await?;
    let (plugin, version, digest) = (
        &inspected.manifest.name,
        &inspected.manifest.version,
        inspected.digest,
    );
    let signers: Vec<String> = signatures
        .iter()
        .map(|signature| signature.key.to_string())
        .collect();
    let signed = if signers.is_empty() {
        "nobody".to_owned()
    } else {
        signers.join(", ")
    };
    let text = format!(
        "published: {plugin} {version} {}\nsigned by: {signed}\npush it with: patchbay plugin push {published}",
        digest.short()
    );
    let value = json!({
        "plugin": plugin, "version": version, "digest": digest, "published": published, "signatures": signers,
    });
    output.value(&text, &value);
    Ok(())
}
