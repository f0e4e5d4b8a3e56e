//! The command line's output: with a host that answers, and with invalid configurations.

use anyhow::Context;

use super::{Drill, PLUGIN, QUEUE, borrowed, places, with_password};
use crate::harness::{PASSWORD, USER};

/// Everything that the commands print, including with invalid configurations.
pub(super) async fn printed(drill: &Drill) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut env = borrowed(&drill.env);
    let url = drill.host.url.as_str();
    env.extend([
        ("PATCHBAY_URL", url),
        ("PATCHBAY_USER", USER),
        ("PATCHBAY_PASSWORD", PASSWORD),
    ]);
    let mut places = Vec::new();
    let some = &drill.job_ids[drill.job_ids.len() - 1];
    for (place, args) in [
        ("patchbay config", &["config"][..]),
        ("patchbay --json config", &["--json", "config"]),
        ("patchbay doctor", &["doctor"]),
        ("patchbay --json doctor", &["--json", "doctor"]),
        ("patchbay plugin status", &["plugin", "status", PLUGIN]),
        (
            "patchbay --json plugin history",
            &["--json", "plugin", "history", PLUGIN],
        ),
        ("patchbay secret list", &["secret", "list", PLUGIN]),
        ("patchbay job show", &["job", "show", QUEUE, some]),
        (
            "patchbay --json job show",
            &["--json", "job", "show", QUEUE, some],
        ),
    ] {
        places.push((place, places::command(&drill.world, &env, args).await?));
    }
    places.extend(broken_configurations(drill, &env).await?);
    Ok(places)
}

/// The output when a secret value is invalid, or points to a server that does not exist.
async fn broken_configurations(
    drill: &Drill,
    env: &[(&str, &str)],
) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let Drill { world, secrets, .. } = drill;
    let closed = |url: &str| -> anyhow::Result<String> {
        let mut url: reqwest::Url = url.parse()?;
        url.set_port(Some(1)).ok().context("a URL with a port")?;
        Ok(url.into())
    };
    let file = world.dir.path().join("broken.toml");
    std::fs::write(
        &file,
        format!(
            "[mail]\npassword = \"{}\nusername = 1",
            secrets.value("mail password")
        ),
    )?;
    let (postgres, redis) = (
        secrets.value("database password"),
        secrets.value("Redis password"),
    );
    let variables = [
        ("DATABASE_URL", closed(&world.database_url)?),
        (
            "DATABASE_URL",
            format!("postgres://us:{postgres}@127.0.0.1:none/x"),
        ),
        (
            "DATABASE_URL",
            format!("postgres//us:{postgres}@127.0.0.1/x?sslmode={postgres}"),
        ),
        ("REDIS_URL", closed(&world.redis_url)?),
        ("REDIS_URL", format!("redis://:{redis}@127.0.0.1:none/")),
        (
            "REDIS_URL",
            with_password(&world.redis_url, &format!("{redis}x"))?,
        ),
        (
            "PATCHBAY_SECRETS_KEY",
            format!("{}0", secrets.value("master key")),
        ),
        (
            "PATCHBAY_SECRETS_OLD_KEY",
            format!("{}0", secrets.value("master key")),
        ),
        (
            "PATCHBAY_ALERTS_WEBHOOK_URL",
            format!("ftp://host/{}", secrets.value("webhook")),
        ),
        ("PATCHBAY_CONFIG", file.to_string_lossy().into_owned()),
        (
            "PATCHBAY_URL",
            format!("http://operator:{PASSWORD}@127.0.0.1:1"),
        ),
        (
            "PATCHBAY_URL",
            format!("http://operator:{PASSWORD}@127.0.0.1:none"),
        ),
    ];
    let said = variables.into_iter().map(async |(variable, value)| {
        let mut env = env.to_vec();
        env.retain(|(name, _)| *name != variable);
        env.extend([
            (variable, value.as_str()),
            ("PATCHBAY_HTTP_LISTEN", "127.0.0.1:0"),
        ]);
        let commands: &[&[&str]] = if variable == "PATCHBAY_URL" {
            &[&["plugin", "list"]]
        } else {
            &[&["serve"], &["doctor"], &["config"]]
        };
        let mut said = format!("{PLUGIN}: {variable}\n").into_bytes();
        for args in commands {
            said.extend(places::command(world, &env, args).await?);
        }
        anyhow::Ok(("what is said of a broken configuration", said))
    });
    let places = futures::future::try_join_all(said).await?;
    std::fs::remove_file(file)?;
    Ok(places)
}
