//! The token of forms, which no page of another site knows, and notices for the next page.
//!
//! A browser has a random secret in a cookie that no script reads and no other site's request
//! sends with a form. The token of a form is computed of that secret and of the person's credential, so every
//! host of a fleet checks it without knowing anything, and neither a cookie of another session nor
//! one that a neighbouring host has planted fits.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// The field of every form with its token.
pub(crate) const TOKEN: &str = "form-token";

/// Longest notice with its code, in bytes: browsers keep cookies of up to 4096.
const MOST_NOTICE: usize = 3_000;

/// The secret of a browser.
#[derive(Clone)]
pub(crate) struct FormSecret {
    bytes: [u8; 32],
    /// It is not in the browser yet.
    pub(crate) is_new: bool,
}

/// What the next page says about what was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notice {
    pub(crate) text: String,
    /// What a button beside it says, and the address of the console that it posts to.
    pub(crate) undo: Option<(String, String)>,
}

impl Notice {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            undo: None,
        }
    }

    pub(crate) fn undo(mut self, label: &str, address: String) -> Self {
        self.undo = Some((label.to_owned(), address));
        self
    }
}

/// The names of the console's cookies, which have the prefix that the session's has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CookieNames {
    form: &'static str,
    notice: &'static str,
    is_secure: bool,
}

impl CookieNames {
    pub(crate) fn beside(session: &str) -> Self {
        match session.starts_with("__Host-") {
            true => Self {
                form: "__Host-patchbay-form",
                notice: "__Host-patchbay-notice",
                is_secure: true,
            },
            false => Self {
                form: "patchbay-form",
                notice: "patchbay-notice",
                is_secure: false,
            },
        }
    }

    fn set(self, name: &str, value: &str, life: &str) -> Option<HeaderValue> {
        let secure = if self.is_secure { "; Secure" } else { "" };
        let text = format!("{name}={value}; Path=/{life}; HttpOnly{secure}; SameSite=Lax");
        HeaderValue::from_str(&text).ok()
    }
}

/// The value of a cookie that is there once.
pub(crate) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(COOKIE).iter();
    let mut values = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| std::str::from_utf8(pair).ok()?.trim().split_once('='))
        .filter(|(named, _)| *named == name)
        .map(|(_, value)| value.to_owned());
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

impl FormSecret {
    /// That of the request; a new one where it has none.
    pub(crate) fn of(headers: &HeaderMap, names: CookieNames) -> Self {
        let known = cookie(headers, names.form)
            .and_then(|value| BASE64.decode(value).ok())
            .and_then(|bytes| bytes.try_into().ok());
        match known {
            Some(bytes) => Self {
                bytes,
                is_new: false,
            },
            None => Self {
                bytes: rand::random(),
                is_new: true,
            },
        }
    }

    /// The cookie for a browser that has none.
    pub(crate) fn set(&self, names: CookieNames) -> Option<HeaderValue> {
        names.set(names.form, &BASE64.encode(self.bytes), "")
    }

    fn code(&self, purpose: &str, text: &str) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.bytes)
            .expect("HMAC takes keys of any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(text.as_bytes());
        mac
    }

    /// The token of forms for whoever has this credential.
    pub(crate) fn token(&self, credential: &str) -> String {
        BASE64.encode(self.code("form", credential).finalize().into_bytes())
    }

    pub(crate) fn accepts(&self, token: &str, credential: &str) -> bool {
        let Ok(token) = BASE64.decode(token) else {
            return false;
        };
        !self.is_new && self.code("form", credential).verify_slice(&token).is_ok()
    }

    /// The cookie with a notice, for the next page of this browser.
    pub(crate) fn tell(&self, notice: &Notice, names: CookieNames) -> Option<HeaderValue> {
        let mut notice = notice.clone();
        if notice.text.len() > MOST_NOTICE / 3 {
            notice.text = notice.text.chars().take(300).chain(['…']).collect();
        }
        let text = BASE64.encode(serde_json::to_vec(&notice).ok()?);
        let code = BASE64.encode(self.code("notice", &text).finalize().into_bytes());
        (text.len() < MOST_NOTICE)
            .then(|| names.set(names.notice, &format!("{text}.{code}"), "; Max-Age=60"))?
    }

    /// The notice that a request carries, and only one that this console wrote for this browser.
    pub(crate) fn told(&self, headers: &HeaderMap, names: CookieNames) -> Option<Notice> {
        let value = cookie(headers, names.notice)?;
        let (text, code) = value.split_once('.')?;
        let code = BASE64.decode(code).ok()?;
        self.code("notice", text).verify_slice(&code).ok()?;
        serde_json::from_slice(&BASE64.decode(text).ok()?).ok()
    }
}

/// Ends the notice's cookie.
pub(crate) fn forget_notice(names: CookieNames) -> Option<HeaderValue> {
    names.set(names.notice, "", "; Max-Age=0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: CookieNames = CookieNames {
        form: "patchbay-form",
        notice: "patchbay-notice",
        is_secure: false,
    };

    fn sent_back(set: &HeaderValue) -> HeaderMap {
        let pair = set.to_str().expect("ASCII").split(';').next();
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(pair.expect("a pair")).expect("a header");
        headers.insert(COOKIE, value);
        headers
    }

    #[test]
    fn a_token_fits_only_its_browser_and_its_credential() {
        let new = FormSecret::of(&HeaderMap::new(), NAMES);
        assert!(!new.accepts(&new.token("s"), "s"), "no cookie was sent");
        let headers = sent_back(&new.set(NAMES).expect("a cookie"));
        let known = FormSecret::of(&headers, NAMES);
        let token = new.token("session");
        assert!(!known.is_new && known.accepts(&token, "session"));
        assert!(!known.accepts(&token, "another session"));
        assert!(!known.accepts("", "session") && !known.accepts("x", "session"));
        let other = FormSecret::of(&HeaderMap::new(), NAMES);
        let headers = sent_back(&other.set(NAMES).expect("a cookie"));
        assert!(!FormSecret::of(&headers, NAMES).accepts(&token, "session"));
    }

    #[test]
    fn a_notice_comes_back_only_as_it_was_written() {
        let secret = FormSecret::of(&HeaderMap::new(), NAMES);
        let notice = Notice::new("Paused \"a\".").undo("Resume", "/admin/queues/x".into());
        let set = secret.tell(&notice, NAMES).expect("a cookie");
        assert_eq!(secret.told(&sent_back(&set), NAMES), Some(notice));
        let other = FormSecret::of(&HeaderMap::new(), NAMES);
        assert_eq!(other.told(&sent_back(&set), NAMES), None);
        let long = Notice::new("<é>".repeat(2_000));
        let set = secret.tell(&long, NAMES).expect("a cookie");
        assert!(set.len() < 4_096);
        let told = secret.told(&sent_back(&set), NAMES).expect("a notice");
        assert!(told.text.ends_with('…'));
    }

    #[test]
    fn the_prefix_of_the_session_is_that_of_the_other_cookies() {
        let names = CookieNames::beside("__Host-patchbay");
        let set = FormSecret::of(&HeaderMap::new(), names).set(names);
        let set = set.expect("a cookie");
        let set = set.to_str().expect("ASCII");
        assert!(set.starts_with("__Host-patchbay-form=") && set.contains("; Secure"));
        assert_eq!(CookieNames::beside("patchbay"), NAMES);
    }
}
