//! Cookies of accounts and operators: reading them without trusting a neighbouring host, and writing
//! them.

use std::net::IpAddr;

use axum::response::Response;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use patchbay_app::people::{ACCESS_LIFE, REFRESH_LIFE, SIGNUP_CODE_LIFE};

/// The access token, under the previous backend's names.
pub(crate) const ACCESS: [&str; 2] = ["token", "authToken"];
pub(crate) const REFRESH: &str = "refreshToken";
/// Set at a signup: the code may be typed from another network of the same browser.
pub(crate) const BROWSER: &str = "patchbaySignup";

/// Whether and how cookies are set.
#[derive(Debug, Clone, Copy)]
pub struct CookiePolicy {
    /// Logins set cookies beside their answer.
    pub is_on: bool,
    /// Pages of other sites may send them.
    pub cross_site: bool,
}

impl CookiePolicy {
    pub(crate) fn of_login(self, access: &str, refresh: Option<&str>) -> Vec<String> {
        if !self.is_on {
            return Vec::new();
        }
        let site = self.site();
        let mut set = vec![format!(
            "token={access}; Path=/; Max-Age={}; HttpOnly; Secure; SameSite={site}",
            ACCESS_LIFE.as_secs()
        )];
        if let Some(refresh) = refresh {
            let site = if self.cross_site { "None" } else { "Strict" };
            set.push(format!(
                "{REFRESH}={refresh}; Path=/api/auth; Max-Age={}; HttpOnly; Secure; SameSite={site}",
                REFRESH_LIFE.as_secs()
            ));
        }
        set
    }

    pub(crate) fn of_logout(self) -> Vec<String> {
        if !self.is_on {
            return Vec::new();
        }
        let site = self.site();
        let ended = |name: &str, path: &str| {
            format!("{name}=; Path={path}; Max-Age=0; HttpOnly; Secure; SameSite={site}")
        };
        let mut set: Vec<String> = ACCESS.iter().map(|name| ended(name, "/")).collect();
        set.push(ended(REFRESH, "/api/auth"));
        set
    }

    pub(crate) fn of_signup(self, browser: &str) -> Vec<String> {
        let site = self.site();
        let life = SIGNUP_CODE_LIFE.as_secs();
        vec![format!(
            "{BROWSER}={browser}; Path=/api/auth; Max-Age={life}; HttpOnly; Secure; SameSite={site}"
        )]
    }

    fn site(self) -> &'static str {
        if self.cross_site { "None" } else { "Lax" }
    }
}

/// The name of the cookie with an operator's session. Browsers accept the prefix only with HTTPS, for
/// this host alone; without HTTPS, only this machine gets another one.
pub(crate) fn operator_name(is_https: bool, client: IpAddr) -> &'static str {
    match !is_https && client.to_canonical().is_loopback() {
        true => "patchbay",
        false => "__Host-patchbay",
    }
}

/// Sets the session of an operator; without a secret, ends it. The browser forgets it when it is
/// closed; when it ends, the host decides.
pub(crate) fn of_operator(name: &str, secret: Option<&str>) -> String {
    let secure = if name.starts_with("__Host-") {
        "; Secure"
    } else {
        ""
    };
    let (value, life) = match secret {
        Some(secret) => (secret, ""),
        None => ("", "; Max-Age=0"),
    };
    format!("{name}={value}; Path=/{life}; HttpOnly{secure}; SameSite=Lax")
}

pub(crate) fn with(mut response: Response, set: Vec<String>) -> Response {
    for cookie in set {
        // Tokens are ASCII, so each is a header value.
        if let Ok(value) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(SET_COOKIE, value);
        }
    }
    response
}

/// The value of a cookie that is there once.
pub(crate) fn one(headers: &HeaderMap, name: &str) -> Option<String> {
    agreeing(headers, &[name])
}

/// Whether there is a cookie of accounts, of whatever value.
pub(crate) fn has_any(headers: &HeaderMap) -> bool {
    let names = [ACCESS[0], ACCESS[1], REFRESH, BROWSER];
    agreeing(headers, &names).is_some()
}

/// The value that all cookies of these names have. Two values: a text that is no token, since one of
/// them may come from a neighbouring host.
pub(crate) fn agreeing(headers: &HeaderMap, names: &[&str]) -> Option<String> {
    let values = headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| std::str::from_utf8(pair).ok()?.trim().split_once('='))
        .filter(|(name, _)| names.contains(name))
        .map(|(_, value)| value.trim_matches('"'));
    let mut found: Vec<&str> = values.collect();
    let count = found.len();
    found.dedup();
    match (found.as_slice(), names.len() == 1 && count > 1) {
        ([], _) => None,
        ([one], false) => Some((*one).to_owned()),
        _ => Some(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&'static str], names: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_static(line));
        }
        agreeing(&headers, names)
    }

    #[test]
    fn a_cookie_is_read_under_either_name() {
        assert_eq!(read(&["a=1; token=x"], &ACCESS).as_deref(), Some("x"));
        assert_eq!(read(&["authToken=x"], &ACCESS).as_deref(), Some("x"));
        assert_eq!(
            read(&["token=x", "authToken=x"], &ACCESS).as_deref(),
            Some("x")
        );
        assert_eq!(read(&["tokens=x"], &ACCESS), None);
    }

    #[test]
    fn the_session_of_an_operator_is_for_this_host_alone() {
        let name =
            |is_https, client: &str| operator_name(is_https, client.parse().expect("an address"));
        assert_eq!(name(false, "127.0.0.1"), "patchbay");
        assert_eq!(name(false, "::ffff:127.0.0.1"), "patchbay");
        assert_eq!(name(false, "10.0.0.1"), "__Host-patchbay");
        assert_eq!(name(true, "127.0.0.1"), "__Host-patchbay");
        assert_eq!(
            of_operator("__Host-patchbay", Some("s")),
            "__Host-patchbay=s; Path=/; HttpOnly; Secure; SameSite=Lax"
        );
        assert_eq!(
            of_operator("patchbay", None),
            "patchbay=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn cookies_that_disagree_are_no_token() {
        assert_eq!(read(&["token=x; token=y"], &ACCESS).as_deref(), Some(""));
        assert_eq!(
            read(&["token=x", "authToken=y"], &ACCESS).as_deref(),
            Some("")
        );
        assert_eq!(
            read(&["refreshToken=x; refreshToken=x"], &[REFRESH]).as_deref(),
            Some("")
        );
    }
}
