//! What a preview means, and the token over it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use patchbay_api::inbox_many::InboxMany;
use patchbay_model::webhook::InboxState;
use patchbay_store::{EventKeys, InboxFilter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::administration::named;
use crate::error::Error;

const MOST_IDS: usize = 200;
/// How long a preview can be acted on.
const VALID: TimeDelta = TimeDelta::hours(1);

/// What is done to each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum What {
    /// True: the verdict is written down.
    Verify(bool),
    /// True: also what was processed before.
    Replay(bool),
    Erase,
}

impl What {
    /// Those of other requests are left out.
    fn states(self) -> Vec<InboxState> {
        let does = |state: &InboxState| match self {
            Self::Verify(_) | Self::Replay(false) => {
                matches!(state, InboxState::Deferred | InboxState::Rejected)
            }
            Self::Replay(true) => matches!(
                state,
                InboxState::Deferred
                    | InboxState::Rejected
                    | InboxState::Enqueued
                    | InboxState::Recorded
            ),
            Self::Erase => !matches!(state, InboxState::Accepted | InboxState::Erased),
        };
        InboxState::ALL.into_iter().filter(does).collect()
    }
}

/// The content of a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Meant {
    pub what: What,
    ids: Vec<Uuid>,
    plugin: Option<String>,
    webhook: Option<String>,
    state: Option<InboxState>,
    code: Option<String>,
    kind: Option<String>,
    source: Option<String>,
    after: Option<DateTime<Utc>>,
    before: Option<DateTime<Utc>>,
    pub newest_at: DateTime<Utc>,
    pub newest: Uuid,
    /// When it was previewed.
    pub at: DateTime<Utc>,
}

impl Meant {
    pub(super) fn of(what: What, asked: InboxMany) -> Result<Self, Error> {
        if asked.ids.len() > MOST_IDS {
            return Err(Error::invalid(format!("ids: at most {MOST_IDS}")));
        }
        let (plugin, webhook) = named(asked.webhook.as_deref());
        let meant = Self {
            what,
            ids: asked.ids,
            plugin,
            webhook,
            state: asked.state,
            code: asked.code,
            kind: asked.kind,
            source: asked.source,
            after: asked.after,
            before: asked.before,
            newest_at: Utc::now(),
            newest: Uuid::nil(),
            at: Utc::now(),
        };
        let texts = [
            &meant.plugin,
            &meant.webhook,
            &meant.code,
            &meant.kind,
            &meant.source,
        ];
        if texts.into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(Error::invalid("A filter must not have a NUL character"));
        }
        let is_any = meant.ids.is_empty()
            && texts.into_iter().all(Option::is_none)
            && meant.state.is_none()
            && meant.after.is_none()
            && meant.before.is_none();
        if is_any {
            let message = "Say which requests are meant: ids, or a filter such as webhook or state";
            return Err(Error::invalid(message));
        }
        if let Some(state) = meant.state
            && !what.states().contains(&state)
        {
            let names: Vec<&str> = what.states().iter().map(|state| state.as_str()).collect();
            let with_again = What::Replay(true).states().contains(&state);
            let hint = match what {
                What::Replay(false) if with_again => {
                    ". With again=true (patchbay inbox replay --again) it is done with those, too"
                }
                _ => "",
            };
            return Err(Error::invalid(format!(
                "state: this is done with requests that are {}, not {state}{hint}",
                names.join(", ")
            )));
        }
        Ok(meant)
    }

    pub(super) fn filter(&self) -> InboxFilter {
        InboxFilter {
            plugin: self.plugin.clone(),
            webhook: self.webhook.clone(),
            code: self.code.clone(),
            kind: self.kind.clone(),
            source: self.source.clone(),
            after: self.after,
            before: self.before,
            ..InboxFilter::default()
        }
    }

    pub(super) fn states(&self) -> Vec<InboxState> {
        let mut states = self.what.states();
        states.retain(|state| self.state.is_none_or(|asked| asked == *state));
        states
    }

    pub(super) fn ids(&self) -> Option<&[Uuid]> {
        (!self.ids.is_empty()).then_some(self.ids.as_slice())
    }

    /// What is recorded. No value here is personal: networks are no addresses.
    pub(super) fn recorded(&self) -> Value {
        json!({
            "ids": self.ids.len(), "plugin": self.plugin, "webhook": self.webhook, "state": self.state, "code": self.code,
            "kind": self.kind, "source": self.source, "after": self.after, "before": self.before, "what": self.what,
        })
    }

    pub(super) fn token(&self, keys: &EventKeys) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let mac = mac(keys, &text);
        format!("{}.{}", URL_SAFE_NO_PAD.encode(text), hex::encode(mac))
    }

    pub(super) fn of_token(what: What, token: &str, keys: &EventKeys) -> Result<Self, Error> {
        let read = || -> Option<Self> {
            let (text, given) = token.split_once('.')?;
            let text = URL_SAFE_NO_PAD.decode(text).ok()?;
            let given = hex::decode(given).ok()?;
            let fits = aws_lc_rs::constant_time::verify_slices_are_equal(&mac(keys, &text), &given);
            fits.ok()?;
            serde_json::from_slice(&text).ok()
        };
        let meant =
            read().ok_or_else(|| Error::invalid("token: must be the token of a preview"))?;
        if std::mem::discriminant(&meant.what) != std::mem::discriminant(&what) {
            return Err(Error::invalid("token: is of a preview of something else"));
        }
        if Utc::now() - meant.at > VALID {
            let message = "The preview is older than an hour: have another one, and look at it. Nothing was done";
            return Err(Error::conflict(message));
        }
        Ok(meant)
    }
}

