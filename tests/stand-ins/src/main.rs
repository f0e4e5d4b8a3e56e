//! Starts one stand-in and tells how to reach it.

use anyhow::{Context, bail};
use patchbay_stand_ins::exotel::{self, Account};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments
        .next()
        .context("which one? exotel [ADDRESS [SID [KEY [TOKEN]]]]")?;
    if name != "exotel" {
        bail!("there is no stand-in called {name}; there is exotel");
    }
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let mut account = Account::default();
    for part in [&mut account.sid, &mut account.key, &mut account.token] {
        if let Some(value) = arguments.next() {
            *part = value;
        }
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
