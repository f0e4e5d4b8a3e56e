//! `patchbay operator …`: operators as people.

use clap::{Args, Subcommand, ValueEnum};
use patchbay_api::body::{Credentials, Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::operators::{
    BasicChange, Digits, EnrolmentCompletion, InvitedOperator, Link, NewOperator, OperatorBasicSet,
    OperatorBasicShow, OperatorDataChange, OperatorEnrolmentBegin, OperatorEnrolmentComplete,
    OperatorPath, OperatorRoleChange, OperatorView, OperatorsCreate, OperatorsDisable,
    OperatorsEnable, OperatorsEndSessions, OperatorsLink, OperatorsList, OperatorsSetData,
    OperatorsSetRole, OperatorsShow,
};
use patchbay_model::operator::OperatorRole;
use patchbay_model::words::counted;

use super::client::{Client, ClientArgs, Login, Received};
use super::operator_oidc::{self, OidcCommand};
use super::output::Output;
use super::refusal::{Consent, Refusal, Why};
use super::session::{asked, password_of};

/// State of an operator who cannot log in.
const DISABLED: &str = "disabled";

#[derive(Subcommand)]
pub enum OperatorCommand {
    /// List operators
    List,
    /// Show an operator with the open sessions
    Show {
        /// Name of the operator
        name: String,
    },
    /// Create an operator; prints a link, valid once for 24 hours, to set password and second factor
    Create {
        /// Name of the person: a-z, 0-9, dot, underscore and hyphen. It is recorded of everything
        /// that this person does, and never used again
        name: String,
        /// What the operator may do
        #[arg(long, value_enum)]
        role: Role,
        /// Mail address, for people to read
        #[arg(long)]
        email: Option<String>,
        /// The operator may see data, results and logs of jobs
        #[arg(long)]
        data: bool,
        #[command(flatten)]
        why: Why,
    },
    /// Give an operator another role; the next request has it
    Role {
        /// Name of the operator
        name: String,
        #[arg(value_enum)]
        role: Role,
        #[command(flatten)]
        why: Why,
    },
    /// Set whether an operator may see data, results and logs of jobs
    Data {
        /// Name of the operator
        name: String,
        #[arg(value_enum)]
        may: Switch,
        #[command(flatten)]
        why: Why,
    },
    /// Disable an operator: sessions, tokens and links end at once
    Disable {
        /// Name of the operator
        name: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Let a disabled operator log in again
    Enable {
        /// Name of the operator
        name: String,
        #[command(flatten)]
        why: Why,
    },
    /// Print a link with which an operator sets another password and second factor
    Link {
        /// Name of the operator
        name: String,
        #[command(flatten)]
        why: Why,
    },
    /// Log an operator out everywhere: end all sessions
    Logout {
        /// Name of the operator
        name: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Show or set what the shared login of the configuration (admin.username) opens
    Basic {
        #[arg(value_enum)]
        mode: Option<Mode>,
        #[command(flatten)]
        why: Why,
    },
    /// Show and test single sign-on
    #[command(subcommand)]
    Oidc(OidcCommand),
    /// Use a link: set password and second factor, and get recovery codes
    Enrol(EnrolArgs),
    /// Without a running host, on a machine with the database and the master key: end everything of an
    /// operator, and print a new link
    Recover(RecoverArgs),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Sees
    Viewer,
    /// Runs queues, and replaces plugins within the rights that they have
    Operator,
    /// Gives rights to people, plugins and secrets, and deletes for good
    Owner,
}

impl From<Role> for OperatorRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
            Role::Owner => Self::Owner,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Everything, as an owner
    On,
    /// Only Bull Board and metrics
    Board,
    /// Nothing
    Off,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Board => "board",
            Self::Off => "off",
        }
    }
}

