//! How a key is declared, and how its value is read.

use std::ops::Deref;

use super::entry::{ConfigEntry, DEFAULT};
use super::environment::Environment;
use super::file::File;
use super::kind::{Form, Given, Kind};

/// Declares a section: fields with meaning (shown by `patchbay config`), type and key.
macro_rules! section {
    ($(#[$about:meta])+ pub struct $section:ident {
        $($(#[doc = $meaning:literal])+ $field:ident: $type:ty = $key:expr;)+
    }) => {
        $(#[$about])+
        #[allow(rustdoc::bare_urls, reason = "the text is shown to operators as it is")]
        pub struct $section {
            $($(#[doc = $meaning])+ pub $field: $crate::config::Setting<$type>,)+
        }

        impl $section {
            pub(super) fn read(from: &mut $crate::config::key::Sources<'_>) -> Self {
                Self { $($field: $key.read(concat!($($meaning),+).trim_start(), from),)+ }
            }

            pub(super) fn entries(&self) -> Vec<&$crate::config::ConfigEntry> {
                vec![$(&self.$field.entry),+]
            }
        }
    };
}
pub(super) use section;

/// The value of a key, with its entry.
pub struct Setting<T> {
    pub entry: ConfigEntry,
    value: T,
}

impl<T> Deref for Setting<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Setting<T> {
    /// Whether the file or the environment sets it.
    pub fn is_set(&self) -> bool {
        self.entry.is_set()
    }
}

/// The sources of values, and the problems that were found in them.
pub(super) struct Sources<'a> {
    pub(super) file: File,
    pub(super) environment: Environment<'a>,
    pub(super) problems: Vec<String>,
}

/// Which sources a foreign variable overrides. A key's own variable and its old names always
/// override a foreign one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WinsOver {
    File,
    Default,
}

type Foreign = (&'static str, WinsOver, fn(&str) -> Option<String>);

struct Declared {
    name: &'static str,
    form: Form,
    default: Option<&'static str>,
    old_names: &'static [&'static str],
    foreign: Option<Foreign>,
    is_secret: bool,
}

type Value<T> = dyn Fn(Option<&Given>, &Environment<'_>) -> Result<T, Vec<String>>;

/// A key whose value is a `T`.
pub(super) struct Key<T> {
    declared: Declared,
    value: Box<Value<T>>,
}

/// A key that is `None` unless it is set.
pub(super) fn key<T: 'static>(name: &'static str, kind: Kind<T>) -> Key<Option<T>> {
    let Kind { form, read } = kind;
    Key {
        declared: Declared {
            name,
            form,
            default: None,
            old_names: &[],
            foreign: None,
            is_secret: false,
        },
        value: Box::new(move |given, _| given.map(&read).transpose()),
    }
}

impl<T: 'static> Key<Option<T>> {
    /// The value unless it is set.
    pub(super) fn default(mut self, text: &'static str) -> Key<T> {
        self.declared.default = Some(text);
        self.otherwise(|_| unreachable!("a key with a default is always given"))
    }

    /// A default that depends on the environment; `patchbay config` does not show it as a value.
    pub(super) fn otherwise(self, absent: impl Fn(&Environment<'_>) -> T + 'static) -> Key<T> {
        let Self { declared, value } = self;
        let value = move |given: Option<&Given>, environment: &Environment<'_>| {
            Ok(value(given, environment)?.unwrap_or_else(|| absent(environment)))
        };
        Key {
            declared,
            value: Box::new(value),
        }
    }

    /// Empty unless it is set; `patchbay config` does not show the default as a value.
    pub(super) fn or_empty(self) -> Key<T>
    where
        T: Default,
    {
        self.otherwise(|_| T::default())
    }
}

impl<T> Key<T> {
    /// Variable names of the old backend, besides `PATCHBAY_<SECTION>_<KEY>`.
    pub(super) fn old(mut self, names: &'static [&'static str]) -> Self {
        self.declared.old_names = names;
        self
    }

    /// The text may also come from a variable of another program.
    pub(super) fn or_from(
        mut self,
        name: &'static str,
        over: WinsOver,
        text: fn(&str) -> Option<String>,
    ) -> Self {
        self.declared.foreign = Some((name, over, text));
        self
    }

    /// The value is never printed.
    pub(super) fn secret(mut self) -> Self {
        self.declared.is_secret = true;
        self
    }

    /// The default replaces an unreadable value, so that the others can be shown and checked.
    pub(super) fn read(self, about: &'static str, from: &mut Sources<'_>) -> Setting<T> {
        let Self {
            declared: key,
            value: read,
        } = self;
        let variable = format!(
            "PATCHBAY_{}",
            key.name.replace('.', "_").to_ascii_uppercase()
        );
        let (set, default) = (
            key.find(&variable, from),
            key.default.map(|text| key.given(text, DEFAULT)),
        );
        let given = set.as_ref().or(default.as_ref());
        let value = match given {
            // The problem was reported when it was found.
            Some(given) if !given.has_right_form => Err(Vec::new()),
            given => read(given, &from.environment),
        };
        let entry = ConfigEntry {
            key: key.name,
            value: given.map(|given| {
                if key.is_secret {
                    "(set)".into()
                } else {
                    without_login_and_query(&given.text)
                }
            }),
            source: given.map(|given| given.source.clone()),
            variable,
            about,
            other_variables: key
                .old_names
                .iter()
                .copied()
                .chain(key.foreign.map(|(name, ..)| name))
                .collect(),
            is_readable: value.is_ok(),
        };
        let value = value.unwrap_or_else(|problems| {
            from.problems.extend(problems);
            read(default.as_ref(), &from.environment).expect("a default can be read")
        });
        Setting { entry, value }
    }
}

/// Addresses without what may be a secret in them. Everything else stays as it was given.
fn without_login_and_query(text: &str) -> String {
    let shown = |item: &str| -> Option<String> {
        let mut url: url::Url = item.trim().parse().ok()?;
        if !url.has_host() {
            return None;
        }
        let has_login = !url.username().is_empty() || url.password().is_some();
        if !has_login && url.query().is_none() {
            return None;
        }
        if has_login {
            url.set_password(None).ok()?;
            url.set_username("(set)").ok()?;
        }
        if url.query().is_some() {
            url.set_query(Some("(set)"));
        }
        Some(url.to_string())
    };
    if !text.contains("://") {
        return text.to_owned();
    }
    let items = text
        .split(',')
        .map(|item| shown(item).unwrap_or_else(|| item.to_owned()));
    items.collect::<Vec<_>>().join(",")
}

impl Declared {
    fn given(&self, text: &str, source: &str) -> Given {
        let (text, source) = (text.to_owned(), source.to_owned());
        Given {
            key: self.name,
            text,
            source,
            is_secret: self.is_secret,
            has_right_form: true,
        }
    }

    fn find(&self, variable: &str, from: &mut Sources<'_>) -> Option<Given> {
        let Sources {
            file,
            environment,
            problems,
        } = from;
        let in_file = file.get(self.name, self.form).map(|(text, problem)| {
            let has_right_form = problem.is_none();
            problems.extend(problem);
            Given {
                has_right_form,
                ..self.given(&text, "patchbay.toml")
            }
        });
        let foreign = |wins_over| {
            let (name, _, text) = self.foreign.filter(|(_, over, _)| *over == wins_over)?;
            Some(self.given(&text(environment.get(name)?)?, name))
        };
        let names = std::iter::once(variable).chain(self.old_names.iter().copied());
        let mut set = names.filter_map(|name| Some((name, environment.get(name)?)));
        if let Some((first, value)) = set.next() {
            if let Some((other, _)) = set.find(|(_, other)| *other != value) {
                problems.push(format!(
                    "{}: {first} and {other} have different values: set one",
                    self.name
                ));
            }
            return Some(self.given(value, first));
        }
        // If our variable is set to nothing, the foreign variable is not meant for Patchbay.
        let over_file = if environment.has(variable) {
            None
        } else {
            foreign(WinsOver::File)
        };
        over_file.or(in_file).or_else(|| foreign(WinsOver::Default))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_printed_without_login_and_query() {
        for (given, shown) in [
            (
                "https://u:p@h.example/x?key=1",
                "https://(set)@h.example/x?(set)",
            ),
            ("https://h.example/x", "https://h.example/x"),
            ("a://b, https://h/?q", "a://b,https://h/?(set)"),
            ("no address", "no address"),
        ] {
            let printed = without_login_and_query(given);
            assert_eq!(printed, shown, "{given}");
        }
    }
}
