//! How a key is declared, and what is read of it.

use std::ops::Deref;

use super::environment::Environment;
use super::file::File;
use super::kind::{Form, Kind};

/// The source of a value that nobody set.
const DEFAULT: &str = "default";

/// Declares a section: each field with its meaning, its type, and its key. The meaning is what `patchbay config` shows.
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

/// The value of a key, beside what is said of it.
pub struct Setting<T> {
    /// For people.
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

/// A key as it stands, for `patchbay config`.
#[derive(Debug, serde::Serialize)]
pub struct ConfigEntry {
    /// Section and name.
    pub key: &'static str,
    /// As it is given, or `(set)` for secrets.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// The variable that sets it.
    pub variable: String,
    /// What it means.
    pub about: &'static str,
    /// Others that do.
    #[serde(skip)]
    pub(super) other_variables: Vec<&'static str>,
    /// Otherwise the setting has its default.
    #[serde(skip)]
    pub(super) is_readable: bool,
}

impl ConfigEntry {
    /// Whether the file or the environment sets it.
    pub fn is_set(&self) -> bool {
        self.source.as_deref().is_some_and(|source| source != DEFAULT)
    }
}

/// Where values come from, and what is wrong with them.
pub(super) struct Sources<'a> {
    pub(super) file: File,
    pub(super) environment: Environment<'a>,
    pub(super) problems: Vec<String>,
}

/// The text of a value, before it is read.
pub(super) struct Given {
    pub(super) key: &'static str,
    pub(super) text: String,
    pub(super) source: String,
    is_secret: bool,
}

impl Given {
    /// What to say of a value that cannot be read.
    pub(super) fn problem(&self, reason: &str) -> String {
        let shown = if self.is_secret { String::new() } else { format!(" {:?}", self.text) };
        format!("{} (from {}): value{shown} {reason}", self.key, self.source)
    }
}

/// What a variable of others wins over; a key's own variable and its old names win over it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WinsOver {
    File,
    Default,
}

/// A variable that is not ours, and what follows from it.
struct Foreign {
    variable: &'static str,
    wins_over: WinsOver,
    text: fn(&str) -> Option<String>,
}

struct Declared {
    name: &'static str,
    form: Form,
    default: Option<&'static str>,
    old_names: &'static [&'static str],
    foreign: Option<Foreign>,
    is_secret: bool,
}

type Value<T> = dyn Fn(Option<&Given>, &Environment<'_>) -> Result<T, Vec<String>>;

/// A key that gives a `T`.
pub(super) struct Key<T> {
    declared: Declared,
    value: Box<Value<T>>,
}

/// A key that is nothing unless somebody sets it.
pub(super) fn key<T: 'static>(name: &'static str, kind: Kind<T>) -> Key<Option<T>> {
    let Kind { form, read } = kind;
    Key {
        declared: Declared { name, form, default: None, old_names: &[], foreign: None, is_secret: false },
        value: Box::new(move |given, _| given.map(&read).transpose()),
    }
}

impl<T: 'static> Key<Option<T>> {
    /// What it is unless somebody sets it.
    pub(super) fn default(mut self, text: &'static str) -> Key<T> {
        self.declared.default = Some(text);
        self.otherwise(|_| unreachable!("a key with a default is always given"))
    }

    /// Likewise, where that depends on the environment; not shown as a value.
    pub(super) fn otherwise(self, absent: impl Fn(&Environment<'_>) -> T + 'static) -> Key<T> {
        let Self { declared, value } = self;
        let value = move |given: Option<&Given>, environment: &Environment<'_>| {
            Ok(value(given, environment)?.unwrap_or_else(|| absent(environment)))
        };
        Key { declared, value: Box::new(value) }
    }

    /// Empty unless somebody sets it; not shown as a value.
    pub(super) fn or_empty(self) -> Key<T>
    where
        T: Default,
    {
        self.otherwise(|_| T::default())
    }
}

impl<T> Key<T> {
    /// Names that the old backend used, besides `PATCHBAY_<SECTION>_<KEY>`.
    pub(super) fn old(mut self, names: &'static [&'static str]) -> Self {
        self.declared.old_names = names;
        self
    }

    /// Follows from a variable that is not ours.
    pub(super) fn or_from(
        mut self,
        variable: &'static str,
        wins_over: WinsOver,
        text: fn(&str) -> Option<String>,
    ) -> Self {
        self.declared.foreign = Some(Foreign { variable, wins_over, text });
        self
    }

    /// Never printed.
    pub(super) fn secret(mut self) -> Self {
        self.declared.is_secret = true;
        self
    }

    /// A value that cannot be read is replaced by the default, so that the rest can be shown and checked.
    pub(super) fn read(self, about: &'static str, from: &mut Sources<'_>) -> Setting<T> {
        let Self { declared: key, value: read } = self;
        let variable = format!("PATCHBAY_{}", key.name.replace('.', "_").to_ascii_uppercase());
        let given = |text, source| Given { key: key.name, text, source, is_secret: key.is_secret };
        let default = key.default.map(|text| given(text.to_owned(), DEFAULT.into()));
        let mut fault = None;
        let in_file = from.file.get(key.name, key.form).map(|(text, problem)| {
            fault = problem;
            given(text, "patchbay.toml".into())
        });
        from.problems.extend(fault.clone());
        let foreign = |wins_over| {
            let foreign = key.foreign.as_ref().filter(|foreign| foreign.wins_over == wins_over)?;
            // Set to nothing, ours says that PORT is not meant for us.
            if from.environment.has(&variable) && wins_over == WinsOver::File {
                return None;
            }
            Some(given((foreign.text)(from.environment.get(foreign.variable)?)?, foreign.variable.into()))
        };
        let (in_environment, conflict) = from.environment.find(key.name, &variable, key.old_names);
        let in_environment = in_environment.map(|(name, text)| given(text, name)).or_else(|| foreign(WinsOver::File));
        if in_environment.is_some() {
            fault = None;
        }
        let set = in_environment.or(in_file).or_else(|| foreign(WinsOver::Default));
        from.problems.extend(conflict);
        let value = match set.as_ref() {
            Some(_) if fault.is_some() => None,
            set => match read(set.or(default.as_ref()), &from.environment) {
                Ok(value) => Some(value),
                Err(problems) => {
                    from.problems.extend(problems);
                    None
                }
            },
        };
        let is_readable = value.is_some();
        let value = value.unwrap_or_else(|| {
            let value = read(default.as_ref(), &from.environment);
            value.unwrap_or_else(|problems| panic!("a default cannot be read: {problems:?}"))
        });
        let shown = set.or(default);
        let entry = ConfigEntry {
            key: key.name,
            source: shown.as_ref().map(|shown| shown.source.clone()),
            value: shown.map(|shown| if key.is_secret { "(set)".into() } else { shown.text }),
            variable,
            about,
            other_variables: key.old_names.iter().copied().chain(key.foreign.map(|foreign| foreign.variable)).collect(),
            is_readable,
        };
        Setting { entry, value }
    }
}