#[derive(Args)]
pub struct EnrolArgs {
    /// The link: pbe_ and 43 characters
    link: String,
    /// Only show the secret of the second factor; the link can be used afterwards
    #[arg(long)]
    show: bool,
    /// Read the password from standard input
    #[arg(long, conflicts_with = "show")]
    password_stdin: bool,
    /// The code that the authenticator shows now; empty: no second factor
    #[arg(
        long,
        env = "PATCHBAY_CODE",
        hide_env_values = true,
        conflicts_with = "show"
    )]
    code: Option<String>,
}

#[derive(Args)]
pub struct RecoverArgs {
    /// Name of the operator
    pub name: String,
    /// The shared login of the configuration (admin.username) opens everything again
    #[arg(long)]
    pub basic_on: bool,
    #[command(flatten)]
    pub consent: Consent,
}

impl RecoverArgs {
    /// Asks before anything is ended.
    pub fn ask(&self) -> anyhow::Result<()> {
        let name = &self.name;
        let basic = match self.basic_on {
            true => ", and opens the API for everybody who knows the shared login",
            false => "",
        };
        self.consent.ask(&format!(
            "This ends every session and token of {name}{basic}. It stands in the audit trail"
        ))
    }
}

impl OperatorCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        match self {
            Self::Oidc(command) => command.is_read(),
            Self::List | Self::Show { .. } | Self::Basic { mode: None, .. } => true,
            _ => false,
        }
    }

    fn why(&self) -> Why {
        match self {
            Self::Create { why, .. }
            | Self::Role { why, .. }
            | Self::Data { why, .. }
            | Self::Enable { why, .. }
            | Self::Link { why, .. }
            | Self::Basic { why, .. } => why.clone(),
            Self::Disable { consent, .. } | Self::Logout { consent, .. } => consent.why.clone(),
            Self::Oidc(command) => command.why(),
            Self::List | Self::Show { .. } | Self::Enrol(_) | Self::Recover(_) => Why::default(),
        }
    }
}

fn path(name: &str) -> OperatorPath {
    OperatorPath {
        operator: name.to_owned(),
    }
}

pub(crate) async fn run(
    command: OperatorCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?.because(&command.why());
    let none = NoQuery {};
    match command {
        OperatorCommand::List => list(&client, output).await?,
        OperatorCommand::Show { name } => show(&name, &client, output).await?,
        OperatorCommand::Create {
            name,
            role,
            email,
            data,
            ..
        } => {
            let new = NewOperator {
                name,
                email,
                role: role.into(),
                may_see_data: data.then_some(true),
            };
            let made = client.ask::<OperatorsCreate>((), none, Json(new)).await?;
            let OperatorView { name, role, .. } = &made.data.operator;
            print_link(
                &format!("Created: {name} ({role})"),
                &made,
                &args.url(),
                output,
            );
        }
        OperatorCommand::Role { name, role, .. } => {
            let change = Json(OperatorRoleChange { role: role.into() });
            let done = client
                .ask::<OperatorsSetRole>(path(&name), none, change)
                .await?;
            let OperatorView {
                name,
                role,
                already,
                ..
            } = &done.data;
            let text = match already {
                true => format!("{name} had the role {role}. Nothing has changed"),
                false => format!("{name} has the role {role}"),
            };
            output.done(&text, &done.raw);
        }
        OperatorCommand::Data { name, may, .. } => {
            let change = Json(OperatorDataChange {
                may_see_data: may == Switch::On,
            });
            let done = client
                .ask::<OperatorsSetData>(path(&name), none, change)
                .await?;
            let may = match done.data.may_see_data {
                true => "may see data of jobs",
                false => "may not see data of jobs",
            };
            let unchanged = match done.data.already {
                true => ". Nothing has changed: it was so already",
                false => "",
            };
            output.done(&format!("{name} {may}{unchanged}"), &done.raw);
        }
        OperatorCommand::Disable { name, consent } => {
            if consent.is_missing() && state(&name, &client).await? != DISABLED {
                consent.ask(&format!(
                    "This ends every session, token and link of {name}, who cannot log in until enabled again"
                ))?;
            }
            let done = client
                .ask::<OperatorsDisable>(path(&name), none, NoBody)
                .await?;
            let undo = format!("patchbay operator enable {name}; tokens stay revoked");
            let text = match done.data.already {
                true => format!("{name} was already disabled. Nothing has changed. Undo: {undo}"),
                false => format!("Disabled: {name}. Undo: {undo}"),
            };
            output.done(&text, &done.raw);
        }
        OperatorCommand::Enable { name, .. } => {
            let done = client
                .ask::<OperatorsEnable>(path(&name), none, NoBody)
                .await?;
            let state = &done.data.state;
            let text = match done.data.already {
                true => format!("{name} was not disabled ({state}). Nothing has changed"),
                false => format!("Enabled: {name} ({state})"),
            };
            output.done(&text, &done.raw);
        }
        OperatorCommand::Link { name, .. } => {
            let made = client
                .ask::<OperatorsLink>(path(&name), none, NoBody)
                .await?;
            print_link(&format!("A link for {name}"), &made, &args.url(), output);
        }
        OperatorCommand::Logout { name, consent } => {
            if consent.is_missing() {
                state(&name, &client).await?;
                consent.ask(&format!("This ends every session of {name}"))?;
            }
            let done = client
                .ask::<OperatorsEndSessions>(path(&name), none, NoBody)
                .await?;
            let ended = counted(done.data.ended, "session");
            output.done(&format!("Ended: {ended} of {name}"), &done.raw);
        }
        OperatorCommand::Basic { mode, .. } => basic(mode, &client, output).await?,
        OperatorCommand::Oidc(command) => operator_oidc::run(command, &client, output).await?,
        OperatorCommand::Enrol(enrol) => enrolment(enrol, args, output).await?,
        OperatorCommand::Recover(_) => {
            return Err(Refusal("This command needs no host, and is not for one".into()).into());
        }
    }
    Ok(())
}

