//! The commands, from the first operator to a token.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use super::*;
use crate::harness::{PASSWORD as SHARED, USER, binary, envelope};

/// `patchbay` as this person runs it: with a home of their own.
struct Shell<'a> {
    host: &'a Host,
    home: tempfile::TempDir,
}

struct Printed {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Shell<'_> {
    async fn run(
        &self,
        args: &[&str],
        env: &[(&str, &str)],
        input: &str,
    ) -> anyhow::Result<Printed> {
        let mut command = tokio::process::Command::new(binary());
        command
            .args(args)
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATCHBAY_URL", &self.host.url)
            .envs(env.iter().copied())
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().context("stdin")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Printed {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        })
    }

    async fn json(
        &self,
        args: &[&str],
        env: &[(&str, &str)],
        input: &str,
    ) -> anyhow::Result<Value> {
        let printed = self.run(&[&["--json"], args].concat(), env, input).await?;
        anyhow::ensure!(printed.code == Some(0), "{args:?}: {}", printed.err);
        Ok(envelope(printed.out.as_bytes())?["data"].take())
    }
}

#[tokio::test]
async fn from_the_first_owner_to_a_token_of_a_program() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&ENV).await?;
    let shell = Shell {
        host: &host,
        home: tempfile::tempdir()?,
    };
    let shared = [("PATCHBAY_USER", USER), ("PATCHBAY_PASSWORD", SHARED)];
    let printed = shell.run(&["whoami"], &[], "").await?;
    assert_eq!(printed.code, Some(4), "{}", printed.err);
    assert!(printed.err.contains("patchbay login"), "{}", printed.err);
    let made = shell
        .run(
            &["operator", "create", "ada", "--role", "owner", "--data"],
            &shared,
            "",
        )
        .await?;
    assert!(
        made.out.starts_with("Created: ada (owner)")
            && made.out.contains("patchbay operator enrol pbe_"),
        "{}{}",
        made.out,
        made.err
    );
    let made = shell
        .json(&["operator", "link", "ada"], &shared, "")
        .await?;
    let link = text(&made["link"]);
    let offer = shell
        .json(&["operator", "enrol", &link, "--show"], &[], "")
        .await?;
    let secret = text(&offer["totpSecret"]);
    let now = chrono::Utc::now().timestamp() / 30;
    let code = totp(&secret, now)?;
    let enrol = [
        "operator",
        "enrol",
        link.as_str(),
        "--password-stdin",
        "--code",
        &code,
    ];
    let done = shell.run(&enrol, &[], &format!("{PASSWORD}\n")).await?;
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(
        done.out.contains("Recovery codes") && done.out.contains("patchbay login ada"),
        "{}",
        done.out
    );
    let again = shell.run(&enrol, &[], &format!("{PASSWORD}\n")).await?;
    assert_eq!(again.code, Some(3), "{}", again.err);
    let code = totp(&secret, now + 1)?;
    let log_in = ["login", "ada", "--password-stdin"];
    let wrong = shell
        .run(&log_in, &[("PATCHBAY_CODE", &code)], "another password\n")
        .await?;
    assert_eq!(wrong.code, Some(4), "{}", wrong.err);
    let done = shell
        .run(
            &log_in,
            &[("PATCHBAY_CODE", &code)],
            &format!("{PASSWORD}\n"),
        )
        .await?;
    assert!(
        done.out.starts_with("Logged in: ada (owner)"),
        "{}{}",
        done.out,
        done.err
    );
    let kept = shell.home.path().join(".config/patchbay/sessions");
    let file = std::fs::read_dir(&kept)?.next().context("a file")??;
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata()?.permissions());
    assert_eq!(mode & 0o777, 0o600);
    let who = shell.run(&["whoami"], &[], "").await?;
    assert!(
        who.out.starts_with("ada  owner\n"),
        "{}{}",
        who.out,
        who.err
    );
    let who = shell.json(&["whoami"], &shared, "").await?;
    assert_eq!(
        (&who["name"], &who["credential"]),
        (&json!(USER), &json!("basic")),
        "what is given comes first"
    );
    let made = shell
        .json(
            &[
                "token",
                "create",
                "ci",
                "--scope",
                "queues:read,plugins:write",
                "--days",
                "7",
            ],
            &[],
            "",
        )
        .await?;
    let token = text(&made["secret"]);
    let with_token = [("PATCHBAY_TOKEN", token.as_str())];
    let who = shell.json(&["whoami"], &with_token, "").await?;
    assert_eq!(
        (&who["name"], &who["token"], &who["scopes"]),
        (
            &json!("ada"),
            &json!("ci"),
            &json!(["plugins:write", "queues:read"])
        )
    );
    let refused = shell.run(&["alert", "list"], &with_token, "").await?;
    assert!(
        refused.err.contains("lacks the scope alerts:read"),
        "{}{}",
        refused.out,
        refused.err
    );
    let listed = shell.run(&["token", "list"], &[], "").await?;
    assert!(
        listed.out.contains("plugins:write, queues:read"),
        "{}",
        listed.out
    );
    let listed = shell.run(&["operator", "list"], &[], "").await?;
    assert!(
        listed.out.contains("ada") && listed.out.contains("owner"),
        "{}",
        listed.out
    );
    let shown = shell.run(&["operator", "show", "ada"], &[], "").await?;
    assert!(
        shown.out.contains("10 recovery codes left"),
        "{}",
        shown.out
    );
    changes_without_effect_are_told(&shell).await?;
    let basic = shell.run(&["operator", "basic", "board"], &[], "").await?;
    assert!(
        basic.out.contains("only Bull Board and metrics"),
        "{}{}",
        basic.out,
        basic.err
    );
    let refused = shell.run(&["status"], &shared, "").await?;
    assert_eq!(refused.code, Some(4), "{}", refused.err);
    let done = shell
        .run(&["token", "revoke", "ci", "--yes"], &[], "")
        .await?;
    assert_eq!(done.out, "Revoked: token ci of ada\n", "{}", done.err);
    let id = &token["pbt_".len()..][..8];
    let again = shell.run(&["token", "revoke", id], &[], "").await?;
    let said = "Token ci of ada was already revoked. Nothing has changed\n";
    assert_eq!(again.out, said, "{}", again.err);
    let done = shell.run(&["logout"], &[], "").await?;
    assert!(
        done.out.starts_with("Logged out: ada"),
        "{}{}",
        done.out,
        done.err
    );
    assert!(std::fs::read_dir(&kept)?.next().is_none());
    let again = shell.run(&["logout"], &[], "").await?;
    assert_eq!(again.code, Some(4), "{}", again.err);
    Ok(())
}

