//! `patchbay token …`: tokens of programs.

use clap::{Args, Subcommand};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::operators::{
    NewToken, OperatorToken, OperatorTokensCreate, OperatorTokensList, OperatorTokensRevoke,
    TokenPath, TokensQuery,
};

use super::client::{Client, ClientArgs, ClientError};
use super::operator::{Role, yes};
use super::output::Output;
use super::refusal::{Consent, Why};

/// The host lists no more.
const MOST_LISTED: usize = 1_000;

#[derive(Subcommand)]
pub enum TokenCommand {
    /// Create a token of yours for a program; its secret is shown once
    Create(CreateArgs),
    /// List tokens that can be used
    List {
        /// Those of this operator; for an owner
        #[arg(long, conflicts_with = "all")]
        operator: Option<String>,
        /// Those of every operator; for an owner
        #[arg(long)]
        all: bool,
    },
    /// Revoke a token at once, on every host
    Revoke {
        /// Id of the token, or the name of one of yours
        #[arg(value_name = "TOKEN")]
        id_or_name: String,
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Args)]
pub struct CreateArgs {
    /// What it is for, such as prometheus
    name: String,
    /// What it opens, such as metrics:read, plugins:write or owner:secrets; several times or with
    /// commas
    #[arg(long = "scope", required = true, value_delimiter = ',')]
    scopes: Vec<String>,
    /// Its role, at most yours [default: yours, but not owner]
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// It may see data, results and logs of jobs
    #[arg(long)]
    data: bool,
    /// Days until it expires [default: 90]
    #[arg(long)]
    days: Option<u16>,
    /// Network that it may come from, such as 10.0.0.0/8; several times or with commas
    #[arg(long = "network", value_delimiter = ',')]
    networks: Vec<String>,
    #[command(flatten)]
    why: Why,
}

impl TokenCommand {
    /// Whether it only reads, so that it can be repeated.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::List { .. })
    }

    fn why(&self) -> Why {
        match self {
            Self::Create(args) => args.why.clone(),
            Self::Revoke { consent, .. } => consent.why.clone(),
            Self::List { .. } => Why::default(),
        }
    }
}

pub(crate) async fn run(
    command: TokenCommand,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let client = Client::from_args(args)?.because(&command.why());
    match command {
        TokenCommand::Create(create) => {
            let new = NewToken {
                name: create.name,
                role: create.role.map(Into::into),
                may_see_data: create.data.then_some(true),
                scopes: create.scopes,
                networks: create.networks,
                days: create.days,
            };
            let made = client
                .ask::<OperatorTokensCreate>((), NoQuery {}, Json(new))
                .await?;
            let token = &made.data.token;
            let text = format!(
                "Created: token {} ({}), expires {}\nThe secret, never shown again:\n  {}\nThe program sends it as Authorization: Bearer; patchbay itself \
                 reads it from PATCHBAY_TOKEN",
                token.name,
                token.role,
                output.when(token.expires_at),
                made.data.secret
            );
            output.made(&made.data.secret, &text, &made.raw);
        }
        TokenCommand::List { operator, all } => {
            let query = TokensQuery {
                operator,
                all: all.then_some(true),
            };
            let listed = client.ask::<OperatorTokensList>((), query, NoBody).await?;
            let rows = listed.data.iter().map(|token| row(token, output));
            let head = [
                "ID",
                "NAME",
                "OPERATOR",
                "ROLE",
                "SCOPES",
                "SEES DATA",
                "NETWORKS",
                "LAST USED",
                "EXPIRES",
            ];
            output.table_or("No tokens", &head, rows.collect(), &listed.raw);
        }
        TokenCommand::Revoke {
            id_or_name,
            consent,
        } => {
            if consent.is_missing()
                && let Some(token) = usable(&id_or_name, &client).await?
            {
                consent.ask(&format!(
                    "The program that uses the token {token} is refused from now on"
                ))?;
            }
            let path = TokenPath { token: id_or_name };
            let done = client
                .ask::<OperatorTokensRevoke>(path, NoQuery {}, NoBody)
                .await?;
            let (name, of) = (&done.data.name, &done.data.operator);
            let text = match done.data.already {
                true => format!("Token {name} of {of} was already revoked. Nothing has changed"),
                false => format!("Revoked: token {name} of {of}"),
            };
            output.done(&text, &done.raw);
        }
    }
    Ok(())
}

/// The token that is meant, in words, if it can be used. Of others nothing needs to be asked: the host
/// says that there is none, or that it was revoked.
async fn usable(id_or_name: &str, client: &Client) -> anyhow::Result<Option<String>> {
    let own = client
        .ask::<OperatorTokensList>((), TokensQuery::default(), NoBody)
        .await?;
    let is_meant = |token: &OperatorToken| token.id == id_or_name || token.name == id_or_name;
    if let Some(token) = own.data.iter().find(|token| is_meant(token)) {
        return Ok(Some(in_words(token)));
    }
    let all = TokensQuery {
        operator: None,
        all: Some(true),
    };
    match client.ask::<OperatorTokensList>((), all, NoBody).await {
        Ok(all) => {
            let found = all.data.iter().find(|token| token.id == id_or_name);
            let is_whole = all.data.len() < MOST_LISTED;
            Ok(found
                .map(in_words)
                .or_else(|| (!is_whole).then(|| id_or_name.to_owned())))
        }
        // The caller may revoke only what is the caller's.
        Err(ClientError::Refused { status: 403, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn in_words(token: &OperatorToken) -> String {
    format!("{} ({}) of {}", token.name, token.id, token.operator)
}

fn row(token: &OperatorToken, output: Output) -> Vec<String> {
    vec![
        token.id.clone(),
        token.name.clone(),
        token.operator.clone(),
        token.role.to_string(),
        token.scopes.join(", "),
        yes(token.may_see_data),
        match token.networks.is_empty() {
            true => "any".to_owned(),
            false => token.networks.join(", "),
        },
        token
            .last_used_at
            .map_or_else(|| "never".to_owned(), |at| output.when(at)),
        output.when(token.expires_at),
    ]
}
