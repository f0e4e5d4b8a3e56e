//! Who a key belongs to, by its name.

use crate::access::RedisConfig;

/// Who writes a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOwner {
    /// Nobody that Patchbay knows: another program, for example a cache of the application.
    Nobody,
    /// A queue: BullMQ's scripts depend on it. Holds the queue's name.
    Queue(String),
    /// Patchbay itself.
    Host,
    /// A plugin's key-value space. Holds the plugin's name.
    Plugin(String),
    /// A key-value space that plugins share.
    SharedByPlugins,
}

impl KeyOwner {
    pub(super) fn of(key: &[u8], config: &RedisConfig) -> Self {
        let name = |bytes: &[u8]| {
            let end = bytes.iter().position(|byte| *byte == b':');
            String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
        };
        // Patchbay's own prefix may be longer than BullMQ's and begin with it.
        if let Some(rest) = below(key, &config.own_prefix) {
            return match rest.strip_prefix(b"kv:") {
                Some(rest) if rest.starts_with(b"shared:") => Self::SharedByPlugins,
                Some(rest) if rest.starts_with(b"plugin:") => {
                    Self::Plugin(name(&rest[b"plugin:".len()..]))
                }
                _ => Self::Host,
            };
        }
        match below(key, &config.prefix) {
            Some(rest) => Self::Queue(name(rest)),
            None => Self::Nobody,
        }
    }

    /// Whether the key may be read only: others depend on it.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Queue(_) | Self::Host)
    }
}

fn below<'k>(key: &'k [u8], prefix: &str) -> Option<&'k [u8]> {
    key.strip_prefix(prefix.as_bytes())?.strip_prefix(b":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_whom_its_prefix_names() {
        let config = RedisConfig {
            prefix: "bull".into(),
            own_prefix: "bull:patchbay".into(),
            ..RedisConfig::default()
        };
        for (key, owner, is_read_only) in [
            (
                "bull:emailQueue:wait",
                KeyOwner::Queue("emailQueue".into()),
                true,
            ),
            ("bull:", KeyOwner::Queue(String::new()), true),
            ("bull", KeyOwner::Nobody, false),
            ("bulletin:1", KeyOwner::Nobody, false),
            ("bull:patchbay:attempts", KeyOwner::Host, true),
            ("bull:patchbay:kv:other", KeyOwner::Host, true),
            (
                "bull:patchbay:kv:plugin:email:sent:7",
                KeyOwner::Plugin("email".into()),
                false,
            ),
            (
                "bull:patchbay:kv:shared:rate:7",
                KeyOwner::SharedByPlugins,
                false,
            ),
        ] {
            let found = KeyOwner::of(key.as_bytes(), &config);
            assert_eq!(
                (found.is_read_only(), found),
                (is_read_only, owner),
                "{key}"
            );
        }
    }
}
