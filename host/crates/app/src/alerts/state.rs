//! The life of one alert: in order → pending → firing → in order. Pure.
//!
//! How long a condition has held is counted in time that has passed between two looks of one process, by its monotonic clock, and never
//! computed from dates: a clock that jumps fires nothing, forgets nothing and repeats nothing.

use std::time::Duration;

/// A condition that has held for long must be gone for a while, or an alert would come and go with each look; but nobody waits longer
/// than this for the good news.
const LONGEST_CLEAR: Duration = Duration::from_secs(60);

/// An alert that is not in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Pending when false.
    pub(super) firing: bool,
    /// Pending: how long the condition has held. Firing: how long it has not.
    pub(super) held: Duration,
    /// Since somebody was last told.
    pub(super) quiet: Duration,
    /// Somebody was told that it fires.
    pub(super) announced: bool,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It fires.
    Firing,
    /// It still does.
    StillFiring,
    /// It is in order again.
    Recovered,
}

impl Event {
    /// The stable word.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::StillFiring => "still-firing",
            Self::Recovered => "recovered",
        }
    }
}

/// One look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Whether the condition holds; absent when nobody could look.
    pub(super) holds: Option<bool>,
    /// How long it must, before it fires.
    pub(super) hold: Duration,
    /// Nobody is to be told.
    pub(super) silenced: bool,
    /// Since the look before; nothing for a process's first.
    pub(super) passed: Duration,
    /// How often it is told again.
    pub(super) repeat: Duration,
}

/// What follows from a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transition {
    /// Absent: in order.
    pub(super) now: Option<Standing>,
    /// To be remembered.
    pub(super) event: Option<Event>,
    /// Whether somebody is to be told of it.
    pub(super) tell: bool,
}

/// From a look to the next state.
pub(super) fn step(before: Option<Standing>, look: &Look) -> Transition {
    let stays = |now| Transition { now, event: None, tell: false };
    let Some(holds) = look.holds else { return stays(before) };
    match (before, holds) {
        (None, false) => stays(None),
        (None, true) => begin_or_wait(Duration::ZERO, look),
        (Some(pending), false) if !pending.firing => stays(None),
        (Some(pending), true) if !pending.firing => begin_or_wait(pending.held + look.passed, look),
        (Some(firing), false) => {
            let held = firing.held + look.passed;
            if held >= look.hold.min(LONGEST_CLEAR) {
                // Also while it is silenced: whoever was told of the trouble is told of its end.
                return Transition { now: None, event: Some(Event::Recovered), tell: firing.announced };
            }
            stays(Some(Standing { held, quiet: firing.quiet + look.passed, ..firing }))
        }
        (Some(firing), true) => {
            let quiet = firing.quiet + look.passed;
            let firing = Standing { held: Duration::ZERO, quiet, ..firing };
            if look.silenced {
                return stays(Some(firing));
            }
            let event = match firing.announced {
                // It began during a silence that has ended.
                false => Event::Firing,
                true if quiet >= look.repeat => Event::StillFiring,
                true => return stays(Some(firing)),
            };
            let told = Standing { quiet: Duration::ZERO, announced: true, ..firing };
            Transition { now: Some(told), event: Some(event), tell: true }
        }
    }
}

fn begin_or_wait(held: Duration, look: &Look) -> Transition {
    let firing = held >= look.hold;
    let tell = firing && !look.silenced;
    let held = if firing { Duration::ZERO } else { held };
    let now = Standing { firing, held, quiet: Duration::ZERO, announced: tell };
    Transition { now: Some(now), event: firing.then_some(Event::Firing), tell }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Look = Look {
        holds: Some(true),
        hold: Duration::from_secs(60),
        silenced: false,
        passed: Duration::from_secs(15),
        repeat: Duration::from_secs(3_600),
    };
    const GONE: Look = Look { holds: Some(false), ..LOOK };

    /// What is told, look by look.
    fn told(looks: &[Look]) -> (Option<Standing>, Vec<Option<Event>>) {
        let mut standing = None;
        let told = looks.iter().map(|look| {
            let step = step(standing, look);
            standing = step.now;
            step.event.filter(|_| step.tell)
        });
        let told = told.collect();
        (standing, told)
    }

    #[test]
    fn a_condition_fires_once_it_has_held_long_enough_and_is_not_repeated() {
        let (standing, told) = told(&[LOOK; 8]);
        assert_eq!(told, [None, None, None, None, Some(Event::Firing), None, None, None]);
        assert!(standing.is_some_and(|standing| standing.firing && standing.announced));
    }

    #[test]
    fn one_that_need_not_hold_fires_and_recovers_at_once() {
        let at_once = |look| Look { hold: Duration::ZERO, ..look };
        assert_eq!(told(&[at_once(LOOK), at_once(GONE)]).1, [Some(Event::Firing), Some(Event::Recovered)]);
    }

    #[test]
    fn one_that_comes_and_goes_does_not_fire_and_begins_anew() {
        let (standing, told) = told(&[LOOK, LOOK, LOOK, GONE, LOOK, LOOK]);
        assert_eq!(told, [None; 6]);
        assert_eq!(standing.map(|standing| standing.held), Some(LOOK.passed));
    }

    #[test]
    fn it_recovers_once_the_condition_has_been_gone_for_a_while_and_not_by_a_gap() {
        let mut looks = vec![LOOK; 5];
        looks.extend([GONE, GONE, LOOK, GONE, GONE, GONE, GONE]);
        let (standing, told) = told(&looks);
        assert_eq!(told.iter().filter(|told| told.is_some()).count(), 2, "{told:?}");
        assert_eq!((standing, told.last()), (None, Some(&Some(Event::Recovered))));
    }

    #[test]
    fn it_is_told_again_while_it_lasts() {
        let often = Look { repeat: Duration::from_secs(30), hold: Duration::ZERO, ..LOOK };
        assert_eq!(
            told(&[often; 5]).1,
            [Some(Event::Firing), None, Some(Event::StillFiring), None, Some(Event::StillFiring)]
        );
    }

    #[test]
    fn nobody_could_look_changes_nothing() {
        let unseen = Look { holds: None, ..LOOK };
        let pending = step(None, &LOOK).now;
        assert_eq!(step(pending, &unseen), Transition { now: pending, event: None, tell: false });
        assert_eq!(step(None, &unseen).now, None);
        let firing = told(&[LOOK; 5]).0;
        assert_eq!(step(firing, &unseen).now, firing);
    }

    #[test]
    fn what_begins_in_a_silence_is_told_when_that_ends_and_its_end_only_to_who_was_told() {
        let at_once = Look { hold: Duration::ZERO, ..LOOK };
        let silent = Look { silenced: true, ..at_once };
        assert_eq!(told(&[silent, silent, at_once, silent]).1, [None, None, Some(Event::Firing), None]);
        let gone = Look { holds: Some(false), ..silent };
        assert_eq!(told(&[at_once, gone]).1, [Some(Event::Firing), Some(Event::Recovered)], "silenced since");
        assert_eq!(told(&[silent, gone]).1, [None, None]);
        assert_eq!(step(told(&[silent]).0, &gone).event, Some(Event::Recovered), "remembered all the same");
    }

    #[test]
    fn a_process_that_takes_over_counts_on_from_what_it_finds() {
        let found = Standing { held: Duration::from_secs(50), ..step(None, &LOOK).now.expect("pending") };
        let first = step(Some(found), &Look { passed: Duration::ZERO, ..LOOK });
        assert_eq!(first.now, Some(found));
        assert_eq!(step(first.now, &LOOK).event, Some(Event::Firing));
    }
}
