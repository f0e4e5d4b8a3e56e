//! Recordings: the host fetches the vendor's file with the account's credentials and passes it on.
//! Neither they nor the address reach the client.

use patchbay_plugin::{Answer, Failure, Request, Retry};
use serde::Deserialize;

use crate::access;
use crate::settings::Settings;
use crate::store::{self, Key};

/// Besides the account's own cluster. The manifest has an egress rule for each.
const PLACES: [&str; 2] = [
    "https://recordings.exotel.com/exotelrecordings/",
    "https://s3-ap-southeast-1.amazonaws.com/exotelrecordings/",
];

#[derive(Deserialize)]
struct Input {
    path: Path,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    lead_id: String,
    call_id: String,
}

pub fn play(request: &Request) -> Result<Answer, Failure> {
    let input: Input = request.parse()?;
    let settings = Settings::load()?;
    let person = access::person(&request.caller)?;
    let lead = access::lead(&person, &input.path.lead_id, &settings)?;
    let call = store::find_call(Key::Row(&input.path.call_id))?
        .filter(|call| call.lead_id == lead.id)
        .ok_or_else(|| Failure::new("not-found", "there is no such call", Retry::Never))?;
    let url = call.state.recording_url.ok_or_else(|| {
        Failure::new("not-found", "the call has no recording (yet)", Retry::Never)
    })?;
    if !is_ours(&url, &settings.api_url) {
        return Err(Failure::new(
            "upstream",
            "the vendor names a place for the recording that this plugin does not know",
            Retry::Never,
        ));
    }
    Ok(Answer::relay(&url))
}

fn is_ours(url: &str, api_url: &str) -> bool {
    PLACES.iter().any(|place| url.starts_with(place)) || url.starts_with(&format!("{api_url}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_come_from_the_vendor_and_from_nowhere_else() {
        let api = "https://api.exotel.com";
        for url in [
            "https://recordings.exotel.com/exotelrecordings/sid/a.mp3",
            "https://s3-ap-southeast-1.amazonaws.com/exotelrecordings/sid/a.mp3",
            "https://api.exotel.com/v1/Accounts/sid/a.mp3",
        ] {
            assert!(is_ours(url, api), "{url}");
        }
        for url in [
            "http://recordings.exotel.com/exotelrecordings/sid/a.mp3",
            "https://recordings.exotel.com.example/exotelrecordings/a.mp3",
            "https://api.exotel.com@evil.example/a.mp3",
            "https://api.exotel.com.evil.example/a.mp3",
            "https://s3-ap-southeast-1.amazonaws.com/other/a.mp3",
            "http://169.254.169.254/latest",
        ] {
            assert!(!is_ours(url, api), "{url}");
        }
    }
}
