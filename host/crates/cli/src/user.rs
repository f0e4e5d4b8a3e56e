//! `patchbay user …`: accounts of API clients.

use clap::{Args, Subcommand};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::people::{
    Account, AccountPath, PeopleBlock, PeopleEndSessions, PeopleList, PeopleQuery, PeopleSetRole,
    PeopleShow, PeopleUnblock, RoleChange,
};
use patchbay_model::words::counted;

use super::client::{Client, ClientArgs};
use super::output::Output;
use super::paging::Paging;
use super::refusal::{Consent, Why};

#[derive(Subcommand)]
pub enum UserCommand {
    /// List accounts
    List(ListArgs),
    /// Show an account with its open sessions
    Show {
        /// Id or mail address of the account
        account: String,
    },
    /// Block an account: its sessions end at once, and it cannot log in
    Block {
        /// Id or mail address of the account
        account: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Let a blocked account log in again
    Unblock {
        /// Id or mail address of the account
        account: String,
        #[command(flatten)]
        why: Why,
    },
    /// Give an account another role; its next request has it
    Role {
        /// Id or mail address of the account
        account: String,
        /// One of: user, admin, finance, expert, sales, sales_head, external_hr, batch_lead,
        /// super_mentor, community_manager
        role: String,
        #[command(flatten)]
        why: Why,
    },
    /// Log an account out everywhere: end all its sessions
    Logout {
        /// Id or mail address of the account
        account: String,
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Args)]
pub struct ListArgs {
    /// Part of the address or of the name, in any case
    #[arg(long)]
    text: Option<String>,
    /// Only accounts with this role
    #[arg(long)]
    role: Option<String>,
    /// Only accounts that operators have blocked
    #[arg(long)]
    blocked: bool,
    #[command(flatten)]
    paging: Paging,
}

impl UserCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::List(_) | Self::Show { .. })
    }

    fn why(&self) -> Why {
        match self {
            Self::Block { consent, .. } | Self::Logout { consent, .. } => consent.why.clone(),
            Self::Unblock { why, .. } | Self::Role { why, .. } => why.clone(),
            Self::List(_) | Self::Show { .. } => Why::default(),
        }
    }
}

pub(crate) async fn run(
    command: UserCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?.because(&command.why());
    let (none, path) = (NoQuery {}, |account: &str| AccountPath {
        account: account.to_owned(),
    });
    match command {
        UserCommand::List(args) => list(args, &client, output).await?,
        UserCommand::Show { account } => show(&account, &client, output).await?,
        UserCommand::Block { account, consent } => {
            if consent.is_missing() {
                let found = found(&account, &client).await?;
                if found.blocked_at.is_none() {
                    consent.ask(&format!(
                        "This ends every session of {}, and the account cannot log in until it is unblocked",
                        found.email
                    ))?;
                }
            }
            let done = client
                .ask::<PeopleBlock>(path(&account), none, NoBody)
                .await?;
            let email = &done.data.email;
            let text = match (done.data.already, &done.data.blocked_by) {
                (true, Some(by)) => {
                    format!("{email} was already blocked by {by}. Nothing has changed")
                }
                (true, None) => format!("{email} was already blocked. Nothing has changed"),
                (false, _) => format!("Blocked: {email}"),
            };
            output.done(&text, &done.raw);
        }
        UserCommand::Unblock { account, .. } => {
            let done = client
                .ask::<PeopleUnblock>(path(&account), none, NoBody)
                .await?;
            let email = &done.data.email;
            let text = match done.data.already {
                true => format!("{email} was not blocked. Nothing has changed"),
                false => format!("Unblocked: {email}"),
            };
            output.done(&text, &done.raw);
        }
        UserCommand::Role { account, role, .. } => {
            let change = Json(RoleChange { role });
            let done = client
                .ask::<PeopleSetRole>(path(&account), none, change)
                .await?;
            let Account { email, role, .. } = &done.data;
            let text = match done.data.already {
                true => format!("{email} had the role {role}. Nothing has changed"),
                false => format!("{email} has the role {role}"),
            };
            output.done(&text, &done.raw);
        }
        UserCommand::Logout { account, consent } => {
            if consent.is_missing() {
                let found = found(&account, &client).await?;
                consent.ask(&format!("This ends every session of {}", found.email))?;
            }
            let done = client
                .ask::<PeopleEndSessions>(path(&account), none, NoBody)
                .await?;
            let ended = counted(done.data.ended, "session");
            output.done(&format!("Ended: {ended} of {account}"), &done.raw);
        }
    }
    Ok(())
}

async fn found(account: &str, client: &Client) -> anyhow::Result<Account> {
    let path = AccountPath {
        account: account.to_owned(),
    };
    let shown = client.ask::<PeopleShow>(path, NoQuery {}, NoBody).await?;
    Ok(shown.data.account)
}

async fn list(args: ListArgs, client: &Client, output: Output) -> anyhow::Result<()> {
    let query = |limit, cursor| PeopleQuery {
        text: args.text.clone(),
        role: args.role.clone(),
        blocked: args.blocked.then_some(true),
        cursor,
        limit: Some(limit),
    };
    let page = args
        .paging
        .ask::<PeopleList, Account>(client, &(), query)
        .await?;
    let rows = page.items.iter().map(|account| {
        vec![
            account.email.clone(),
            role(account),
            state(account).to_owned(),
            account.name.clone().unwrap_or_default(),
            account.id.clone(),
        ]
    });
    let head = ["EMAIL", "ROLE", "STATE", "NAME"];
    output.list(&head, &["ID"], rows.collect(), &page.raw, &page.more());
    page.note("account", output);
    Ok(())
}

async fn show(account: &str, client: &Client, output: Output) -> anyhow::Result<()> {
    let path = AccountPath {
        account: account.to_owned(),
    };
    let shown = client.ask::<PeopleShow>(path, NoQuery {}, NoBody).await?;
    let (account, sessions) = (&shown.data.account, &shown.data.sessions);
    let mut lines = vec![
        format!("{}  {}", account.email, state(account)),
        format!("id        {}", account.id),
        format!("role      {}", role(account)),
    ];
    lines.extend(
        account
            .name
            .as_ref()
            .map(|name| format!("name      {name}")),
    );
    if let (Some(at), Some(by)) = (account.blocked_at, &account.blocked_by) {
        let why = account.block_reason.as_deref().unwrap_or("no reason given");
        lines.push(format!("blocked   {} by {by}: {why}", output.when(at)));
    }
    if !account.has_password {
        lines.push("password  none".to_owned());
    }
    lines.push(format!("sessions  {}", sessions.len()));
    for session in sessions {
        lines.push(format!(
            "  {}  {}, last used {}, from {}, on {}",
            session.id,
            session.method,
            output.when(session.last_seen_at),
            session.address.as_deref().unwrap_or("unknown"),
            session.platform,
        ));
    }
    output.value(&lines.join("\n"), &shown.raw);
    Ok(())
}

fn role(account: &Account) -> String {
    match account.has_known_role {
        true => account.role.clone(),
        false => format!("{} (unknown: no rights)", account.role),
    }
}

fn state(account: &Account) -> &'static str {
    match (account.is_blocked, account.is_verified) {
        (true, _) => "blocked",
        (false, true) => "active",
        (false, false) => "not verified",
    }
}
