//! `patchbay login`, `logout` and `whoami`.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Context;
use clap::Args;
use patchbay_api::body::NoBody;
use patchbay_api::operation::NoQuery;
use patchbay_api::operators::{Digits, OperatorLogIn, OperatorSessionEnd, OperatorSessionShow};
use serde_json::json;
use zeroize::Zeroizing;

use super::client::{Client, ClientArgs, Login};
use super::kept_session::KeptSession;
use super::output::Output;
use super::refusal::Refusal;
use super::secret::hidden_line;

/// Length of a code of an authenticator; a recovery code is longer.
const CODE_LENGTH: usize = 6;

#[derive(Args)]
pub struct LoginArgs {
    /// Name of the operator [default: PATCHBAY_USER, or asked for]
    name: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// The present code of the authenticator, or a recovery code; empty: none
    #[arg(long, env = "PATCHBAY_CODE", hide_env_values = true)]
    code: Option<String>,
}

pub(crate) async fn log_in(
    command: LoginArgs,
    args: &ClientArgs,
    output: Output,
) -> anyhow::Result<()> {
    let url = args.url();
    let client = Client::with(url, Login::Nobody)?;
    let name = match command.name.or_else(|| args.user().map(str::to_owned)) {
        Some(name) => name,
        None => asked("Name: ")?,
    };
    // The variables are often those of the shared login: its password is nobody else's.
    let given = args
        .password()
        .filter(|_| args.user().is_none_or(|user| user == name));
    let password = match given {
        Some(password) if !command.password_stdin => Zeroizing::new(password.to_owned()),
        _ => password_of("Password (not shown): ", command.password_stdin)?,
    };
    let code = match command.code {
        Some(code) => code,
        None => asked("Code of the authenticator, or a recovery code (Enter: none): ")?,
    };
    let code = code.trim().to_owned();
    let is_totp = code.len() == CODE_LENGTH && code.bytes().all(|byte| byte.is_ascii_digit());
    let body = OperatorLogIn {
        name: Some(name),
        password: Some(password.to_string()),
        totp: is_totp.then(|| Digits::Text(code.clone())),
        recovery_code: (!is_totp && !code.is_empty()).then_some(code),
    };
    let (opened, kept) = client.log_in(body).await?;
    kept.keep()?;
    let data = &opened.data;
    let overrides = match args.overrides_session() {
        Some(variables) => {
            format!("\n{variables} override this session: unset what you have set of them")
        }
        None => String::new(),
    };
    let text = format!(
        "Logged in: {} ({}) at {}. The session ends {}, or when it is not used for a while. Log out: patchbay logout{overrides}",
        data.name,
        data.role,
        kept.url,
        output.when(data.ends_at)
    );
    output.done(&text, &opened.raw);
    Ok(())
}

pub(crate) async fn log_out(args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    let url = args.url();
    let Some(kept) = client.session() else {
        KeptSession::forget(&url);
        let message = format!("No session of {url} is kept here, so there is none to end");
        return Err(Refusal(message).into());
    };
    let name = kept.name.clone();
    let ended = client
        .ask::<OperatorSessionEnd>((), NoQuery {}, NoBody)
        .await;
    // It is of no use any more, whatever the host says.
    KeptSession::forget(&url);
    ended?;
    output.done(
        &format!("Logged out: {name} at {url}"),
        &json!({ "name": name }),
    );
    Ok(())
}

pub(crate) async fn who_am_i(args: &ClientArgs, output: Output) -> anyhow::Result<()> {
    let client = Client::from_args(args)?;
    let shown = client
        .ask::<OperatorSessionShow>((), NoQuery {}, NoBody)
        .await?;
    let who = &shown.data;
    let by = match (who.credential.as_str(), &who.token) {
        ("basic", _) => "the shared login of the configuration (admin.username)".to_owned(),
        (_, Some(token)) => format!("the token {token}"),
        (other, None) => format!("a {other}"),
    };
    let mut lines = vec![
        format!("{}  {}", who.name, who.role),
        format!("by      {by}"),
        format!(
            "data    {}",
            match who.may_see_data {
                true => "data, results and logs of jobs are shown",
                false => "data, results and logs of jobs are hidden",
            }
        ),
    ];
    lines.extend(
        who.scopes
            .as_ref()
            .map(|scopes| format!("scopes  {}", scopes.join(", "))),
    );
    output.value(&lines.join("\n"), &shown.raw);
    Ok(())
}

/// A password from standard input or, without echo, from the terminal.
pub(super) fn password_of(question: &str, from_stdin: bool) -> anyhow::Result<Zeroizing<String>> {
    let mut password = if from_stdin {
        let mut line = Zeroizing::new(String::new());
        std::io::stdin()
            .lock()
            .read_line(&mut line)
            .context("standard input")?;
        line
    } else if std::io::stdin().is_terminal() {
        hidden_line(question)?
    } else {
        return Err(Refusal(
            "The password cannot be asked for here. Give it with --password-stdin, or in PATCHBAY_PASSWORD"
                .into(),
        )
        .into());
    };
    while password.ends_with(['\n', '\r']) {
        password.pop();
    }
    Ok(password)
}

/// An answer that may be shown. Without a terminal there is none.
pub(super) fn asked(question: &str) -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        return Ok(String::new());
    }
    eprint!("{question}");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}
