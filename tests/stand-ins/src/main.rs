//! Starts one stand-in and tells how to reach it. The first line that it prints is its name and its
//! address, of a mail server also that of mails: that is all that `patchbay dev --demo` reads.

use std::any::Any;

use anyhow::{Context, bail};
use patchbay_stand_ins::{exotel, graphy, smtp};
use tokio::io::AsyncReadExt;

/// The stand-in ends when its standard input does, so that it never outlives a program that started
/// it, however that program ends.
const UNTIL_STDIN_ENDS: &str = "--until-stdin-ends";

const USAGE: &str = "which one? stand-in NAME [ADDRESS [MORE…]] [--until-stdin-ends]\n  exotel [ADDRESS [SID [KEY [TOKEN]]]]\n  smtp [ADDRESS [USERNAME [PASSWORD]]]\n  graphy [ADDRESS [MID [KEY]]]";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let before = arguments.len();
    arguments.retain(|argument| argument != UNTIL_STDIN_ENDS);
    let is_child = arguments.len() < before;
    let mut arguments = arguments.into_iter();
    let name = arguments.next().context(USAGE)?;
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let address = address
        .parse()
        .with_context(|| format!("{address} is no address such as 127.0.0.1:0"))?;
    // Dropped, it would end.
    let _server: Box<dyn Any> = match name.as_str() {
        "exotel" => {
            let mut account = exotel::Account::default();
            for part in [&mut account.sid, &mut account.key, &mut account.token] {
                fill(part, &mut arguments);
            }
            let shown = account.clone();
            let server = exotel::start(address, account).await?;
            println!("exotel  {}", server.url());
            println!(
                "  SID {}  key {}  token {}",
                shown.sid, shown.key, shown.token
            );
            println!("  ExoPhone {}", shown.exophones.join(", "));
            println!("  control: GET {}/_control/state", server.url());
            Box::new(server)
        }
        "smtp" => {
            let mut account = smtp::Account::default();
            for part in [&mut account.username, &mut account.password] {
                fill(part, &mut arguments);
            }
            let shown = account.clone();
            let server = smtp::start(address, account).await?;
            println!("smtp  http://{}  smtp://{}", server.control, server.address);
            println!(
                "  username {}  password {}  mail.tls none",
                shown.username, shown.password
            );
            println!("  control: GET http://{}/_control/state", server.control);
            Box::new(server)
        }
        "graphy" => {
            let mut account = graphy::Account::default();
            for part in [&mut account.mid, &mut account.key] {
                fill(part, &mut arguments);
            }
            let shown = account.clone();
            let server = graphy::start(address, account).await?;
            server.change_learners(|all| all.extend(graphy::small_school()));
            println!("graphy  {}", server.url());
            println!("  mid {}  key {}", shown.mid, shown.key);
            println!("  control: GET {}/_control/state", server.url());
            Box::new(server)
        }
        other => bail!("There is no stand-in called {other}. There are: exotel, smtp, graphy"),
    };
    if is_child {
        let mut rest = Vec::new();
        tokio::io::stdin().read_to_end(&mut rest).await?;
        return Ok(());
    }
    std::future::pending().await
}

/// From the command line, if it is there.
fn fill(part: &mut String, arguments: &mut impl Iterator<Item = String>) {
    if let Some(value) = arguments.next() {
        *part = value;
    }
}
