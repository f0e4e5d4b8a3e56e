//! `[schedule]`

use patchbay_model::schedule::Zone;

use super::key::{WinsOver, key, section};
use super::kind::scalar;

section! {
    /// Schedules.
    pub struct Schedule {
        /// Time zone of cron expressions that name none, such as Europe/Berlin; also of schedulers
        /// that Node made: give it the zone of Node's machines. Unset: TZ, if that names a zone
        default_zone: Zone =
            key("schedule.default_zone", scalar("must be a time zone, such as Europe/Berlin or UTC+5:30", |text| text.parse().ok()))
                .default("UTC")
                .or_from("TZ", WinsOver::Default, zone_of_tz);
    }
}

/// The C library's own forms of TZ (`CET-1CEST`, a path) name no zone. Nobody set TZ for Patchbay,
/// so this is not an error.
fn zone_of_tz(tz: &str) -> Option<String> {
    let zone = tz.trim_start_matches(':');
    zone.parse::<Zone>().is_ok().then(|| zone.to_owned())
}
