//! Tokens of programs: each belongs to an operator, and can do no more than that operator.

use std::time::Duration;

use ipnet::IpNet;
use patchbay_api::operators::{self as api, OperatorTokensCreate, OperatorTokensRevoke};
use patchbay_model::operator::{OperatorRole, Reach, Scope};
use patchbay_store::{NewOperatorToken, OperatorKey, OperatorTokenRow};
use rand::RngExt;
use serde_json::json;

use super::{Credential, Operators, new_secret};
use crate::actions::Caller;
use crate::error::{Error, Kind};
use crate::operator::is_never_opened;
use crate::people::within;

const PREFIX: &str = "pbt_";
const ID_LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const ID_LENGTH: usize = 8;
const SECRET_LENGTH: usize = 43;
const DEFAULT_DAYS: u16 = 90;
const DAY: u64 = 86_400;
const MAX_NAME: usize = 64;
const MOST_SCOPES: usize = 50;

/// Id and secret of a text that has the form of a token.
pub(super) fn parts_of_token(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix(PREFIX)?;
    let (id, secret) = rest.split_at_checked(ID_LENGTH)?;
    let secret = secret.strip_prefix('_')?;
    let is_id = id.bytes().all(|byte| ID_LETTERS.contains(&byte));
    (is_id && secret.len() == SECRET_LENGTH).then_some((id, secret))
}

impl Operators {
    /// The tokens of the caller; for an owner, also all, or those of one operator.
    pub async fn tokens(
        &self,
        who: &Caller,
        query: api::TokensQuery,
    ) -> Result<Vec<api::OperatorToken>, Error> {
        let parts = &*self.0;
        let own = who.operator.id;
        let of = match (query.operator.as_deref(), query.all.unwrap_or(false)) {
            (None, false) => match own {
                Some(own) => Some(own),
                None => return Ok(Vec::new()),
            },
            _ if who.operator.role < OperatorRole::Owner => {
                return Err(Error::new(
                    Kind::Forbidden,
                    "forbidden",
                    format!(
                        "Tokens of others need the role owner; {} has the role {}",
                        who.operator.name, who.operator.role
                    ),
                ));
            }
            (None, true) => None,
            (Some(name), _) => Some(parts.named(name).await?.id),
        };
        let rows = within(parts.store.operator_tokens(of)).await?;
        Ok(rows.into_iter().map(view).collect())
    }

    /// Makes a token of the caller. Its secret is shown once.
    pub async fn create_token(
        &self,
        who: &Caller,
        body: api::NewToken,
    ) -> Result<api::CreatedToken, Error> {
        let parts = &*self.0;
        let (Some(operator), Credential::Session(_)) = (who.operator.id, &who.operator.credential)
        else {
            return Err(Error::new(
                Kind::Forbidden,
                "forbidden",
                "A token belongs to an operator who has logged in. Log in: patchbay login",
            ));
        };
        let row = within(parts.store.find_operator(OperatorKey::Id(operator))).await?;
        let row = row.ok_or_else(Error::internal)?;
        let checked = Checked::of(
            &body,
            row.role,
            row.may_see_data,
            parts.config.token_max_days,
        )?;
        let id = token_id();
        let (secret, secret_hash) = new_secret();
        let text = format!("{PREFIX}{id}_{}", *secret);
        let new = NewOperatorToken {
            id: &id,
            secret_hash,
            operator,
            name: checked.name,
            role: checked.role,
            may_see_data: checked.may_see_data,
            scopes: &checked.scopes,
            networks: &checked.networks,
            lasts: checked.lasts,
        };
        let act = async {
            let row = within(parts.store.add_operator_token(&new)).await?;
            Ok(api::CreatedToken {
                secret: text,
                token: view(row),
            })
        };
        let details = json!({
            "name": checked.name, "role": checked.role, "scopes": checked.scopes, "networks": checked.networks,
            "maySeeData": checked.may_see_data, "days": checked.lasts.as_secs() / DAY,
        });
        let recorded = |created: &api::CreatedToken| json!({ "id": created.token.id });
        parts
            .actions
            .record_as::<OperatorTokensCreate, _>(who, checked.name, details, act, recorded)
            .await
    }

    /// Revokes a token at once, on every host. By its id or name; an owner also those of others, by
    /// their id.
    pub async fn revoke_token(
        &self,
        who: &Caller,
        id_or_name: &str,
    ) -> Result<api::OperatorToken, Error> {
        let parts = &*self.0;
        let act = async {
            let own = who.operator.id.map(Some);
            let any = (who.operator.role == OperatorRole::Owner).then_some(None);
            for of in own.into_iter().chain(any) {
                let revoke = parts
                    .store
                    .revoke_operator_token(id_or_name, of, &who.actor);
                if let Some(row) = within(revoke).await? {
                    parts.changed(row.operator_id);
                    return Ok(view(row));
                }
            }
            for of in own.into_iter().chain(any) {
                let revoked = parts.store.revoked_operator_token(id_or_name, of);
                if let Some(row) = within(revoked).await? {
                    return Ok(api::OperatorToken {
                        already: true,
                        ..view(row)
                    });
                }
            }
            Err(Error::not_found(
                "There is no such token of yours. List them: patchbay token list",
            ))
        };
        let recorded = |token: &api::OperatorToken| json!({ "id": token.id, "operator": token.operator, "already": token.already });
        parts
            .actions
            .record_as::<OperatorTokensRevoke, _>(who, id_or_name, json!({}), act, recorded)
            .await
    }
}

