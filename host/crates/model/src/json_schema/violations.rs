//! Why a document does not fit its schema: which of its values, and what is wrong with them.

use std::fmt;

use serde::Serialize;

/// One value that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Violation {
    /// JSON Pointer to the value; empty for the whole document.
    pub path: String,
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The first values that do not fit, by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violations {
    pub listed: Vec<Violation>,
    /// Whether there are more than those listed.
    pub has_more: bool,
}

impl Violations {
    /// The document as a whole does not fit.
    pub fn whole(message: impl Into<String>) -> Self {
        let violation = Violation {
            path: String::new(),
            message: message.into(),
        };
        Self {
            listed: vec![violation],
            has_more: false,
        }
    }

    pub(super) fn first(mut violations: impl Iterator<Item = Violation>, most: usize) -> Self {
        let mut listed: Vec<Violation> = violations.by_ref().take(most).collect();
        listed.sort();
        Self {
            listed,
            has_more: violations.next().is_some(),
        }
    }
}

/// In one line: `/a: reason; /b: reason`.
impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, violation) in self.listed.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}{violation}")?;
        }
        match (self.has_more, self.listed.len()) {
            (false, _) => Ok(()),
            (true, 1) => f.write_str(" (the first violation; there are more)"),
            (true, shown) => write!(f, " (the first {shown} violations; there are more)"),
        }
    }
}
