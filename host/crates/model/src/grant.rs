//! What plugins ask for and operators grant, as single asks.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::manifest::{
    AccountsSpec, CredentialsSpec, EgressAuth, EgressRule, Manifest, RouteSpec,
    RuntimeSchedulesSpec,
};
use crate::sql::{SqlSpec, TableAccess, TableName};
use crate::{QueueName, TrailName};

/// One thing that a plugin asks for, in the text that operators read and write:
/// `secret EXOTEL_API_KEY`, `http GET https://api.example.com/**`, `enqueue emailQueue`, `kv`,
/// `kv shared:`, `sql select crm.leads(id, phone)`, `smtp`, `audit leads`,
/// `route GET /api/leads/{id} for admin,sales`, `schedules mrlearn-sync-* …`, `credentials graphy-* …`. Asks that differ in
/// anything that matters have different texts: a rule that sends other credentials, or sends to
/// other addresses, is another ask.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ask(String);

/// The asks of a plugin that are granted at present.
pub type Granted = Arc<HashSet<Ask>>;

impl Ask {
    /// Accepts any text, but only a text that a manifest asks for has a meaning.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn secret(name: &str) -> Self {
        Self(format!("secret {name}"))
    }

    pub fn http(rule: &EgressRule) -> Self {
        let mut methods = rule.methods.clone();
        methods.sort();
        methods.dedup();
        let mut text = format!("http {} {}", methods.join(","), rule.url);
        if let Some(auth) = &rule.auth {
            let kind = match auth {
                EgressAuth::Basic { .. } => "basic".to_owned(),
                EgressAuth::Bearer { .. } => "bearer".to_owned(),
                EgressAuth::Header { name, .. } => format!("header {name}"),
                EgressAuth::Query { name, .. } => format!("query {name}"),
                EgressAuth::Form { name, .. } => format!("form {name}"),
                // The client's secret is sent there.
                EgressAuth::OAuth2 {
                    token_url, scope, ..
                } => {
                    let scope = scope
                        .as_ref()
                        .map(|scope| format!(" for {scope:?}"))
                        .unwrap_or_default();
                    format!("oauth2 by {token_url}{scope}")
                }
                EgressAuth::Credential(_) => "credential".to_owned(),
            };
            let sent = match auth {
                EgressAuth::Credential(places) => places.to_string(),
                _ => auth.secrets().join(", "),
            };
            text += &format!(" as {kind} ({sent})");
        }
        if !rule.allow_addresses.is_empty() {
            let mut addresses = rule.allow_addresses.clone();
            addresses.sort();
            text += &format!(" at {}", addresses.join(","));
        }
        Self(text)
    }

    /// Adding jobs to a queue of another plugin.
    pub fn enqueue(queue: &QueueName) -> Self {
        Self(format!("enqueue {queue}"))
    }

    pub fn kv() -> Self {
        Self("kv".into())
    }

    /// Reading and writing the values that plugins share under this prefix.
    pub fn shared_kv(prefix: &str) -> Self {
        Self(format!("kv {prefix}"))
    }

    pub fn sql(table: &TableName, access: &TableAccess) -> Self {
        Self(format!(
            "sql {} {table}{}",
            access.privilege,
            access.column_list()
        ))
    }

    pub fn audit(trail: &TrailName) -> Self {
        Self(format!("audit {trail}"))
    }

    /// Making schedules at run time.
    pub fn schedules(spec: &RuntimeSchedulesSpec) -> Self {
        let queues: Vec<&str> = spec.queues.iter().map(QueueName::as_str).collect();
        Self(format!(
            "schedules {}* in {} at most {} every {} s or slower",
            spec.prefix,
            queues.join(","),
            spec.max(),
            spec.min_every_ms().div_ceil(1_000)
        ))
    }

    /// Handing over credentials at run time, and sending them where an egress rule says so.
    pub fn credentials(spec: &CredentialsSpec) -> Self {
        let fields: Vec<&str> = spec.fields.iter().map(String::as_str).collect();
        Self(format!(
            "credentials {}* ({}) at most {}",
            spec.prefix,
            fields.join(", "),
            spec.max()
        ))
    }

    /// Proposing accounts.
    pub fn accounts(spec: &AccountsSpec) -> Self {
        Self(format!(
            "accounts with role user at most {} a day",
            spec.max_per_day()
        ))
    }

    pub fn smtp() -> Self {
        Self("smtp".into())
    }

    /// Answering requests. The text has who may send them: a route that opens wider is another ask.
    pub fn route(route: &RouteSpec) -> Self {
        let (method, path) = (route.method.as_str(), &route.path);
        Self(format!("route {method} {path} for {}", route.guard()))
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Manifest {
    /// Everything that an operator must grant before the plugin may do it. The plugin's own queues,
    /// schedules and webhooks need no grant: whoever activates the plugin wants them.
    pub fn asks(&self) -> BTreeSet<Ask> {
        let mut asks: BTreeSet<Ask> = self
            .secrets
            .iter()
            .map(|secret| Ask::secret(&secret.name))
            .collect();
        asks.extend(self.egress.iter().map(Ask::http));
        asks.extend(
            self.enqueue
                .iter()
                .flat_map(|spec| &spec.queues)
                .map(Ask::enqueue),
        );
        if let Some(kv) = &self.kv {
            asks.insert(Ask::kv());
            asks.extend(kv.prefixes.iter().map(|prefix| Ask::shared_kv(prefix)));
        }
        asks.extend(
            self.sql
                .iter()
                .flat_map(SqlSpec::accesses)
                .map(|(table, access)| Ask::sql(table, access)),
        );
        asks.extend(
            self.audit
                .iter()
                .flat_map(|spec| &spec.trails)
                .map(Ask::audit),
        );
        if self.smtp.as_ref().is_some_and(|smtp| smtp.allowed) {
            asks.insert(Ask::smtp());
        }
        asks.extend(self.runtime_schedules.iter().map(Ask::schedules));
        asks.extend(self.credentials.iter().map(Ask::credentials));
        asks.extend(self.accounts.iter().map(Ask::accounts));
        asks.extend(self.routes.iter().map(Ask::route));
        asks
    }
}

/// The asks of a manifest as JSON, for operators.
pub fn asks(manifest: &Manifest) -> Value {
    let egress: Vec<Value> = manifest
        .egress
        .iter()
        .map(|rule| {
            let mut asked = json!({ "url": rule.url, "methods": rule.methods, "allowAddresses": rule.allow_addresses });
            // Credentials are sent there, too.
            if let Some(EgressAuth::OAuth2 { token_url, .. }) = &rule.auth {
                asked["tokenUrl"] = json!(token_url);
            }
            asked
        })
        .collect();
    let smtp = manifest.smtp.as_ref().is_some_and(|smtp| smtp.allowed);
    json!({
        "routes": manifest.routes.iter().map(|route| json!({
            "id": route.id(), "method": route.method, "path": route.path, "access": route.guard().to_string(),
            "operation": route.operation,
        })).collect::<Vec<_>>(),
        "webhooks": manifest.webhooks.iter().map(|webhook| json!({
            "name": webhook.name, "methods": webhook.method_names().collect::<Vec<_>>(), "path": webhook.path, "queue": webhook.queue,
        })).collect::<Vec<_>>(),
        "schedules": manifest.schedules.iter().map(|schedule| &schedule.id).collect::<Vec<_>>(),
        "queues": manifest.queues.iter().map(|queue| &queue.name).collect::<Vec<_>>(),
        "secrets": manifest.secrets.iter().map(|secret| &secret.name).collect::<Vec<_>>(),
        "egress": egress,
        "enqueue": manifest.enqueue.as_ref().map(|spec| &spec.queues),
        "kv": manifest.kv.as_ref().map(|spec| &spec.prefixes),
        "sql": manifest.sql.as_ref().map(|spec| &spec.tables),
        "smtp": smtp,
        "audit": manifest.audit.as_ref().map(|spec| &spec.trails),
        "runtimeSchedules": manifest.runtime_schedules.as_ref().map(|spec| &spec.prefix),
        "credentials": manifest.credentials.as_ref().map(|spec| &spec.prefix),
        "accounts": manifest.accounts.as_ref().map(|spec| json!({ "role": "user", "maxPerDay": spec.max_per_day() })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_privilege_on_each_table_is_an_ask_of_its_own_with_its_columns() {
        let manifest = "name = \"crm\"\nversion = \"1.0.0\"\nwit = \"0.1\"\n[sql]\n\
            tables = { \"crm.leads\" = [\"update\", \"select(phone, id)\"], \"crm.calls\" = [\"insert\"] }\n";
        let asks = Manifest::from_toml(manifest, |_| Err("none".into()))
            .expect("valid")
            .asks();
        let asks: Vec<&str> = asks.iter().map(Ask::as_str).collect();
        assert_eq!(
            asks,
            [
                "sql insert crm.calls",
                "sql select crm.leads(id, phone)",
                "sql update crm.leads"
            ]
        );
    }

    fn rule(text: &str) -> EgressRule {
        serde_json::from_str(text).expect("a rule")
    }

    #[test]
    fn a_rule_that_reaches_more_or_carries_other_credentials_is_another_ask() {
        let plain = Ask::http(&rule(
            r#"{"url":"https://a.example/**","methods":["POST","GET"]}"#,
        ));
        assert_eq!(plain.as_str(), "http GET,POST https://a.example/**");
        let others = [
            r#"{"url":"https://a.example/**","methods":["GET"]}"#,
            r#"{"url":"https://a.example/**","methods":["GET","POST"],"allow_addresses":["10.0.0.0/8"]}"#,
            r#"{"url":"https://a.example/**","methods":["GET","POST"],"auth":{"bearer":{"token":"T"}}}"#,
        ];
        let asks: HashSet<Ask> = others
            .iter()
            .map(|text| Ask::http(&rule(text)))
            .chain([plain])
            .collect();
        assert_eq!(asks.len(), 4);
        assert!(asks.contains(&Ask::new(
            "http GET,POST https://a.example/** as bearer (T)"
        )));
    }

    #[test]
    fn what_is_made_at_run_time_is_asked_for_with_its_bounds_and_where_it_is_sent() {
        let manifest = "name = \"learn\"\nversion = \"1.0.0\"\nwit = \"0.1\"\n[[queues]]\nname = \"q\"\n\
            [runtime_schedules]\nprefix = \"learn-sync-\"\nqueues = [\"q\"]\n\
            [credentials]\nprefix = \"school-\"\nfields = [\"mid\", \"key\"]\nmax = 5\n[accounts]\nmax_per_day = 7\n\
            [[egress]]\nurl = \"https://a.example/**\"\nmethods = [\"GET\"]\n\
            auth = { credential = { query = { mid = \"mid\", token = \"key\" } } }\n";
        let asks = Manifest::from_toml(manifest, |_| Err("none".into()))
            .expect("valid")
            .asks();
        let asks: Vec<&str> = asks.iter().map(Ask::as_str).collect();
        assert_eq!(
            asks,
            [
                "accounts with role user at most 7 a day",
                "credentials school-* (key, mid) at most 5",
                "http GET https://a.example/** as credential (query mid,token=key)",
                "schedules learn-sync-* in q at most 100 every 60 s or slower",
            ]
        );
    }

    #[test]
    fn a_token_endpoint_or_scope_that_changes_is_another_ask() {
        let oauth2 = |token_url: &str, scope: &str| {
            let auth = serde_json::json!({ "oauth2": {
                "token_url": token_url, "client_id": "ID", "client_secret": "SECRET", "scope": scope,
            }});
            let json = serde_json::json!({ "url": "https://a.example/**", "methods": ["GET"], "auth": auth });
            Ask::http(&rule(&json.to_string()))
        };
        let asked = oauth2("https://login.example/token", "a");
        assert_ne!(
            asked,
            oauth2("https://login.evil/token", "a"),
            "the client's secret goes there"
        );
        assert_ne!(asked, oauth2("https://login.example/token", "a b"));
        let text = "http GET https://a.example/** as oauth2 by https://login.example/token for \"a\" (ID, SECRET)";
        assert_eq!(asked.as_str(), text);
    }
}
