//! `patchbay dev --demo`: everything that a plugin needs of its vendor, made up on this machine.
//!
//! What that is, the plugin's folder says in its `demo.toml`: stand-ins to start, settings, secrets,
//! rows and commands to try. Nothing of it is known here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use patchbay_api::audit::{AuditTrailsInstall, AuditTrailsList};
use patchbay_api::body::{AnyDocument, Json, NoBody, SecretJson};
use patchbay_api::operation::NoQuery;
use patchbay_api::plugins::{PluginPath, PluginsSetSettings, PluginsSettings};
use patchbay_api::reveal::Reveal;
use patchbay_api::secrets::{NewValue, SecretPath, SecretText, SecretsList, SecretsSet};
use patchbay_cli::Client;
use patchbay_model::egress::{EgressAuth, EgressRule};
use patchbay_model::trail_pack::TrailPack;
use patchbay_runtime::{inspect, repack};
use serde::Deserialize;
use serde_json::value::to_raw_value;
use serde_json::{Map, Value};

use super::postgres::Postgres;
use super::stand_in::{self, StandIn};
use crate::dev_state::DevState;

/// In the folder of a plugin.
pub(super) const FILE: &str = "demo.toml";
/// Where stand-ins are.
const LOOPBACK: &str = "127.0.0.0/8";