/// The operator's state; fails where there is no such operator.
async fn state(name: &str, client: &Client) -> anyhow::Result<String> {
    let shown = client
        .ask::<OperatorsShow>(path(name), NoQuery {}, NoBody)
        .await?;
    Ok(shown.data.operator.state)
}

fn print_link(what: &str, made: &Received<InvitedOperator>, url: &str, output: Output) {
    let name = &made.data.operator.name;
    let link = &made.data.link;
    let hours = made.data.valid_for_seconds / 3_600;
    let text = format!(
        "{what}\nThe link, valid once within {hours} hours, and never shown again:\n  {link}\nSend it to {name} over a private channel. {name} then runs:\n  \
         patchbay operator enrol {link} --url {url}"
    );
    output.made(link, &text, &made.raw);
}

async fn basic(mode: Option<Mode>, client: &Client, output: Output) -> anyhow::Result<()> {
    let none = NoQuery {};
    let shown = match mode {
        Some(mode) => {
            let change = BasicChange {
                mode: mode.as_str().to_owned(),
            };
            client
                .ask::<OperatorBasicSet>((), none, Json(change))
                .await?
        }
        None => client.ask::<OperatorBasicShow>((), none, NoBody).await?,
    };
    let basic = &shown.data;
    let opens = match basic.mode.as_str() {
        "on" => "everything, as an owner",
        "board" => "only Bull Board and metrics",
        _ => "nothing",
    };
    let unchanged = match basic.already {
        true => ". Nothing has changed: it was so already",
        false => "",
    };
    let text = format!(
        "The shared login of the configuration (admin.username): {}. It opens {opens}{unchanged}\nOwners: {}, of whom {} signed in",
        basic.mode,
        basic.owners,
        match basic.owners_signed_in {
            1 => "1 has".to_owned(),
            count => format!("{count} have"),
        }
    );
    output.value(&text, &shown.raw);
    Ok(())
}