/// A new token that may be made.
struct Checked<'a> {
    name: &'a str,
    role: OperatorRole,
    may_see_data: bool,
    scopes: Vec<String>,
    networks: Vec<String>,
    lasts: Duration,
}

impl<'a> Checked<'a> {
    fn of(
        body: &'a api::NewToken,
        own_role: OperatorRole,
        sees_data: bool,
        max_days: u16,
    ) -> Result<Self, Error> {
        let name = body.name.trim();
        let is_name = !name.is_empty()
            && name.len() <= MAX_NAME
            && !name.contains(|c: char| c.is_control() || c == '/');
        if !is_name {
            return Err(Error::invalid(format!(
                "name: must have 1 to {MAX_NAME} bytes, without / and control characters"
            )));
        }
        let role = body.role.unwrap_or(own_role.min(OperatorRole::Operator));
        if role > own_role {
            return Err(Error::invalid(format!(
                "role: you have the role {own_role}, and a token can have no more"
            )));
        }
        let may_see_data = body.may_see_data.unwrap_or(false);
        if may_see_data && !sees_data {
            return Err(Error::invalid(
                "maySeeData: you may not see data of jobs, so your tokens may not either",
            ));
        }
        if body.scopes.is_empty() || body.scopes.len() > MOST_SCOPES {
            return Err(Error::invalid(format!(
                "scopes: name 1 to {MOST_SCOPES}, for example queues:read or plugins:write"
            )));
        }
        let groups = api::token_groups();
        let mut scopes = Vec::new();
        for text in &body.scopes {
            let scope = Scope::parse(text).filter(|scope| groups.contains(&scope.group));
            let Some(scope) = scope else {
                return Err(Error::invalid(format!(
                    "scopes: {text:?} is none. A scope is GROUP:read, GROUP:write or owner:GROUP; the groups are {}",
                    groups.join(", ")
                )));
            };
            if is_never_opened(&scope) {
                return Err(Error::invalid(format!(
                    "scopes: no token opens {scope}: operators and roles of accounts are for people"
                )));
            }
            if scope.reach == Reach::Owner && role < OperatorRole::Owner {
                return Err(Error::invalid(format!(
                    "scopes: {scope} needs a token with the role owner (patchbay token create NAME --role owner)"
                )));
            }
            scopes.push(scope.to_string());
        }
        scopes.sort();
        scopes.dedup();
        let mut networks = Vec::new();
        for text in &body.networks {
            let read = text
                .parse::<IpNet>()
                .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
            let network = read.map_err(|_| {
                Error::invalid(format!(
                    "networks: {text:?} is no network, for example 10.0.0.0/8"
                ))
            })?;
            networks.push(network.trunc().to_string());
        }
        let days = body.days.unwrap_or(DEFAULT_DAYS.min(max_days));
        if !(1..=max_days).contains(&days) {
            return Err(Error::invalid(format!(
                "days: must be a whole number from 1 to {max_days} (operators.token_max_days)"
            )));
        }
        Ok(Self {
            name,
            role,
            may_see_data,
            scopes,
            networks,
            lasts: Duration::from_secs(u64::from(days) * DAY),
        })
    }
}

fn token_id() -> String {
    let mut random = rand::rng();
    (0..ID_LENGTH)
        .map(|_| char::from(ID_LETTERS[random.random_range(0..ID_LETTERS.len())]))
        .collect()
}

fn view(row: OperatorTokenRow) -> api::OperatorToken {
    api::OperatorToken {
        id: row.id,
        name: row.name,
        operator: row.operator,
        role: row.role,
        may_see_data: row.may_see_data,
        scopes: row.scopes,
        networks: row.networks,
        created_at: row.created_at,
        expires_at: row.expires_at,
        last_used_at: row.last_used_at,
        revoked_at: row.revoked_at,
        already: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_nonsense_is_none() {
        let (secret, _) = new_secret();
        let id = token_id();
        let text = format!("pbt_{id}_{}", *secret);
        assert_eq!(parts_of_token(&text), Some((id.as_str(), secret.as_str())));
        for odd in [
            "",
            "pbt_",
            "pbt_abcdefgh",
            "pbt_abcdefgh_short",
            &text[1..],
            &text.replace("pbt", "pbe"),
            &format!("{text}x"),
            "pbt_äbcdefg_1234567890123456789012345678901234567890123",
        ] {
            assert_eq!(parts_of_token(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_token_gets_no_more_than_its_operator_has() {
        let body = |role, data, scope: &str, days| api::NewToken {
            name: "ci".to_owned(),
            role,
            may_see_data: data,
            scopes: vec![scope.to_owned()],
            networks: vec!["10.1.2.3/8".to_owned(), "192.0.2.1".to_owned()],
            days,
        };
        let of = |body: &api::NewToken| {
            Checked::of(body, OperatorRole::Operator, false, 365)
                .map(|checked| (checked.role, checked.networks))
                .map_err(|error| error.message)
        };
        let fine = of(&body(None, None, "plugins:write", None)).expect("a token");
        assert_eq!(fine.0, OperatorRole::Operator);
        assert_eq!(fine.1, ["10.0.0.0/8", "192.0.2.1/32"]);
        for refused in [
            body(Some(OperatorRole::Owner), None, "plugins:write", None),
            body(None, Some(true), "plugins:write", None),
            body(None, None, "plugin:write", None),
            body(None, None, "owner:all", None),
            body(None, None, "plugins:write", Some(0)),
            body(None, None, "plugins:write", Some(366)),
        ] {
            assert!(of(&refused).is_err(), "{refused:?}");
        }
    }
}