/// As the owner ada: everything twice. The second time nothing is asked, and nothing has changed.
async fn changes_without_effect_are_told(shell: &Shell<'_>) -> anyhow::Result<()> {
    let create = ["operator", "create", "bob", "--role", "viewer"];
    let made = shell.run(&create, &[], "").await?;
    assert_eq!(made.code, Some(0), "{}", made.err);
    for (args, first, again) in [
        ("role bob operator", "has the role", "had the role operator"),
        ("data bob on", "may see data of jobs\n", "it was so already"),
        ("disable bob --yes", "Disabled: bob", ""),
        ("disable bob", "was already disabled", ""),
        ("enable bob", "Enabled: bob", "was not disabled (invited)"),
        ("logout bob --yes", "Ended: 0 sessions of bob", ""),
    ] {
        let args: Vec<&str> = ["operator"].into_iter().chain(args.split(' ')).collect();
        for expected in [first, again].iter().filter(|text| !text.is_empty()) {
            let done = shell.run(&args, &[], "").await?;
            assert!(done.out.contains(expected), "{}{}", done.out, done.err);
        }
    }
    let activity = shell
        .json(&["activity", "--result", "no-effect"], &[], "")
        .await?;
    let rows = activity.as_array().context("actions")?;
    let seen: Vec<_> = rows.iter().map(|row| &row["noEffect"]).collect();
    let expected = [
        "no session was open",
        "was not disabled",
        "was already disabled",
        "was the same",
        "had this role",
    ];
    assert_eq!(seen, expected, "{activity}");
    for unknown in [
        ["operator", "disable", "nobody"],
        ["operator", "logout", "nobody"],
        ["token", "revoke", "nobody"],
        ["plugin", "deactivate", "nobody"],
    ] {
        let refused = shell.run(&unknown, &[], "").await?;
        assert_eq!(refused.code, Some(3), "{unknown:?}: {}", refused.err);
    }
    Ok(())
}
