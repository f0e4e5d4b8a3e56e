//! `patchbay vendor-key …`: keys with which programs of vendors call the API.

use clap::{Args, Subcommand};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::vendor_keys::{
    IssuedVendorKey, NewVendorKey, VendorKey, VendorKeyChange, VendorKeyPath, VendorKeyRotation,
    VendorKeyState, VendorKeysDisable, VendorKeysEdit, VendorKeysEnable, VendorKeysIssue,
    VendorKeysList, VendorKeysQuery, VendorKeysRevoke, VendorKeysRotate, VendorKeysShow,
};
use patchbay_model::words::counted;

use super::client::{Client, ClientArgs, Received};
use super::input::{milliseconds, whole};
use super::output::Output;
use super::paging::Paging;
use super::refusal::{Consent, Refusal, Why};

const MAX_OVERLAP_MS: u64 = 30 * 86_400_000;
const MAX_LIFE_MS: u64 = 3_650 * 86_400_000;

#[derive(Subcommand)]
pub enum VendorKeyCommand {
    /// List keys of vendors, the newest first; the keys are never shown
    List(ListArgs),
    /// Show a key: scopes, limit, state, and its use on each of the last 30 days
    Show {
        /// The 12 characters of the key after vk_live_
        key: String,
    },
    /// Issue a key to a vendor. It is printed once and never shown again
    Issue(IssueArgs),
    /// Issue a key in the place of another one, which goes on for a while
    Rotate {
        /// The 12 characters of the key after vk_live_
        key: String,
        /// How long the present key goes on: 0 to 30 days [default: 24h]
        #[arg(long, value_name = "TIME", value_parser = milliseconds(0, MAX_OVERLAP_MS))]
        overlap: Option<u64>,
        #[command(flatten)]
        consent: Consent,
    },
    /// Switch a key off until it is enabled again
    Disable {
        /// The 12 characters of the key after vk_live_
        key: String,
        #[command(flatten)]
        why: Why,
    },
    /// Switch a key on that was disabled
    Enable {
        /// The 12 characters of the key after vk_live_
        key: String,
        #[command(flatten)]
        why: Why,
    },
    /// Revoke a key for good
    Revoke {
        /// The 12 characters of the key after vk_live_
        key: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Change the name, the scopes, the limit or the contact of a key
    Edit(EditArgs),
}

#[derive(Args)]
pub struct ListArgs {
    /// Part of the name or of the contact, in any case
    #[arg(long)]
    text: Option<String>,
    /// Also keys that can never be used again: revoked, expired and replaced ones
    #[arg(long)]
    over: bool,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Args)]
pub struct IssueArgs {
    /// Whose key it is, and what for
    name: String,
    /// What it may do, as leads:write; for several, repeat it
    #[arg(long, value_name = "SCOPE", required = true)]
    scope: Vec<String>,
    /// Most requests in a minute, 1 to 60000 [default: 600]
    #[arg(long, value_name = "NUMBER", value_parser = whole::<u32>(1, 60_000))]
    rate: Option<u32>,
    /// Who looks after the vendor, such as a sales head
    #[arg(long, value_name = "WHO")]
    assigned_to: Option<String>,
    /// When it expires, for example 90d [default: never]
    #[arg(long, value_name = "TIME", value_parser = milliseconds(1_000, MAX_LIFE_MS))]
    expires: Option<u64>,
    #[command(flatten)]
    why: Why,
}

#[derive(Args)]
pub struct EditArgs {
    /// The 12 characters of the key after vk_live_
    key: String,
    /// Another name
    #[arg(long)]
    name: Option<String>,
    /// All scopes that it has from then on; for several, repeat it
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Most requests in a minute, 1 to 60000
    #[arg(long, value_name = "NUMBER", value_parser = whole::<u32>(1, 60_000))]
    rate: Option<u32>,
    /// Who looks after the vendor; an empty text: nobody
    #[arg(long, value_name = "WHO")]
    assigned_to: Option<String>,
    #[command(flatten)]
    why: Why,
}

