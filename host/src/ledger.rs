//! `patchbay audit verify --database`: without a running host, and without Redis.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use patchbay_app::audit::anchors::read_file;
use patchbay_app::audit::verify::{MacKeys, verify};
use patchbay_app::vault::Keys;
use patchbay_cli::Output;
use patchbay_cli::audit::{VerifyArgs, print_report};
use patchbay_store::Store;

use crate::config::Config;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Reads Postgres, the key file, and the anchors of the configured and of the named file.
pub(crate) async fn verify_database(
    args: VerifyArgs,
    file: Option<&Path>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let mut anchors = args.anchors()?;
    let config = Config::for_command(file, &["database", "secrets", "audit"])?;
    if let Some(path) = &*config.audit.anchor_file {
        match read_file(path) {
            Ok(read) => anchors.extend(read),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
    }
    let keys = Keys::load(config.secrets.master_keys())?;
    let store = Store::connect(config.database.store(), CONNECT_LIMIT)
        .await
        .context("cannot use Postgres")?;
    let macs = MacKeys::read(&store, &keys).await?;
    let report = verify(&store, &macs, args.trail.as_deref(), anchors).await?;
    store.close().await;
    Ok(print_report(&report, output))
}
