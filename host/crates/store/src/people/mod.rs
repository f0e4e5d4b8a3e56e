//! Accounts of API clients: rows of the old backend's table `users`, and what the host keeps beside
//! it: sessions, refresh tokens, one-time codes, mails that wait for their transaction.

mod blocking;
mod codes;
mod google;
mod logins;
mod mails;
mod passwords;
mod proposals;
mod sessions;
mod table;
mod users;

pub use codes::{CodePurpose, CodeRow, NewCode, NewSignup, Replaces};
pub use logins::{EmergencyLoginRow, NewLogin};
pub use mails::{MailBatch, OutgoingMail};
pub use sessions::{NewSession, Refreshed, SessionMethod, SessionRow, SessionView};
pub use table::UsersTable;
pub use users::{UserKey, UserListing, UserRow};

use sha2::{Digest, Sha256};

/// Marks a password without telling it: the first 8 bytes of SHA-256 of its hash.
pub fn password_mark(hash: Option<&str>) -> [u8; 8] {
    let digest = Sha256::digest(hash.unwrap_or_default().as_bytes());
    let mut mark = [0; 8];
    mark.copy_from_slice(&digest[..8]);
    mark
}