/// A `demo.toml`. In settings and commands, `{host}` is the address of this host, `{patchbay}` this
/// program, and the name of a stand-in in braces its address.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Demo {
    #[serde(default)]
    stand_ins: Vec<StandInSpec>,
    /// The stand-in to which the host sends its mails, while no mail server is configured.
    mail: Option<MailSpec>,
    /// Audit trails to install before the plugin is loaded: files of packs.
    #[serde(default)]
    trails: Vec<PathBuf>,
    /// They are added to those that are set, at each start.
    #[serde(default)]
    settings: Map<String, Value>,
    /// Made-up values. A secret that has one keeps it.
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    /// A file of SQL, run at each start when the plugin is loaded. It must leave rows that are there
    /// as they are.
    rows: Option<PathBuf>,
    #[serde(default, rename = "try")]
    tries: Vec<Try>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StandInSpec {
    /// As the program with the stand-ins calls it.
    name: String,
    /// What it is started with, behind its address.
    #[serde(default)]
    arguments: Vec<String>,
    /// Origins in the plugin's egress rules in whose place it stands, such as `https://api.example`.
    #[serde(default)]
    replaces: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MailSpec {
    stand_in: String,
    /// With which the host logs in there.
    username: String,
    password: String,
}

/// A mail server for the host, which runs before the host does.
pub(super) struct MailServer {
    pub(super) stand_in: StandIn,
    pub(super) address: SocketAddr,
    pub(super) username: String,
    pub(super) password: String,
}

/// Starts the mail server that the demo of one of these plugins wants.
pub(super) async fn mail_server(
    plugins: &Path,
    program: &Path,
    state: &mut DevState,
) -> anyhow::Result<Option<MailServer>> {
    for folder in super::plugins::folders(plugins) {
        // What is wrong with a demo is told when its plugin is loaded.
        let Ok(Some(demo)) = Demo::of(&folder) else {
            continue;
        };
        let Some(mail) = demo.mail else { continue };
        let of_mail = |spec: &&StandInSpec| spec.name == mail.stand_in;
        let Some(spec) = demo.stand_ins.iter().find(of_mail) else {
            bail!(
                "{}: mail.stand_in is {:?}, which is none of its stand_ins",
                folder.join(FILE).display(),
                mail.stand_in
            );
        };
        let stand_in = started(spec, program, state).await?;
        let address = stand_in
            .mails
            .with_context(|| format!("the stand-in {} takes no mails", spec.name))?;
        return Ok(Some(MailServer {
            stand_in,
            address,
            username: mail.username,
            password: mail.password,
        }));
    }
    Ok(None)
}

/// At the port of before, where it is free.
async fn started(
    spec: &StandInSpec,
    program: &Path,
    state: &mut DevState,
) -> anyhow::Result<StandIn> {
    let port = state.stand_in_ports.get(&spec.name).copied();
    let started = stand_in::start(program, &spec.name, &spec.arguments, port).await?;
    if let Some(port) = started.port() {
        state.stand_in_ports.insert(spec.name.clone(), port);
    }
    Ok(started)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Try {
    say: String,
    run: String,
}

/// Where a demo takes place.
pub(super) struct Stage<'a> {
    pub(super) client: &'a Client,
    pub(super) postgres: &'a Postgres,
    /// The program with the stand-ins.
    pub(super) program: &'a Path,
    /// Address of the host.
    pub(super) host: String,
    /// Runs already; the demo that wants it takes it.
    pub(super) mail: Mutex<Option<StandIn>>,
}

/// A demo whose stand-ins run.
pub(super) struct Begun {
    demo: Demo,
    folder: PathBuf,
    pub(super) stand_ins: Vec<StandIn>,
    /// By their names in braces.
    places: Vec<(String, String)>,
}

impl Demo {
    /// The demo of a plugin's folder, if it has one.
    pub(super) fn of(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let demo = toml::from_str(&text).with_context(|| path.display().to_string())?;
        Ok(Some(demo))
    }

    /// Starts its stand-ins, and installs its trails.
    pub(super) async fn begin(
        self,
        folder: &Path,
        stage: &Stage<'_>,
        state: &mut DevState,
    ) -> anyhow::Result<Begun> {
        let mut stand_ins = Vec::new();
        for spec in &self.stand_ins {
            let is_mail = self
                .mail
                .as_ref()
                .is_some_and(|mail| mail.stand_in == spec.name);
            let running = is_mail.then(|| stage.mail.lock().take()).flatten();
            stand_ins.push(match running {
                Some(running) => running,
                None => started(spec, stage.program, state).await?,
            });
        }
        state.save()?;
        let own = std::env::args().next();
        let mut places = vec![
            ("{host}".to_owned(), stage.host.clone()),
            (
                "{patchbay}".to_owned(),
                own.unwrap_or_else(|| "patchbay".into()),
            ),
        ];
        let of_stand_ins = stand_ins.iter();
        places.extend(of_stand_ins.map(|each| (format!("{{{}}}", each.name), each.url.clone())));
        let begun = Begun {
            demo: self,
            // Its files may be named relative to where the folder really is.
            folder: folder.canonicalize()?,
            stand_ins,
            places,
        };
        begun.install_trails(stage.client).await?;
        Ok(begun)
    }
}

impl Begun {
    async fn install_trails(&self, client: &Client) -> anyhow::Result<()> {
        if self.demo.trails.is_empty() {
            return Ok(());
        }
        let none = NoQuery {};
        let known = client.ask::<AuditTrailsList>((), none, NoBody).await?.data;
        for file in &self.demo.trails {
            let path = self.folder.join(file);
            let pack = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let pack: TrailPack = serde_json::from_str(&pack)
                .with_context(|| format!("{} is not a pack", path.display()))?;
            if known.iter().all(|trail| trail.name != pack.name) {
                client
                    .ask::<AuditTrailsInstall>((), none, Json(pack))
                    .await?;
            }
        }
        Ok(())
    }

    /// The plugin with rules for the stand-ins in the place of those for their vendors.
    pub(super) fn adapted(&self, component: &[u8]) -> anyhow::Result<Vec<u8>> {
        let specs = self.demo.stand_ins.iter();
        let replaced: Vec<(&str, &str)> = specs
            .zip(&self.stand_ins)
            .flat_map(|(spec, started)| {
                let origins = spec.replaces.iter();
                origins.map(|origin| (origin.as_str(), started.url.as_str()))
            })
            .collect();
        if replaced.is_empty() {
            return Ok(component.to_vec());
        }
        let mut manifest = inspect(component)?.manifest;
        for (origin, _) in &replaced {
            let rules = manifest.egress.iter();
            if !rules
                .map(|rule| &rule.url)
                .any(|url| below(url, origin).is_some())
            {
                bail!("{FILE} replaces {origin}, which no egress rule of the plugin names");
            }
        }
        manifest.egress = led_to(manifest.egress, &replaced);
        Ok(repack(component, &manifest)?)
    }

    /// Gives the loaded plugin its settings, secrets and rows.
    pub(super) async fn finish(&self, plugin: &str, stage: &Stage<'_>) -> anyhow::Result<()> {
        self.set_settings(plugin, stage.client).await?;
        self.set_secrets(plugin, stage.client).await?;
        if let Some(rows) = &self.demo.rows {
            stage.postgres.run_file(&self.folder.join(rows)).await?;
        }
        Ok(())
    }

    async fn set_settings(&self, plugin: &str, client: &Client) -> anyhow::Result<()> {
        let path = || PluginPath {
            name: plugin.to_owned(),
        };
        let stored = async |reveal: Reveal| {
            let stored = client
                .ask::<PluginsSettings>(path(), reveal, NoBody)
                .await?;
            anyhow::Ok(stored.data.as_object().cloned().unwrap_or_default())
        };
        let wanted = self.demo.settings.iter();
        let wanted: Map<String, Value> = wanted
            .map(|(name, value)| (name.clone(), filled_in(value, &self.places)))
            .collect();
        let shown = stored(Reveal::default()).await?;
        if wanted
            .iter()
            .all(|(name, value)| shown.get(name) == Some(value))
        {
            return Ok(());
        }
        // Hidden ones must not be replaced by what hides them.
        let mut all = stored(Reveal {
            reveal: true,
            reason: Some("patchbay dev --demo adds settings".to_owned()),
        })
        .await?;
        all.extend(wanted);
        let document = AnyDocument(to_raw_value(&all)?);
        client
            .ask::<PluginsSetSettings>(path(), NoQuery {}, document)
            .await?;
        Ok(())
    }

    async fn set_secrets(&self, plugin: &str, client: &Client) -> anyhow::Result<()> {
        let none = NoQuery {};
        let path = PluginPath {
            name: plugin.to_owned(),
        };
        let known = client.ask::<SecretsList>(path, none, NoBody).await?.data;
        for (name, value) in &self.demo.secrets {
            let has_one = known
                .iter()
                .any(|secret| &secret.name == name && secret.source != "none");
            if has_one {
                continue;
            }
            let path = SecretPath {
                name: plugin.to_owned(),
                secret: name.clone(),
            };
            let value = SecretText(value.clone().into());
            client
                .ask::<SecretsSet>(path, none, SecretJson(NewValue { value }))
                .await?;
        }
        Ok(())
    }

    /// What to print: where the stand-ins are, and commands with what each shows.
    pub(super) fn told(&self, plugin: &str) -> Vec<String> {
        let stand_ins = self.stand_ins.iter();
        let places: Vec<String> = stand_ins
            .map(|each| format!("stand-in {} at {}", each.name, each.url))
            .collect();
        let mut lines = vec![match places.is_empty() {
            true => format!("Demo of {plugin}. Try, in another terminal here:"),
            false => format!(
                "Demo of {plugin}, with {}. Try, in another terminal here:",
                places.join(", ")
            ),
        }];
        for each in &self.demo.tries {
            lines.push(format!("  # {}", each.say));
            lines.push(format!("  {}", filled(&each.run, &self.places)));
        }
        lines
    }
}

/// The rest of a URL below an origin, with its slash.
fn below<'a>(url: &'a str, origin: &str) -> Option<&'a str> {
    url.strip_prefix(origin)
        .filter(|rest| rest.starts_with('/'))
}

