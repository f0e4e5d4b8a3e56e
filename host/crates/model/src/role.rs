//! The roles of accounts, and of routes for them.

use serde::{Deserialize, Serialize};

/// What an account may do. Clients and the old backend's table know these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    User,
    Admin,
    Finance,
    Expert,
    Sales,
    SalesHead,
    ExternalHr,
    BatchLead,
    SuperMentor,
    CommunityManager,
}

impl Role {
    pub const ALL: [Self; 10] = [
        Self::User,
        Self::Admin,
        Self::Finance,
        Self::Expert,
        Self::Sales,
        Self::SalesHead,
        Self::ExternalHr,
        Self::BatchLead,
        Self::SuperMentor,
        Self::CommunityManager,
    ];

    /// As it is stored, and stands in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
            Self::Finance => "finance",
            Self::Expert => "expert",
            Self::Sales => "sales",
            Self::SalesHead => "sales_head",
            Self::ExternalHr => "external_hr",
            Self::BatchLead => "batch_lead",
            Self::SuperMentor => "super_mentor",
            Self::CommunityManager => "community_manager",
        }
    }

    /// In any case. A retired role of the old backend reads as the one that took its place. `None`
    /// for an unknown text: such an account has no role.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        match text.as_str() {
            "superadmin" | "super_admin" => Some(Self::Admin),
            _ => Self::ALL.into_iter().find(|role| role.as_str() == text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_in_any_case() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Some(role));
            assert_eq!(Role::parse(&role.as_str().to_uppercase()), Some(role));
        }
        assert_eq!(Role::parse("SUPERADMIN"), Some(Role::Admin));
        assert_eq!(Role::parse("root"), None);
    }
}