async fn enrolment(enrol: EnrolArgs, args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::with(args.url(), Login::Nobody)?;
    // Somebody may paste the whole line.
    let link = enrol.link.rsplit('#').next().unwrap_or_default().to_owned();
    let is_asked = enrol.code.is_none();
    if is_asked {
        let body = Credentials(Link {
            link: Some(link.clone()),
        });
        let offer = client
            .ask::<OperatorEnrolmentBegin>((), NoQuery {}, body)
            .await?;
        let data = &offer.data;
        let text = format!(
            "{} ({}){}\nSet up an authenticator with this secret:\n  {}\nor with this address, as a QR code:\n  {}",
            data.name,
            data.role,
            if data.is_reset { ", again" } else { "" },
            data.totp_secret,
            data.totp_uri
        );
        if enrol.show {
            output.value(&text, &offer.raw);
            return Ok(());
        }
        eprintln!("{}", super::plain(&text));
    }
    let password = password_of(
        "New password, at least 12 characters (not shown): ",
        enrol.password_stdin,
    )?;
    if !enrol.password_stdin && password_of("The same again (not shown): ", false)? != password {
        return Err(Refusal("The two passwords differ. Nothing was done".into()).into());
    }
    let code = match enrol.code {
        Some(code) => code,
        None => asked("Code that the authenticator shows now: ")?,
    };
    let code = code.trim();
    let body = Credentials(EnrolmentCompletion {
        link: Some(link),
        password: Some(password.to_string()),
        totp: (!code.is_empty()).then(|| Digits::Text(code.to_owned())),
    });
    let done = client
        .ask::<OperatorEnrolmentComplete>((), NoQuery {}, body)
        .await?;
    let data = &done.data;
    let codes = match data.recovery_codes.is_empty() {
        true => String::new(),
        false => format!(
            "\nRecovery codes, each in place of the second factor once. They are never shown again; keep them in a safe place:\n  {}",
            data.recovery_codes.join("\n  ")
        ),
    };
    let text = format!(
        "Done: {} has the role {}{codes}\nNext, when the authenticator shows another code: patchbay login {}",
        data.name, data.role, data.name
    );
    output.value(&text, &done.raw);
    Ok(())
}

async fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let listed = client.ask::<OperatorsList>((), NoQuery {}, NoBody).await?;
    let rows = listed.data.iter().map(|operator| {
        vec![
            operator.name.clone(),
            operator.role.to_string(),
            operator.state.clone(),
            yes(operator.may_see_data),
            yes(operator.has_second_factor),
            operator
                .last_login_at
                .map_or_else(|| "never".to_owned(), |at| output.when(at)),
            operator.email.clone().unwrap_or_default(),
        ]
    });
    let head = [
        "NAME",
        "ROLE",
        "STATE",
        "SEES DATA",
        "SECOND FACTOR",
        "LAST LOGIN",
        "EMAIL",
    ];
    output.table_or(
        "No operators. Create one: patchbay operator create NAME --role owner",
        &head,
        rows.collect(),
        &listed.raw,
    );
    Ok(())
}

async fn show(name: &str, client: &Client, output: Output) -> anyhow::Result<()> {
    let shown = client
        .ask::<OperatorsShow>(path(name), NoQuery {}, NoBody)
        .await?;
    let (operator, sessions) = (&shown.data.operator, &shown.data.sessions);
    let mut lines = vec![
        format!("{}  {}  {}", operator.name, operator.role, operator.state),
        format!(
            "created         {} by {}",
            output.when(operator.created_at),
            operator.created_by
        ),
        format!("sees data       {}", yes(operator.may_see_data)),
        format!(
            "second factor   {}; {} left",
            yes(operator.has_second_factor),
            counted(shown.data.recovery_codes_left, "recovery code")
        ),
        format!("tokens          {}", shown.data.tokens),
        format!("sessions        {}", sessions.len()),
    ];
    if let Some(email) = &operator.email {
        lines.insert(1, format!("email           {email}"));
    }
    for session in sessions {
        lines.push(format!(
            "  {}  {}, last used {}, from {}, ends {}",
            session.id,
            session.method,
            output.when(session.last_seen_at),
            session.address.as_deref().unwrap_or("unknown"),
            output.when(session.ends_at),
        ));
    }
    output.value(&lines.join("\n"), &shown.raw);
    Ok(())
}

pub(super) fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}
