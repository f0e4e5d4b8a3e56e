//! Kinds of values: how a text is read, and the error when it cannot be read.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use patchbay_mailbox::{AddressError, Mailbox, parse_list};
use url::Url;

/// The text of a value, before it is read.
pub(super) struct Given {
    pub(super) key: &'static str,
    pub(super) text: String,
    pub(super) source: String,
    pub(super) is_secret: bool,
    pub(super) has_right_form: bool,
}

impl Given {
    /// The message for a value that cannot be read.
    pub(super) fn problem(&self, reason: &str) -> String {
        let shown = if self.is_secret {
            String::new()
        } else {
            format!(", not {:?}", self.text)
        };
        format!("{} (from {}): {reason}{shown}", self.key, self.source)
    }
}

/// Types in the file besides string and whole number. In the environment all values are texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Scalar,
    Boolean,
    /// Comma-separated in the environment.
    Array,
}

type Read<T> = dyn Fn(&Given) -> Result<T, Vec<String>>;

pub(super) struct Kind<T> {
    pub(super) form: Form,
    pub(super) read: Box<Read<T>>,
}

impl<T> Kind<T> {
    /// A kind that makes its own error messages.
    pub(super) fn new(form: Form, read: impl Fn(&Given) -> Result<T, String> + 'static) -> Self {
        Self {
            form,
            read: Box::new(move |given| read(given).map_err(|problem| vec![problem])),
        }
    }

    fn of(
        form: Form,
        reason: impl Into<String>,
        parse: impl Fn(&str) -> Option<T> + 'static,
    ) -> Self {
        let reason = reason.into();
        Self::new(form, move |given| {
            parse(&given.text).ok_or_else(|| given.problem(&reason))
        })
    }
}

/// A single value; `reason` says what it must be.
pub(super) fn scalar<T>(
    reason: impl Into<String>,
    parse: impl Fn(&str) -> Option<T> + 'static,
) -> Kind<T> {
    Kind::of(Form::Scalar, reason, parse)
}

/// Any text: a name, or the path of a file.
pub(super) fn text<T: From<String>>() -> Kind<T> {
    Kind::new(Form::Scalar, |given| Ok(given.text.clone().into()))
}

/// A whole number within bounds.
pub(super) fn number<N: TryFrom<u64>>(bounds: RangeInclusive<u64>) -> Kind<N> {
    whole(bounds, |number| N::try_from(number).ok())
}

/// A number of seconds.
pub(super) fn seconds(bounds: RangeInclusive<u64>) -> Kind<Duration> {
    whole(bounds, |number| Some(Duration::from_secs(number)))
}

/// A number of milliseconds.
pub(super) fn milliseconds(bounds: RangeInclusive<u64>) -> Kind<Duration> {
    whole(bounds, |number| Some(Duration::from_millis(number)))
}

/// A number of MiB; returns bytes.
pub(super) fn mebibytes<N: TryFrom<u64>>(bounds: RangeInclusive<u64>) -> Kind<N> {
    whole(bounds, |number| N::try_from(number << 20).ok())
}

fn whole<T>(bounds: RangeInclusive<u64>, value: impl Fn(u64) -> Option<T> + 'static) -> Kind<T> {
    scalar(
        format!(
            "must be a whole number from {} to {}",
            bounds.start(),
            bounds.end()
        ),
        move |text| value(text.parse().ok().filter(|number| bounds.contains(number))?),
    )
}

pub(super) fn boolean() -> Kind<bool> {
    Kind::of(Form::Boolean, "must be true or false", |text| {
        text.parse().ok()
    })
}

/// One of these names; returns its value.
pub(super) fn one_of<T: Copy>(choices: &'static [(&'static str, T)]) -> Kind<T> {
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    scalar(format!("must be one of {}", names.join(", ")), |text| {
        choices
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, choice)| *choice)
    })
}

/// One of these names.
pub(super) fn name_of(names: &'static [&'static str]) -> Kind<&'static str> {
    scalar(format!("must be one of {}", names.join(", ")), |text| {
        names.iter().find(|name| **name == text).copied()
    })
}

pub(super) fn list() -> Kind<Vec<String>> {
    Kind::new(Form::Array, |given| {
        Ok(items(&given.text).map(str::to_owned).collect())
    })
}

fn list_of<T: 'static>(reason: &str, parse: fn(&str) -> Option<T>) -> Kind<Vec<T>> {
    Kind::of(Form::Array, reason, move |text| {
        items(text).map(parse).collect()
    })
}

/// The items of a comma-separated list, without empty ones.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

/// `address:port`.
pub(super) fn listen() -> Kind<SocketAddr> {
    scalar("must be address:port, such as 127.0.0.1:8080", |text| {
        text.parse().ok()
    })
}

/// A single address is read as a network of one address.
pub(super) fn networks() -> Kind<Vec<IpNet>> {
    list_of(
        "must be a list of addresses and networks, such as 127.0.0.1,10.0.0.0/8",
        |text| {
            text.parse()
                .ok()
                .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        },
    )
}

/// As a browser writes them: without a path, and without the scheme's default port.
pub(super) fn origins() -> Kind<Vec<String>> {
    let reason = "must be a list of origins, such as https://app.example: http:// or https://, a name, and a port if it is not the default port; no path, no * and no null";
    list_of(reason, origin_of)
}

/// One origin.
pub(super) fn origin() -> Kind<String> {
    let reason = "must be an address such as https://api.example: http:// or https://, a name, and a port if it is not the default port; no path";
    scalar(reason, origin_of)
}

/// In lower case, as browsers send it.
fn origin_of(text: &str) -> Option<String> {
    let origin = web_url(text)?.origin().ascii_serialization();
    origin.eq_ignore_ascii_case(text).then_some(origin)
}

/// From 0.0 to 1.0.
pub(super) fn ratio() -> Kind<f64> {
    scalar("must be a number from 0 to 1, such as 0.1", |text| {
        text.parse()
            .ok()
            .filter(|ratio| (0.0..=1.0).contains(ratio))
    })
}

/// An HTTP URL that may contain a secret.
pub(super) fn secret_url() -> Kind<Url> {
    Kind::new(Form::Scalar, |given| {
        web_url(&given.text)
            .ok_or_else(|| format!("{} is not an http:// or https:// URL", given.key))
    })
}

pub(super) fn web_url(text: &str) -> Option<Url> {
    text.parse()
        .ok()
        .filter(|url: &Url| matches!(url.scheme(), "http" | "https"))
}

/// One mail address, returned as it was given.
pub(super) fn sender() -> Kind<String> {
    Kind::new(Form::Scalar, |given| {
        addressed(given, |text| {
            text.parse::<Mailbox>().map(|_| text.to_owned())
        })
    })
}

pub(super) fn mailboxes() -> Kind<Vec<Mailbox>> {
    Kind::new(Form::Array, |given| addressed(given, parse_list))
}

fn addressed<T>(
    given: &Given,
    parse: impl Fn(&str) -> Result<T, AddressError>,
) -> Result<T, String> {
    parse(&given.text).map_err(|error| format!("{}: {:?} {error}", given.key, given.text))
}
