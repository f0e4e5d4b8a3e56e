//! `patchbay operator recover`: without a running host, for operators who are locked out.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use patchbay_app::operators::{self, Recovered};
use patchbay_app::vault::Keys;
use patchbay_cli::operator::RecoverArgs;
use patchbay_cli::{NotFound, Output};
use patchbay_store::Store;
use serde_json::json;

use crate::config::Config;
use crate::process;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Needs the database and the master key: whoever has both has every right anyway.
pub(crate) async fn recover(
    args: RecoverArgs,
    file: Option<&Path>,
    output: Output,
) -> anyhow::Result<()> {
    let config = Config::for_command(file, &["database", "secrets"])?;
    let keys = Keys::load(config.secrets.master_keys())?;
    anyhow::ensure!(
        !keys.is_empty(),
        "No master key is configured here: set secrets.key_file to the one of the hosts. The link would be of no use without it"
    );
    let store = Store::connect(config.database.store(), CONNECT_LIMIT)
        .await
        .context("cannot use Postgres")?;
    let recovered = recover_in(&store, &args).await;
    store.close().await;
    let recovered = recovered?;
    let link = recovered.link.as_str();
    let basic = match args.basic_on {
        true => {
            "\nThe shared login of the configuration opens everything again. Close it: patchbay operator basic board"
        }
        false => "",
    };
    let text = format!(
        "Every session and token of {} has ended. The link, valid once within 24 hours, and never shown again:\n  {link}\nThere:\n  patchbay operator \
         enrol {link} --url URL{basic}",
        args.name
    );
    output.made(
        link,
        &text,
        &json!({ "name": args.name, "link": link, "endsAt": recovered.ends_at, "basicOn": args.basic_on }),
    );
    Ok(())
}

async fn recover_in(store: &Store, args: &RecoverArgs) -> anyhow::Result<Recovered> {
    let not_found = || NotFound(format!("There is no operator {}", args.name));
    let known = store.operators().await?;
    if !known.iter().any(|known| known.name == args.name) {
        return Err(not_found().into());
    }
    args.ask()?;
    let machine = process::host_name();
    let recovered = operators::recover(store, &args.name, args.basic_on, &machine).await?;
    Ok(recovered.ok_or_else(not_found)?)
}