/// Rules with other servers in the place of those at these origins. Two that become one are one.
fn led_to(rules: Vec<EgressRule>, replaced: &[(&str, &str)]) -> Vec<EgressRule> {
    let other = |url: &str| {
        replaced
            .iter()
            .find_map(|(origin, place)| below(url, origin).map(|rest| format!("{place}{rest}")))
    };
    let mut led: Vec<EgressRule> = Vec::new();
    for mut rule in rules {
        if let Some(url) = other(&rule.url) {
            // Other methods may need another way to log in.
            let is_same = |before: &EgressRule| before.url == url && before.methods == rule.methods;
            if led.iter().any(is_same) {
                continue;
            }
            rule.url = url;
            rule.allow_addresses = vec![LOOPBACK.to_owned()];
            // Rules for one server share one, and only one of them may name it.
            rule.breaker = None;
        }
        if let Some(EgressAuth::OAuth2 { token_url, .. }) = &mut rule.auth
            && let Some(url) = other(token_url)
        {
            *token_url = url;
        }
        led.push(rule);
    }
    led
}

fn filled(text: &str, places: &[(String, String)]) -> String {
    places.iter().fold(text.to_owned(), |text, (name, place)| {
        text.replace(name, place)
    })
}

fn filled_in(value: &Value, places: &[(String, String)]) -> Value {
    match value {
        Value::String(text) => filled(text, places).into(),
        Value::Array(values) => values.iter().map(|each| filled_in(each, places)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), filled_in(value, places)))
            .collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(url: &str) -> EgressRule {
        serde_json::from_value(serde_json::json!({ "url": url, "methods": ["GET"] }))
            .expect("a rule")
    }

    #[test]
    fn rules_of_a_vendor_lead_to_its_stand_in_and_others_stay() {
        let urls = [
            "https://api.acme.example/v1/**",
            "https://api.eu.acme.example/v1/**",
            "https://api.acme.example.evil.example/v1/**",
            "https://other.example/**",
        ];
        let place = "http://127.0.0.1:4711";
        let replaced = [
            ("https://api.acme.example", place),
            ("https://api.eu.acme.example", place),
        ];
        let led = led_to(urls.map(rule).to_vec(), &replaced);
        let seen: Vec<(&str, bool)> = led
            .iter()
            .map(|rule| (rule.url.as_str(), rule.allow_addresses.is_empty()))
            .collect();
        assert_eq!(
            seen,
            [
                ("http://127.0.0.1:4711/v1/**", false),
                (urls[2], true),
                (urls[3], true)
            ]
        );
    }

    #[test]
    fn rules_of_one_place_for_other_methods_stay_apart() {
        let url = "https://api.acme.example/v1/**";
        let mut post = rule(url);
        post.methods = vec!["POST".into()];
        let replaced = [("https://api.acme.example", "http://127.0.0.1:4711")];
        let led = led_to(vec![rule(url), post, rule(url)], &replaced);
        let methods: Vec<&str> = led.iter().map(|rule| rule.methods[0].as_str()).collect();
        assert_eq!(methods, ["GET", "POST"]);
    }

    #[test]
    fn places_are_filled_in_wherever_they_stand_and_other_braces_stay() {
        let places = [("{host}".to_owned(), "http://127.0.0.1:1".to_owned())];
        let value = serde_json::json!({ "a": ["{host}/x", 1], "b": "{other}" });
        let expected = serde_json::json!({ "a": ["http://127.0.0.1:1/x", 1], "b": "{other}" });
        assert_eq!(filled_in(&value, &places), expected);
    }

    #[test]
    fn a_key_that_is_not_known_is_refused() {
        let demo: Result<Demo, _> = toml::from_str("[[stand_ins]]\nname = \"a\"\nreplace = []\n");
        assert!(demo.expect_err("refused").to_string().contains("replace"));
    }
}