impl VendorKeyCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::List(_) | Self::Show { .. })
    }

    fn why(&self) -> Why {
        match self {
            Self::Rotate { consent, .. } | Self::Revoke { consent, .. } => consent.why.clone(),
            Self::Disable { why, .. } | Self::Enable { why, .. } => why.clone(),
            Self::Issue(args) => args.why.clone(),
            Self::Edit(args) => args.why.clone(),
            Self::List(_) | Self::Show { .. } => Why::default(),
        }
    }
}

/// The path of a key. Whoever pastes the whole key must not send its secret part in a path.
fn path(key: &str) -> anyhow::Result<VendorKeyPath> {
    let key = key.strip_prefix("vk_live_").unwrap_or(key);
    let key = key.split_once('.').map_or(key, |(prefix, _)| prefix);
    if key.is_empty() {
        return Err(Refusal("Name a key by its 12 characters after vk_live_".into()).into());
    }
    Ok(VendorKeyPath {
        key: key.to_owned(),
    })
}

pub(crate) async fn run(
    command: VendorKeyCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?.because(&command.why());
    let none = NoQuery {};
    match command {
        VendorKeyCommand::List(args) => list(args, &client, output).await?,
        VendorKeyCommand::Show { key } => show(&key, &client, output).await?,
        VendorKeyCommand::Issue(args) => {
            let new = Json(NewVendorKey {
                name: args.name,
                scopes: args.scope,
                assigned_to: args.assigned_to,
                rate_per_min: args.rate,
                expires_in_ms: args.expires,
            });
            let issued = client.ask::<VendorKeysIssue>((), none, new).await?;
            print_issued(&issued, "", output);
        }
        VendorKeyCommand::Rotate {
            key,
            overlap,
            consent,
        } => {
            let path = path(&key)?;
            if overlap == Some(0) && consent.is_missing() {
                let key = found(&key, &client).await?;
                consent.ask(&format!(
                    "This ends key {} of {} at once",
                    key.prefix, key.name
                ))?;
            }
            let rotation = Json(VendorKeyRotation {
                overlap_ms: overlap,
            });
            let old = path.key.clone();
            let issued = client.ask::<VendorKeysRotate>(path, none, rotation).await?;
            let note = match overlap {
                Some(0) => format!("Key {old} has ended. "),
                _ => format!(
                    "Key {old} goes on until the overlap ends: patchbay vendor-key show {old}. "
                ),
            };
            print_issued(&issued, &note, output);
        }
        VendorKeyCommand::Disable { key, .. } => {
            let done = client
                .ask::<VendorKeysDisable>(path(&key)?, none, NoBody)
                .await?;
            said(&done, "Disabled", "was already disabled", output);
        }
        VendorKeyCommand::Enable { key, .. } => {
            let done = client
                .ask::<VendorKeysEnable>(path(&key)?, none, NoBody)
                .await?;
            said(&done, "Enabled", "was not disabled", output);
        }
        VendorKeyCommand::Revoke { key, consent } => {
            if consent.is_missing() {
                let key = found(&key, &client).await?;
                if key.state != VendorKeyState::Revoked {
                    consent.ask(&format!(
                        "This ends key {} of {} for good; programs that use it are refused at once",
                        key.prefix, key.name
                    ))?;
                }
            }
            let done = client
                .ask::<VendorKeysRevoke>(path(&key)?, none, NoBody)
                .await?;
            said(&done, "Revoked", "was already revoked", output);
        }
        VendorKeyCommand::Edit(args) => {
            let change = Json(VendorKeyChange {
                name: args.name,
                scopes: (!args.scope.is_empty()).then_some(args.scope),
                assigned_to: args.assigned_to,
                rate_per_min: args.rate,
            });
            let done = client
                .ask::<VendorKeysEdit>(path(&args.key)?, none, change)
                .await?;
            said(&done, "Changed", "is so already", output);
        }
    }
    Ok(())
}

/// `already`: what the key was, where nothing has changed.
fn said(done: &Received<VendorKey>, what: &str, already: &str, output: Output) {
    let VendorKey { prefix, name, .. } = &done.data;
    let text = match done.data.already {
        true => format!("Key {prefix} of {name} {already}. Nothing has changed"),
        false => format!("{what}: key {prefix} of {name}"),
    };
    output.done(&text, &done.raw);
}

async fn found(key: &str, client: &Client) -> anyhow::Result<VendorKey> {
    let shown = client
        .ask::<VendorKeysShow>(path(key)?, NoQuery {}, NoBody)
        .await?;
    Ok(shown.data.key)
}

