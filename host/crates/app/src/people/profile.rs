//! What an account says of itself.

use patchbay_api::people as api;
use patchbay_store::UserRow;
use serde_json::{Map, Value};
use url::Url;

use super::{People, Principal, within};
use crate::error::Error;

impl People {
    /// Fills in the profile, the last step of a signup.
    pub async fn complete_profile(
        &self,
        who: &Principal,
        body: api::CompleteProfile,
    ) -> Result<api::Profiled, Error> {
        let parts = self.parts()?;
        let table = parts.table().await?;
        let fields = [
            ("fullName", "fullName", body.full_name, 255),
            ("phone", "phone", body.phone, 20),
            ("profession", "profession", body.profession, 255),
            ("domain", "domain", body.domain, 255),
            ("profilePhoto", "profilePhoto", body.profile_photo, 2_048),
        ];
        let mut values: Map<String, Value> = Map::new();
        for (column, field, value, longest) in fields {
            let Some(value) = value else { continue };
            let value = value.trim();
            if value.chars().count() > longest || value.contains('\0') {
                return Err(Error::invalid(format!(
                    "{field}: must have at most {longest} characters and no NUL character"
                )));
            }
            if field == "profilePhoto" && !is_address_of_image(value) {
                return Err(Error::invalid(
                    "profilePhoto: must be an address that begins with http:// or https://, or empty",
                ));
            }
            values.insert(column.to_owned(), value.into());
        }
        values.insert("isProfileComplete".into(), "true".into());
        if stage_of(&who.user) == 2 {
            values.insert("stage".into(), table.stage(3).into());
        }
        within(parts.store.change_user(table, &who.user.id, &values)).await?;
        parts.user_changed(&who.user.id);
        let key = patchbay_store::UserKey::Id(&who.user.id);
        let user = within(parts.store.find_user(table, key)).await?;
        let user = user.ok_or_else(|| Error::not_found("User not found"))?;
        let token = match who.session {
            Some(session) => {
                let now = parts.now_ms();
                Some(
                    parts
                        .tokens
                        .sign(&user, session, who.is_master, now)
                        .await?,
                )
            }
            None => None,
        };
        Ok(api::Profiled {
            success: true,
            message: "Signup successful".to_owned(),
            token,
        })
    }

    /// The account as its owner sees it.
    pub fn profile(&self, who: &Principal) -> Result<api::Profile, Error> {
        self.parts()?;
        Ok(api::Profile {
            success: true,
            data: profile_of(&who.user),
        })
    }
}

/// Pages link to it, so nothing that a browser would run.
fn is_address_of_image(text: &str) -> bool {
    let is_web = |url: Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    text.is_empty() || (!text.chars().any(char::is_control) && Url::parse(text).is_ok_and(is_web))
}

fn profile_of(user: &UserRow) -> api::ProfileData {
    api::ProfileData {
        id: user.id.clone(),
        email: user.email.clone(),
        role: user.role.clone(),
        full_name: user.full_name.clone(),
        phone: user.phone.clone(),
        profession: user.profession.clone(),
        domain: user.domain.clone(),
        profile_photo: user.profile_photo.clone(),
        is_verified: user.is_verified,
        is_profile_complete: user.is_profile_complete,
        stage: stage_of(user),
    }
}

/// 1 signed up, 2 verified, 3 with a profile.
pub(super) fn stage_of(user: &UserRow) -> u8 {
    match user.stage.as_deref() {
        Some("2" | "OTP_VERIFIED") => 2,
        Some("3" | "PROFILE_COMPLETE") => 3,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::is_address_of_image;

    #[test]
    fn a_photo_is_an_address_of_the_web_or_none() {
        for text in ["", "https://example.com/a.png", "HTTP://example.com/a?b=c"] {
            assert!(is_address_of_image(text), "{text}");
        }
        for text in [
            "javascript:alert(1)",
            "java\nscript:alert(1)",
            "https://example.com/\ta",
            "data:text/html,x",
            "//example.com/a.png",
            "/a.png",
            "https://",
            "a.png",
        ] {
            assert!(!is_address_of_image(text), "{text}");
        }
    }
}
