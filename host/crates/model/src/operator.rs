//! What an operator may do: a role, the right to see data of jobs, and, for a program's token, the
//! scopes that it was given.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an operator may do. Each role includes the ones before it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum OperatorRole {
    /// Sees.
    Viewer,
    /// Runs queues, and replaces plugins within the rights that they have.
    Operator,
    /// Gives rights: to people, plugins and secrets; and deletes for good.
    Owner,
}

impl OperatorRole {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Owner];

    /// As it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Owner => "owner",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

impl fmt::Display for OperatorRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A group of operations that a token may call, in one of three ways.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// As `queues`; `all` for every group.
    pub group: String,
    pub reach: Reach,
}

/// How far a scope goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// `queues:read`
    Read,
    /// `queues:write`, which includes reading.
    Write,
    /// `owner:queues`, which includes both. Only an owner gives it.
    Owner,
}

/// The group that stands for all of them.
pub const EVERY_GROUP: &str = "all";

impl Scope {
    pub fn parse(text: &str) -> Option<Self> {
        let (first, second) = text.split_once(':')?;
        let (group, reach) = match (first, second) {
            ("owner", group) => (group, Reach::Owner),
            (group, "read") => (group, Reach::Read),
            (group, "write") => (group, Reach::Write),
            _ => return None,
        };
        let is_name = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        };
        let is_open = reach != Reach::Owner || group != EVERY_GROUP;
        (is_name(group) && is_open).then(|| Self {
            group: group.to_owned(),
            reach,
        })
    }

    /// Whether it opens operations of this group that need this reach.
    pub fn opens(&self, group: &str, needed: Reach) -> bool {
        (self.group == group || self.group == EVERY_GROUP) && self.reach >= needed
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, reach } = self;
        match reach {
            Reach::Read => write!(f, "{group}:read"),
            Reach::Write => write!(f, "{group}:write"),
            Reach::Owner => write!(f, "owner:{group}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_includes_the_ones_before_it() {
        assert!(OperatorRole::Owner > OperatorRole::Operator);
        assert!(OperatorRole::Operator > OperatorRole::Viewer);
        for role in OperatorRole::ALL {
            assert_eq!(OperatorRole::parse(role.as_str()), Some(role));
        }
        assert_eq!(OperatorRole::parse("Owner"), None);
    }

    #[test]
    fn a_scope_opens_its_group_up_to_its_reach() {
        let opens = |scope: &str, group: &str, needed| {
            Scope::parse(scope).expect("a scope").opens(group, needed)
        };
        assert!(opens("queues:read", "queues", Reach::Read));
        assert!(!opens("queues:read", "queues", Reach::Write));
        assert!(!opens("queues:read", "plugins", Reach::Read));
        assert!(opens("queues:write", "queues", Reach::Read));
        assert!(!opens("all:write", "queues", Reach::Owner));
        assert!(opens("owner:secrets", "secrets", Reach::Write));
        assert!(opens("all:read", "plugins", Reach::Read));
    }

    #[test]
    fn what_is_no_scope_is_not_read() {
        for text in [
            "",
            "queues",
            "queues:",
            ":read",
            "queues:all",
            "owner:all",
            "Queues:read",
            "a b:read",
        ] {
            assert_eq!(Scope::parse(text), None, "{text}");
        }
        let scope = Scope::parse("owner:dead-letters").expect("a scope");
        assert_eq!(scope.to_string(), "owner:dead-letters");
    }
}
