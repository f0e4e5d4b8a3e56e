//! The life of one alert: none → pending → firing → none. Pure.
//!
//! How long a condition has held is the time that has passed between two rounds of one process, by
//! its monotonic clock. It is never computed from dates: a clock that jumps fires nothing, forgets
//! nothing and repeats nothing.

use std::time::Duration;

/// An alert recovers when its condition has been gone for as long as it must hold, so that the
/// alert does not come and go with each round. This is the longest such time, so that nobody waits
/// longer for the recovery.
const LONGEST_CLEAR: Duration = Duration::from_secs(60);

/// An alert that is pending or firing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) firing: bool,
    /// If pending: how long the condition has held. If firing: how long it has been gone.
    pub(super) held: Duration,
    /// Time since the last message.
    pub(super) quiet: Duration,
    /// Whether a message was sent that it fires.
    pub(super) announced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Firing,
    /// The alert still fires.
    StillFiring,
    Recovered,
}

impl Event {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::StillFiring => "still-firing",
            Self::Recovered => "recovered",
        }
    }
}

/// What one round sees of one alert.
#[derive(Debug, Clone, Copy)]
pub(super) struct AlertInput {
    /// Whether the condition holds. `None` when it could not be observed.
    pub(super) holds: Option<bool>,
    /// How long the condition must hold before the alert fires.
    pub(super) hold: Duration,
    pub(super) silenced: bool,
    /// Time since the round before. Zero in a process's first round.
    pub(super) passed: Duration,
    /// Time until a firing alert is announced again.
    pub(super) repeat: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transition {
    /// `None` when there is no alert any more.
    pub(super) now: Option<Standing>,
    /// The event for the alert history.
    pub(super) event: Option<Event>,
    /// Whether a message is sent.
    pub(super) tell: bool,
}

pub(super) fn step(before: Option<Standing>, look: &AlertInput) -> Transition {
    let stays = |now| Transition {
        now,
        event: None,
        tell: false,
    };
    let Some(holds) = look.holds else {
        return stays(before);
    };
    match (before, holds) {
        (None, false) => stays(None),
        (None, true) => begin_or_wait(Duration::ZERO, look),
        (Some(pending), false) if !pending.firing => stays(None),
        (Some(pending), true) if !pending.firing => begin_or_wait(pending.held + look.passed, look),
        (Some(firing), false) => {
            let held = firing.held + look.passed;
            if held >= look.hold.min(LONGEST_CLEAR) {
                // Also while silenced: whoever got a message that it fires gets one that it
                // recovered.
                return Transition {
                    now: None,
                    event: Some(Event::Recovered),
                    tell: firing.announced,
                };
            }
            stays(Some(Standing {
                held,
                quiet: firing.quiet + look.passed,
                ..firing
            }))
        }
        (Some(firing), true) => {
            let quiet = firing.quiet + look.passed;
            let firing = Standing {
                held: Duration::ZERO,
                quiet,
                ..firing
            };
            if look.silenced {
                return stays(Some(firing));
            }
            let event = match firing.announced {
                // It began to fire during a silence that has ended.
                false => Event::Firing,
                true if quiet >= look.repeat => Event::StillFiring,
                true => return stays(Some(firing)),
            };
            let told = Standing {
                quiet: Duration::ZERO,
                announced: true,
                ..firing
            };
            Transition {
                now: Some(told),
                event: Some(event),
                tell: true,
            }
        }
    }
}

fn begin_or_wait(held: Duration, look: &AlertInput) -> Transition {
    let firing = held >= look.hold;
    let tell = firing && !look.silenced;
    let held = if firing { Duration::ZERO } else { held };
    let now = Standing {
        firing,
        held,
        quiet: Duration::ZERO,
        announced: tell,
    };
    Transition {
        now: Some(now),
        event: firing.then_some(Event::Firing),
        tell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: AlertInput = AlertInput {
        holds: Some(true),
        hold: Duration::from_secs(60),
        silenced: false,
        passed: Duration::from_secs(15),
        repeat: Duration::from_secs(3_600),
    };
    const GONE: AlertInput = AlertInput {
        holds: Some(false),
        ..LOOK
    };

    /// The last state, and the event of each round that was sent.
    fn told(looks: &[AlertInput]) -> (Option<Standing>, Vec<Option<Event>>) {
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
        assert_eq!(
            told,
            [
                None,
                None,
                None,
                None,
                Some(Event::Firing),
                None,
                None,
                None
            ]
        );
        assert!(standing.is_some_and(|standing| standing.firing && standing.announced));
    }

    #[test]
    fn one_that_need_not_hold_fires_and_recovers_at_once() {
        let at_once = |look| AlertInput {
            hold: Duration::ZERO,
            ..look
        };
        assert_eq!(
            told(&[at_once(LOOK), at_once(GONE)]).1,
            [Some(Event::Firing), Some(Event::Recovered)]
        );
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
        assert_eq!(
            told.iter().filter(|told| told.is_some()).count(),
            2,
            "{told:?}"
        );
        assert_eq!(
            (standing, told.last()),
            (None, Some(&Some(Event::Recovered)))
        );
    }

    #[test]
    fn it_is_told_again_while_it_lasts() {
        let often = AlertInput {
            repeat: Duration::from_secs(30),
            hold: Duration::ZERO,
            ..LOOK
        };
        assert_eq!(
            told(&[often; 5]).1,
            [
                Some(Event::Firing),
                None,
                Some(Event::StillFiring),
                None,
                Some(Event::StillFiring)
            ]
        );
    }

    #[test]
    fn nobody_could_look_changes_nothing() {
        let unseen = AlertInput {
            holds: None,
            ..LOOK
        };
        let pending = step(None, &LOOK).now;
        assert_eq!(
            step(pending, &unseen),
            Transition {
                now: pending,
                event: None,
                tell: false
            }
        );
        assert_eq!(step(None, &unseen).now, None);
        let firing = told(&[LOOK; 5]).0;
        assert_eq!(step(firing, &unseen).now, firing);
    }

    #[test]
    fn what_begins_in_a_silence_is_told_when_that_ends_and_its_end_only_to_who_was_told() {
        let at_once = AlertInput {
            hold: Duration::ZERO,
            ..LOOK
        };
        let silent = AlertInput {
            silenced: true,
            ..at_once
        };
        assert_eq!(
            told(&[silent, silent, at_once, silent]).1,
            [None, None, Some(Event::Firing), None]
        );
        let gone = AlertInput {
            holds: Some(false),
            ..silent
        };
        assert_eq!(
            told(&[at_once, gone]).1,
            [Some(Event::Firing), Some(Event::Recovered)],
            "silenced since"
        );
        assert_eq!(told(&[silent, gone]).1, [None, None]);
        assert_eq!(
            step(told(&[silent]).0, &gone).event,
            Some(Event::Recovered),
            "remembered all the same"
        );
    }

    #[test]
    fn a_process_that_takes_over_counts_on_from_what_it_finds() {
        let found = Standing {
            held: Duration::from_secs(50),
            ..step(None, &LOOK).now.expect("pending")
        };
        let first = step(
            Some(found),
            &AlertInput {
                passed: Duration::ZERO,
                ..LOOK
            },
        );
        assert_eq!(first.now, Some(found));
        assert_eq!(step(first.now, &LOOK).event, Some(Event::Firing));
    }
}
