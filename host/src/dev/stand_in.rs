//! Local servers in place of vendors. They are another program's, so that the host knows no vendor.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use url::Url;

/// For a program that opens one port.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The program's file, beside the host's.
const PROGRAM: &str = "stand-in";

/// A running stand-in. It ends when this is dropped, and also when this process is killed: its
/// standard input ends then.
pub(super) struct StandIn {
    pub(super) name: String,
    /// Without a slash at the end.
    pub(super) url: String,
    /// Where it takes mails, if it does.
    pub(super) mails: Option<SocketAddr>,
    _child: Child,
    _input: ChildStdin,
}

/// The program that `--stand-in` names, or the one beside this program.
pub(super) fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(given) => given.to_owned(),
        None => std::env::current_exe()
            .context("this program has no file")?
            .with_file_name(PROGRAM),
    };
    if !program.is_file() {
        bail!(
            "There is no program {}, which has the stand-ins. Build it in the sources of Patchbay with: cargo build --workspace --bins; or name it \
             with --stand-in",
            program.display()
        );
    }
    Ok(program)
}

/// Starts the stand-in at the port of before, if it is still free: what was configured then stays
/// right.
pub(super) async fn start(
    program: &Path,
    name: &str,
    arguments: &[String],
    port: Option<u16>,
) -> anyhow::Result<StandIn> {
    if let Some(port) = port.filter(|port| *port != 0)
        && let Ok(started) = start_at(program, name, arguments, port).await
    {
        return Ok(started);
    }
    start_at(program, name, arguments, 0).await
}

async fn start_at(
    program: &Path,
    name: &str,
    arguments: &[String],
    port: u16,
) -> anyhow::Result<StandIn> {
    let mut child = Command::new(program)
        .arg(name)
        .arg(format!("127.0.0.1:{port}"))
        .args(arguments)
        .arg("--until-stdin-ends")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Jobs may call it until the drain has ended, so it must not get Ctrl-C.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let input = child.stdin.take().context("its standard input")?;
    let output = child.stdout.take().context("its standard output")?;
    let mut lines = BufReader::new(output).lines();
    let first = tokio::time::timeout(START_LIMIT, lines.next_line())
        .await
        .with_context(|| format!("the stand-in {name} does not say where it is"))??;
    // The rest is for people; unread, it would block the program.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let said = first.as_deref().and_then(|line| places_in(line, name));
    let (url, mails) = said.with_context(|| {
        format!(
            "the stand-in {name} did not start: {} {name} says why",
            program.display()
        )
    })?;
    Ok(StandIn {
        name: name.to_owned(),
        url,
        mails,
        _child: child,
        _input: input,
    })
}

impl StandIn {
    /// Of the address that it was started with.
    pub(super) fn port(&self) -> Option<u16> {
        match self.mails {
            Some(mails) => Some(mails.port()),
            None => self.url.parse::<Url>().ok()?.port_or_known_default(),
        }
    }
}

/// Of `acme  http://127.0.0.1:4711`, or of a mail server `acme  http://127.0.0.1:4711
/// smtp://127.0.0.1:4712`.
fn places_in(line: &str, name: &str) -> Option<(String, Option<SocketAddr>)> {
    let mut words = line.split_whitespace();
    let is_its_own = words.next() == Some(name);
    let url = words.next().filter(|_| is_its_own)?;
    let parsed: Url = url.parse().ok()?;
    let is_here = parsed
        .host()
        .is_some_and(|host| matches!(host, url::Host::Ipv4(address) if address.is_loopback()));
    let mails = match words.next() {
        Some(place) => Some(place.strip_prefix("smtp://")?.parse::<SocketAddr>().ok()?),
        None => None,
    };
    let is_here = is_here && mails.is_none_or(|mails| mails.ip().is_loopback());
    is_here.then(|| (url.trim_end_matches('/').to_owned(), mails))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_is_believed_only_its_own_name_and_an_address_of_this_machine() {
        let read = |line| places_in(line, "acme");
        let url = || "http://127.0.0.1:4711".to_owned();
        assert_eq!(read("acme  http://127.0.0.1:4711/"), Some((url(), None)));
        assert_eq!(
            read("acme  http://127.0.0.1:4711  smtp://127.0.0.1:25"),
            Some((url(), Some(([127, 0, 0, 1], 25).into())))
        );
        for other in [
            "",
            "acme",
            "other http://127.0.0.1:1",
            "acme 127.0.0.1:1",
            "acme http://192.0.2.1:1",
            "acme http://acme.example",
            "acme http://127.0.0.1:1 smtp://192.0.2.1:25",
            "acme http://127.0.0.1:1 smtp://mail.example:25",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
