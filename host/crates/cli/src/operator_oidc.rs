//! `patchbay operator oidc …`: single sign-on.

use clap::Subcommand;
use patchbay_api::body::NoBody;
use patchbay_api::oidc::{OidcProvider, OidcStatusShow, OidcTest, OidcUnlink};
use patchbay_api::operation::NoQuery;
use patchbay_model::words::counted;

use super::client::Client;
use super::output::Output;
use super::refusal::{Consent, Why};

#[derive(Subcommand)]
pub enum OidcCommand {
    /// Show whether single sign-on is on, what groups give, and to whom you are linked
    Status,
    /// Ask the provider what it offers, and say what does not fit; nobody is signed in
    Test,
    /// Unlink yourself from the provider: only name and password open a session then
    Unlink {
        #[command(flatten)]
        consent: Consent,
    },
}

impl OidcCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Status | Self::Test)
    }

    pub(super) fn why(&self) -> Why {
        match self {
            Self::Unlink { consent } => consent.why.clone(),
            Self::Status | Self::Test => Why::default(),
        }
    }
}

pub(super) async fn run(
    command: OidcCommand,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    match command {
        OidcCommand::Status => status(client, output).await,
        OidcCommand::Test => test(client, output).await,
        OidcCommand::Unlink { consent } => {
            if consent.is_missing() {
                let shown = client.ask::<OidcStatusShow>((), NoQuery {}, NoBody).await?;
                if !shown.data.identities.is_empty() {
                    consent.ask("After this, you can sign in only with name and password")?;
                }
            }
            let done = client.ask::<OidcUnlink>((), NoQuery {}, NoBody).await?;
            let count = counted(done.data.count, "person");
            output.done(&format!("Unlinked from {count} at the provider"), &done.raw);
            Ok(())
        }
    }
}

async fn status(client: &Client, output: Output) -> anyhow::Result<()> {
    let shown = client.ask::<OidcStatusShow>((), NoQuery {}, NoBody).await?;
    let mut lines = match &shown.data.provider {
        Some(provider) => of_provider(provider),
        None => {
            vec!["Single sign-on is off. To change that, set operators.oidc.issuer".to_owned()]
        }
    };
    for identity in &shown.data.identities {
        lines.push(format!(
            "you are   {} ({}), linked {}",
            identity.subject,
            identity.email.as_deref().unwrap_or("no address"),
            output.when(identity.linked_at),
        ));
    }
    output.value(&lines.join("\n"), &shown.raw);
    Ok(())
}

fn of_provider(provider: &OidcProvider) -> Vec<String> {
    let factor = match provider.require_amr.is_empty() {
        true => "this host's own, unless operators.require_totp is false".to_owned(),
        false => format!("the provider's: {}", provider.require_amr.join(" or ")),
    };
    let mut lines = vec![
        format!("{}  {}", provider.label, provider.issuer),
        format!("client    {}", provider.client_id),
        format!("register  {}", provider.redirect_uri),
        format!("groups    in the claim {}", provider.groups_claim),
    ];
    for given in &provider.roles {
        lines.push(format!("  {}: {}", given.group, given.role));
    }
    for group in &provider.payload_groups {
        lines.push(format!("  {group}: may see data of jobs"));
    }
    lines.push(format!("second factor: {factor}"));
    lines
}

async fn test(client: &Client, output: Output) -> anyhow::Result<()> {
    let tested = client.ask::<OidcTest>((), NoQuery {}, NoBody).await?;
    let data = &tested.data;
    let announced = |names: &Option<Vec<String>>| match names {
        Some(names) => names.join(", "),
        None => "not announced".to_owned(),
    };
    let mut lines = vec![
        format!("provider    {}", data.issuer),
        format!("register    {}", data.redirect_uri),
        format!("login       {}", data.authorization_endpoint),
        format!(
            "logout      {}",
            data.end_session_endpoint
                .as_deref()
                .unwrap_or("not offered")
        ),
        format!(
            "keys        {}, with {}",
            data.keys,
            data.algorithms.join(", ")
        ),
        format!("scopes      {}", announced(&data.scopes)),
        format!("claims      {}", announced(&data.claims)),
        format!(
            "names itself in its answers (RFC 9207): {}",
            if data.names_issuer { "yes" } else { "no" }
        ),
    ];
    match data.problems.is_empty() {
        true => lines.push("No problem found. Next: sign in with a browser".to_owned()),
        false => lines.extend(
            data.problems
                .iter()
                .map(|problem| format!("Problem: {problem}")),
        ),
    }
    output.value(&lines.join("\n"), &tested.raw);
    Ok(())
}
