//! Starts one stand-in and tells how to reach it.

use anyhow::{Context, bail};
use patchbay_stand_ins::{exotel, smtp};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().context(
        "which one? exotel [ADDRESS [SID [KEY [TOKEN]]]], or smtp [ADDRESS [USERNAME [PASSWORD]]]",
    )?;
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    match name.as_str() {
        "exotel" => {
            let mut account = exotel::Account::default();
            for part in [&mut account.sid, &mut account.key, &mut account.token] {
                fill(part, &mut arguments);
            }
            let shown = account.clone();
            let server = exotel::start(address.parse()?, account).await?;
            println!("exotel  {}", server.url());
            println!(
                "  SID {}  key {}  token {}",
                shown.sid, shown.key, shown.token
            );
            println!("  ExoPhone {}", shown.exophones.join(", "));
            println!("  control: GET {}/_control/state", server.url());
            std::future::pending().await
        }
        "smtp" => {
            let mut account = smtp::Account::default();
            for part in [&mut account.username, &mut account.password] {
                fill(part, &mut arguments);
            }
            let shown = account.clone();
            let server = smtp::start(address.parse()?, account).await?;
            println!("smtp  {} (mail.tls none)", server.address);
            println!("  username {}  password {}", shown.username, shown.password);
            println!("  control: GET http://{}/_control/state", server.control);
            std::future::pending().await
        }
        name => bail!("there is no stand-in called {name}; there are exotel and smtp"),
    }
}

/// From the command line, if it is there.
fn fill(part: &mut String, arguments: &mut impl Iterator<Item = String>) {
    if let Some(value) = arguments.next() {
        *part = value;
    }
}
