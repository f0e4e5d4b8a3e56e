//! Cookies of accounts: reading them without trusting a neighbouring host, and writing them.

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