fn print_issued(issued: &Received<IssuedVendorKey>, note: &str, output: Output) {
    let (key, secret) = (&issued.data.key, &issued.data.secret.0);
    let text = format!(
        "Issued: key {} of {}. {note}Give it to the vendor now; it is never shown again:\n{}",
        key.prefix, key.name, **secret
    );
    output.made(secret, &text, &issued.raw);
}

async fn list(args: ListArgs, client: &Client, output: Output) -> anyhow::Result<()> {
    let query = |limit, cursor| VendorKeysQuery {
        over: (!args.over).then_some(false),
        text: args.text.clone(),
        cursor,
        limit: Some(limit),
    };
    let page = args
        .paging
        .ask::<VendorKeysList, VendorKey>(client, &(), query)
        .await?;
    let rows = page.items.iter().map(|key| {
        vec![
            key.prefix.clone(),
            key.name.clone(),
            state(key, output),
            key.scopes.join(" "),
            key.last_used_at
                .map_or_else(|| "never".to_owned(), |at| output.when(at)),
            key.rate_per_min.to_string(),
            key.assigned_to.clone().unwrap_or_default(),
            output.when(key.created_at),
        ]
    });
    let head = ["KEY", "NAME", "STATE", "SCOPES", "LAST USE"];
    let wide = ["PER MINUTE", "ASSIGNED TO", "ISSUED"];
    output.list(&head, &wide, rows.collect(), &page.raw, &page.more());
    page.note("key", output);
    Ok(())
}

async fn show(key: &str, client: &Client, output: Output) -> anyhow::Result<()> {
    let shown = client
        .ask::<VendorKeysShow>(path(key)?, NoQuery {}, NoBody)
        .await?;
    let (key, uses) = (&shown.data.key, &shown.data.uses);
    let mut lines = vec![
        format!("{}  {}  {}", key.prefix, key.name, state(key, output)),
        format!("scopes       {}", key.scopes.join(", ")),
        format!(
            "limit        {} a minute",
            counted(u64::from(key.rate_per_min), "request")
        ),
        format!(
            "issued       {} by {}",
            output.when(key.created_at),
            key.created_by
        ),
    ];
    let assigned = key.assigned_to.iter();
    lines.extend(assigned.map(|whom| format!("assigned to  {whom}")));
    if key.changed_at != key.created_at {
        let changed = output.when(key.changed_at);
        lines.push(format!("changed      {changed} by {}", key.changed_by));
    }
    let expires = key.expires_at.iter();
    lines.extend(expires.map(|at| format!("expires      {}", output.when(*at))));
    let next = key.replaced_by.iter();
    lines.extend(next.map(|next| format!("replaced by  {next}")));
    let used = key.last_used_at.map(|at| output.when(at));
    lines.push(format!(
        "last use     {}",
        used.as_deref().unwrap_or("never")
    ));
    if !uses.is_empty() {
        lines.push("Requests by day (UTC) and route:".to_owned());
    }
    lines.extend(uses.iter().map(|used| {
        format!(
            "  {}  {}  {}, {} refused",
            used.day,
            used.route,
            counted(used.calls, "request"),
            used.refused
        )
    }));
    output.value(&lines.join("\n"), &shown.raw);
    Ok(())
}

fn state(key: &VendorKey, output: Output) -> String {
    match (key.state, key.ends_at) {
        (VendorKeyState::Active, _) => "active".to_owned(),
        (VendorKeyState::Ending, Some(at)) => format!("ends {}", output.when(at)),
        (VendorKeyState::Ending, None) => "ending".to_owned(),
        (VendorKeyState::Disabled, _) => "disabled".to_owned(),
        (VendorKeyState::Revoked, _) => "revoked".to_owned(),
        (VendorKeyState::Expired, _) => "expired".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_part_of_a_pasted_key_is_not_sent() {
        for typed in [
            "abcdefghijkl",
            "vk_live_abcdefghijkl",
            "vk_live_abcdefghijkl.secret",
        ] {
            assert_eq!(path(typed).expect("a path").key, "abcdefghijkl");
        }
        assert!(path("vk_live_.secret").is_err());
    }
}