fn mac(keys: &EventKeys, text: &[u8]) -> [u8; 16] {
    keys.of(&[b"preview of many requests", text])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> InboxMany {
        InboxMany {
            webhook: Some("crm.status".into()),
            code: Some("bad-token".into()),
            ..InboxMany::default()
        }
    }

    #[test]
    fn a_token_says_what_was_previewed_and_nobody_else_can_make_one() {
        let keys = EventKeys::from_bytes([7; 32]);
        let mut meant = Meant::of(What::Verify(true), asked()).expect("valid");
        meant.at = Utc::now();
        let token = meant.token(&keys);
        let read = Meant::of_token(What::Verify(false), &token, &keys).expect("ours");
        assert_eq!(read, meant, "what is done stands in the token");
        let message = |token: &str, keys: &EventKeys| {
            let read = Meant::of_token(What::Verify(false), token, keys);
            read.expect_err("refused").message
        };
        let other = EventKeys::from_bytes([8; 32]);
        assert!(message(&token, &other).contains("must be the token of a preview"));
        let changed = token.replacen('.', "x.", 1);
        for wrong in ["", ".", "a.b", changed.as_str()] {
            assert!(
                message(wrong, &keys).contains("must be the token"),
                "{wrong}"
            );
        }
        let of_another = Meant::of_token(What::Erase, &token, &keys);
        assert!(of_another.is_err());
        meant.at = Utc::now() - TimeDelta::minutes(61);
        assert!(message(&meant.token(&keys), &keys).contains("older than an hour"));
    }

    #[test]
    fn what_is_meant_must_be_said_and_fit_what_is_done() {
        let refused = |what, asked| Meant::of(what, asked).expect_err("refused").message;
        assert!(refused(What::Erase, InboxMany::default()).starts_with("Say which"));
        let enqueued = InboxMany {
            state: Some(InboxState::Enqueued),
            ..asked()
        };
        assert!(refused(What::Verify(true), enqueued.clone()).contains("not enqueued"));
        let hint = refused(What::Replay(false), enqueued.clone());
        assert!(hint.contains("not enqueued. With again=true"), "{hint}");
        assert!(Meant::of(What::Replay(true), enqueued.clone()).is_ok());
        assert!(Meant::of(What::Erase, enqueued).is_ok());
        let many = InboxMany {
            ids: vec![Uuid::nil(); MOST_IDS + 1],
            ..InboxMany::default()
        };
        assert!(refused(What::Erase, many).contains("at most 200"));
    }
}
