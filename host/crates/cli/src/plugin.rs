//! `patchbay plugin …`

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use patchbay_api::body::{AnyDocument, Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::plugins::{
    Asks, PluginPath, PluginSummary, PluginsDeactivate, PluginsDelete, PluginsGrant, PluginsGrants,
    PluginsList, PluginsRelease, PluginsRevisions, PluginsRevoke, PluginsRollback,
    PluginsSetSettings, PluginsSettings, Release, RevisionPath, RevisionSummary, TwoRevisions,
};
use patchbay_api::queues::{QueueOverview, QueuesList};
use patchbay_api::reveal::Reveal;
use patchbay_model::grant::Ask;
use patchbay_model::redaction::mark_in;
use patchbay_model::shell::arguments;
use patchbay_model::words::counted;
use serde_json::json;
use serde_json::value::to_raw_value;

use super::client::{Client, ClientArgs, RevealArgs};
use super::output::indented;
use super::refusal::{Consent, Refusal, Why};
use super::view::{describe, short};
use super::{Output, build, names, operation, push, revisions, signing, sql, world};

#[derive(Subcommand)]
pub enum PluginCommand {
    /// Build a plugin from its sources and pack it: DIR/plugin.toml → DIR/dist/NAME-VERSION.wasm
    ///
    /// Runs `cargo build --release --target wasm32-wasip2`, or the command in the section [build]
    /// of plugin.toml.
    Build(build::Build),
    /// Write the plugin's own WIT world, for toolchains that bind a world: DIR/plugin.toml →
    /// DIR/wit
    ///
    /// `plugin build` does this automatically if plugin.toml has a command in [build].
    Wit(world::WriteWorld),
    /// Pack a built component with its manifest: DIR/plugin.toml + component →
    /// DIR/dist/NAME-VERSION.wasm
    Pack(build::Pack),
    /// Show the contents of a packed file and what it asks for
    Inspect {
        /// A packed component
        file: PathBuf,
    },
    /// Generate a key to sign plugins: write the private key (mode 0600) and print the public key
    Keygen(signing::Keygen),
    /// Sign a packed file: write FILE.sig, which `push` uploads, too
    Sign(signing::Sign),
    /// Verify the signature of a packed file; exit code 0 if one of the keys has signed it, 1 if
    /// not
    Verify(signing::Verify),
    /// Upload a packed file, or one from a registry; the host checks, compiles and stages it
    ///
    /// Signatures are uploaded, too: those in FILE.sig, or those published in the registry. Pushing
    /// a file again adds signatures to its staged revision.
    Push(push::Push),
    /// Publish a packed file to an OCI registry, for `push oci://…`
    Publish(push::Publish),
    /// List plugins
    List,
    /// List the revisions of a plugin, newest first
    Revisions {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
    },
    /// Show which revision is active, which one runs on this host, and why they differ
    Status {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
    },
    /// Show the database connections of plugins on the answering host, and their sessions in
    /// Postgres
    Sql {
        /// Only this plugin
        #[arg(add = names::plugins())]
        plugin: Option<String>,
    },
    /// List activations, rollbacks (`reactivated`) and deactivations, newest first
    History {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
    },
    /// Show what changed between two revisions: + new, - gone, ~ changed
    Diff {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        /// Digest of the older revision, or a prefix of at least 4 digits
        from: String,
        /// Digest of the newer revision, or a prefix of at least 4 digits
        to: String,
    },
    /// Activate a revision; running calls finish on the previous one
    Activate {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        /// Digest of the revision, or a prefix of at least 4 digits
        digest: String,
        /// Also grant what it asks for and is not granted yet
        #[arg(long)]
        grant: bool,
        #[command(flatten)]
        why: Why,
    },
    /// List what a plugin asks for, what it is granted, and what it used in the last 30 days
    Grants {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
    },
    /// Grant asks of a revision; takes effect on the next call
    Grant {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        /// Asks as listed by `plugin grants`, for example "secret API_KEY"
        #[arg(
            required_unless_present = "all",
            conflicts_with = "all",
            value_name = "ASK"
        )]
        asks: Vec<String>,
        /// Everything that the active and the newest revision ask for
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        why: Why,
    },
    /// Revoke grants: the next call is denied, without a new activation
    Revoke {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        /// Asks as listed by `plugin grants`
        #[arg(required = true, value_name = "ASK")]
        asks: Vec<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Call an operation of a plugin and print the answer; nothing is retried
    Call(operation::Call),
    /// Activate the revision that was active before
    Rollback {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        #[command(flatten)]
        why: Why,
    },
    /// Release a plugin from quarantine, with its present revision
    Release {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        /// Why, for the next operator and the audit trail
        #[arg(long, default_value = "no reason given")]
        reason: String,
    },
    /// Deactivate a plugin: its queues wait until a revision is activated
    Deactivate {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Delete a revision that is not active
    Delete {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        /// Digest of the revision, or a prefix of at least 4 digits
        digest: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Delete old revisions now; hosts also do so every six hours
    Prune {
        /// Only list them
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Show and change the settings of a plugin
    #[command(subcommand)]
    Settings(SettingsCommand),
}

#[derive(Subcommand)]
pub enum SettingsCommand {
    /// Show the settings as JSON, without defaults
    Get {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        #[command(flatten)]
        reveal: RevealArgs,
    },
    /// Change settings: NAME=VALUE sets (VALUE is JSON, or else text), NAME= removes; takes effect
    /// on the next call
    Set {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        /// Changes, for example from=no-reply@example.com
        #[arg(required = true, value_name = "NAME=VALUE")]
        changes: Vec<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Replace all settings by a JSON file (`-` reads standard input)
    Replace {
        /// Name of the plugin
        #[arg(add = names::plugins())]
        plugin: String,
        /// File with a JSON object
        file: PathBuf,
        #[command(flatten)]
        why: Why,
    },
}

impl PluginCommand {
    /// Whether it only reads from a host, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(
            self,
            Self::List
                | Self::Revisions { .. }
                | Self::Status { .. }
                | Self::Sql { .. }
                | Self::History { .. }
                | Self::Grants { .. }
        )
    }

    fn why(&self) -> Why {
        match self {
            Self::Activate { why, .. }
            | Self::Grant { why, .. }
            | Self::Revoke { why, .. }
            | Self::Rollback { why, .. }
            | Self::Settings(
                SettingsCommand::Set { why, .. } | SettingsCommand::Replace { why, .. },
            ) => why.clone(),
            Self::Deactivate { consent, .. }
            | Self::Delete { consent, .. }
            | Self::Prune { consent, .. } => consent.why.clone(),
            _ => Why::default(),
        }
    }
}

pub(crate) async fn run(
    command: PluginCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    match command {
        PluginCommand::Build(args) => return build::build(args, output).await,
        PluginCommand::Wit(args) => return world::write(&args, output),
        PluginCommand::Pack(args) => return build::pack(args, output),
        PluginCommand::Inspect { file } => return build::inspect(&file, output),
        PluginCommand::Keygen(args) => return signing::keygen(&args, output),
        PluginCommand::Sign(args) => return signing::sign(&args, output),
        PluginCommand::Verify(args) => return signing::verify(&args, output),
        PluginCommand::Push(command) => return push::push(command, args, output).await,
        PluginCommand::Publish(args) => return push::publish(args, output).await,
        _ => {}
    }
    let client = Client::from_args(args)?.because(&command.why());
    let none = NoQuery {};
    match command {
        PluginCommand::Build(_)
        | PluginCommand::Wit(_)
        | PluginCommand::Pack(_)
        | PluginCommand::Inspect { .. }
        | PluginCommand::Keygen(_)
        | PluginCommand::Sign(_)
        | PluginCommand::Verify(_)
        | PluginCommand::Push(_)
        | PluginCommand::Publish(_) => {}
        PluginCommand::List => list(&client, output).await?,
        PluginCommand::Revisions { plugin } => revisions::list(plugin, &client, output).await?,
        PluginCommand::Status { plugin } => revisions::status(plugin, &client, output).await?,
        PluginCommand::Sql { plugin } => sql::run(plugin, &client, output).await?,
        PluginCommand::History { plugin } => revisions::history(plugin, &client, output).await?,
        PluginCommand::Diff { plugin, from, to } => {
            revisions::diff(plugin, TwoRevisions { from, to }, &client, output).await?;
        }
        PluginCommand::Activate {
            plugin,
            digest,
            grant,
            ..
        } => {
            let activated = client.activate(&plugin, &digest, grant).await?;
            output.done(&describe(&activated.data), &activated.raw);
        }
        PluginCommand::Grants { plugin } => grants(plugin, &client, output).await?,
        PluginCommand::Grant {
            plugin, asks, all, ..
        } => grant(&plugin, asks, all, &client, output).await?,
        PluginCommand::Revoke { plugin, asks, .. } => {
            let body = Json(Asks {
                asks: asks.iter().map(Ask::new).collect(),
            });
            client
                .ask::<PluginsRevoke>(path(&plugin), none, body)
                .await?;
            let words: Vec<&str> = asks.iter().map(String::as_str).collect();
            let undo = arguments(&[&[plugin.as_str()], words.as_slice()].concat());
            let message = format!(
                "Revoked from {plugin}. New calls are denied:\n{}\nUndo: patchbay plugin grant {undo}",
                asks.join("\n")
            );
            output.done(&message, &json!({ "plugin": plugin, "revoked": asks }));
        }
        PluginCommand::Call(call) => operation::run(call, &client, output).await?,
        PluginCommand::Rollback { plugin, .. } => {
            let activated = client
                .ask::<PluginsRollback>(path(&plugin), none, NoBody)
                .await?;
            output.done(&describe(&activated.data), &activated.raw);
        }
        PluginCommand::Release { plugin, reason } => {
            let released = client
                .ask::<PluginsRelease>(path(&plugin), none, Json(Release { reason }))
                .await?;
            let digest = short(&released.data.digest.to_string());
            output.done(
                &format!("Released: {plugin} {digest} takes calls again"),
                &released.raw,
            );
        }
        PluginCommand::Deactivate { plugin, consent } => {
            deactivate(plugin, &consent, &client, output).await?
        }
        PluginCommand::Delete {
            plugin,
            digest,
            consent,
        } => delete(plugin, digest, &consent, &client, output).await?,
        PluginCommand::Prune { dry_run, consent } => {
            revisions::prune(dry_run, &consent, &client, output).await?
        }
        PluginCommand::Settings(command) => settings(command, &client, output).await?,
    }
    Ok(())
}

fn path(plugin: &str) -> PluginPath {
    PluginPath {
        name: plugin.to_owned(),
    }
}

async fn deactivate(
    plugin: String,
    consent: &Consent,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let none = NoQuery {};
    let plugins = client.ask::<PluginsList>((), none, NoBody).await?;
    let found = plugins.data.iter().find(|summary| summary.name == plugin);
    let queues = client.ask::<QueuesList>((), none, NoBody).await?;
    let own = |queue: &&QueueOverview| {
        found.is_some_and(|summary| summary.queues.iter().any(|own| own == queue.name.as_str()))
    };
    let waiting = queues.data.iter().filter(own).map(|queue| &queue.counts);
    let waiting: u64 = waiting
        .map(|counts| counts.waiting + counts.prioritized)
        .sum();
    let waiting = counted(waiting, "job");
    // Of an unknown plugin, the host says so.
    if found.is_some() {
        consent.ask(&format!(
            "This stops {plugin} on all hosts. Its queues wait, with {waiting} now, until a revision is activated. Its routes answer 404. What vendors send to its webhooks is kept as deferred, or refused with 503 where the manifest says so"
        ))?;
    }
    client
        .ask::<PluginsDeactivate>(path(&plugin), none, NoBody)
        .await?;
    let is_last = |summary: &&PluginSummary| summary.active || summary.quarantined.is_some();
    let undo = found.filter(is_last).map_or_else(
        || format!("patchbay plugin revisions {plugin}"),
        |summary| {
            format!(
                "patchbay plugin activate {plugin} {}",
                short(&summary.digest)
            )
        },
    );
    let queues = match found.is_some_and(|summary| summary.queues.is_empty()) {
        true => "",
        false => " Its queues wait.",
    };
    output.done(
        &format!("Deactivated: {plugin}.{queues} Undo: {undo}"),
        &json!({ "plugin": plugin, "active": false }),
    );
    Ok(())
}

async fn delete(
    plugin: String,
    digest: String,
    consent: &Consent,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let revisions = client
        .ask::<PluginsRevisions>(path(&plugin), NoQuery {}, NoBody)
        .await?;
    let named = revisions
        .data
        .iter()
        .find(|revision| revision.digest.starts_with(&digest));
    let what = named.map_or_else(
        || digest.clone(),
        |revision| format!("{} {}", revision.version, short(&revision.digest)),
    );
    let is_other = |revision: &&RevisionSummary| {
        !revision.digest.starts_with(&digest) && revision.state != "active"
    };
    let left = revisions.data.iter().filter(is_other).count();
    let consequence = match (revisions.data.len(), left) {
        (1, _) => {
            ". It is the last revision of the plugin, and the grants of the plugin go with it; its history is kept"
        }
        (_, 0) => ". No revision is left to roll back to",
        _ => "",
    };
    // Of an unknown revision, the host says so.
    if named.is_some() {
        consent.ask(&format!(
            "This deletes revision {what} of {plugin}{consequence}"
        ))?;
    }
    let revision = RevisionPath {
        name: plugin.clone(),
        digest,
    };
    let deleted = client
        .ask::<PluginsDelete>(revision, NoQuery {}, NoBody)
        .await?;
    output.done(
        &format!("Deleted: revision {} of {plugin}", short(&deleted.data)),
        &deleted.raw,
    );
    Ok(())
}

async fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let plugins = client.ask::<PluginsList>((), NoQuery {}, NoBody).await?;
    let state = |plugin: &PluginSummary| match (&plugin.failure, plugin.active) {
        _ if plugin.quarantined.is_some() => "quarantined".into(),
        (Some(failure), _) => format!("failing: {failure}"),
        (None, true) => "active".into(),
        (None, false) => "inactive".into(),
    };
    // These columns are only shown if a plugin has such values; most plugins have none.
    let (routes, webhooks) = (
        plugins.data.iter().any(|plugin| !plugin.routes.is_empty()),
        plugins
            .data
            .iter()
            .any(|plugin| !plugin.webhooks.is_empty()),
    );
    let rows = plugins.data.iter().map(|plugin| {
        let mut row = vec![
            plugin.name.clone(),
            plugin.version.clone(),
            short(&plugin.digest),
            state(plugin),
            format!("{} of {}", plugin.hosts.running, plugin.hosts.of),
            plugin.revisions.to_string(),
            plugin.queues.join(", "),
        ];
        row.extend(routes.then(|| listed(&plugin.routes, "patchbay route list")));
        row.extend(webhooks.then(|| listed(&plugin.webhooks, "patchbay webhook list")));
        row
    });
    let mut head = vec![
        "PLUGIN",
        "VERSION",
        "DIGEST",
        "STATE",
        "HOSTS",
        "REVISIONS",
        "QUEUES",
    ];
    head.extend(routes.then_some("ROUTES"));
    head.extend(webhooks.then_some("WEBHOOKS"));
    let none = "No plugins. Push one: patchbay plugin push FILE";
    output.table_or(none, &head, rows.collect(), &plugins.raw);
    Ok(())
}

/// One path as it is; of more, how many there are and what lists them.
fn listed(paths: &[String], command: &str) -> String {
    match paths {
        [] | [_] => paths.concat(),
        paths => format!("{}: {command}", paths.len()),
    }
}

async fn grants(plugin: String, client: &Client, output: Output) -> anyhow::Result<()> {
    let grants = client
        .ask::<PluginsGrants>(path(&plugin), NoQuery {}, NoBody)
        .await?;
    let rows = grants.data.into_iter().map(|grant| {
        let asked = match (grant.asked_by_active, grant.asked_by_newest) {
            (true, _) => "yes",
            (false, true) => "by the newest revision",
            (false, false) => "no",
        };
        let granted = grant
            .granted_by
            .map_or("no".into(), |by| format!("by {by}"));
        let last_used = grant.last_used.unwrap_or_default();
        vec![
            grant.ask.as_str().to_owned(),
            asked.into(),
            granted,
            grant.uses.to_string(),
            last_used,
        ]
    });
    output.table_or(
        "The plugin asks for nothing, and nothing is granted to it",
        &["ASK", "ASKED FOR", "GRANTED", "USES (30 DAYS)", "LAST USED"],
        rows.collect(),
        &grants.raw,
    );
    Ok(())
}

async fn grant(
    plugin: &str,
    asks: Vec<String>,
    all: bool,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let asks: Vec<Ask> = if all {
        let grants = client
            .ask::<PluginsGrants>(path(plugin), NoQuery {}, NoBody)
            .await?;
        grants
            .data
            .into_iter()
            .filter(|grant| grant.granted_by.is_none())
            .map(|grant| grant.ask)
            .collect()
    } else {
        asks.into_iter().map(Ask::new).collect()
    };
    client
        .ask::<PluginsGrant>(path(plugin), NoQuery {}, Json(Asks { asks: asks.clone() }))
        .await?;
    let lines: Vec<&str> = asks.iter().map(Ask::as_str).collect();
    let text = match asks.is_empty() {
        true => format!("Nothing to grant: {plugin} has everything that it asks for"),
        false => format!("Granted to {plugin}:\n{}", lines.join("\n")),
    };
    output.done(&text, &json!({ "plugin": plugin, "granted": asks }));
    Ok(())
}

async fn settings(command: SettingsCommand, client: &Client, output: Output) -> anyhow::Result<()> {
    let get = async |plugin: &str, reveal: Reveal| {
        client
            .ask::<PluginsSettings>(path(plugin), reveal, NoBody)
            .await
    };
    let (plugin, value) = match command {
        SettingsCommand::Get { plugin, reveal } => {
            let settings = get(&plugin, reveal.into()).await?;
            output.value(&indented(settings.raw.get()), &settings.raw);
            return Ok(());
        }
        SettingsCommand::Set {
            plugin, changes, ..
        } => {
            let mut settings = get(&plugin, Reveal::default()).await?.data;
            if mark_in(&settings.to_string()).is_some() {
                // The present values are needed in full: hidden ones must not change.
                let reveal = Reveal {
                    reveal: true,
                    reason: Some("patchbay plugin settings set".into()),
                };
                settings = get(&plugin, reveal).await?.data;
            }
            for change in changes {
                let Some((name, value)) = change.split_once('=') else {
                    return Err(Refusal(format!("{change:?}: must be NAME=VALUE")).into());
                };
                if value.is_empty() {
                    settings
                        .as_object_mut()
                        .map(|settings| settings.remove(name));
                } else {
                    settings[name] = serde_json::from_str(value).unwrap_or_else(|_| value.into());
                }
            }
            (plugin, settings)
        }
        SettingsCommand::Replace { plugin, file, .. } => {
            let text = if file == Path::new("-") {
                std::io::read_to_string(std::io::stdin())?
            } else {
                std::fs::read_to_string(&file)
                    .with_context(|| format!("cannot read {}", file.display()))?
            };
            (plugin, serde_json::from_str(&text).context("not JSON")?)
        }
    };
    client
        .ask::<PluginsSetSettings>(
            path(&plugin),
            NoQuery {},
            AnyDocument(to_raw_value(&value)?),
        )
        .await?;
    output.done(
        &format!("Changed: the settings of {plugin}. They apply from the next call on"),
        &value,
    );
    Ok(())
}
