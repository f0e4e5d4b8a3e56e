//! The life of one alert: none → pending → firing → none. Pure.
//!
//! A subject that is not seen for a short time (its plugin or its host is restarted, see [`grace`])
//! keeps the time for which its condition has held. One that is seen and is in order does not.
//!
//! How long a condition has held is the time that has passed between two rounds of one process, by
//! its monotonic clock. It is never computed from dates: a clock that jumps fires nothing, forgets
//! nothing and repeats nothing.

use std::time::Duration;

/// An alert recovers when its condition has been gone for as long as it must hold, so that the
/// alert does not come and go with each round. This is the longest such time, so that nobody waits
/// longer for the recovery.
const LONGEST_CLEAR: Duration = Duration::from_secs(60);

/// A restart takes less.
const LONGEST_GRACE: Duration = Duration::from_secs(60);
/// The share of the time that a condition must hold for which it may be out of sight.
const GRACE_PER_HOLD: u32 = 5;

/// For how long a pending alert stays when its subject is not seen: a fifth of the time that its
/// condition must hold, at most a minute, and at least two rounds, since a restart that takes a
/// second may still fall into two rounds.
fn grace(look: &AlertInput) -> Duration {
    (look.hold / GRACE_PER_HOLD)
        .min(LONGEST_GRACE)
        .max(look.every * 2)
}

/// How long a firing alert stays at most whose condition has been gone for `gone`, if it does not come
/// back: the rounds count the time.
pub(super) fn ends_within(gone: Duration, hold: Duration, every: Duration) -> Duration {
    hold.min(LONGEST_CLEAR).saturating_sub(gone) + every
}

/// An alert that is pending or firing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) firing: bool,
    /// If pending: how long the condition has held. If firing: how long it has been gone.
    pub(super) held: Duration,
    /// If pending: how long its subject has not been seen, which is not part of `held`.
    pub(super) unseen: Duration,
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

/// What one round sees of one alert's condition. An alert that nobody could look at takes no step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It holds.
    Met,
    /// Its subject was looked at, and is in order.
    InOrder,
    /// There is no such subject now.
    Absent,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct AlertInput {
    pub(super) seen: Seen,
    /// How long the condition must hold before the alert fires.
    pub(super) hold: Duration,
    pub(super) silenced: bool,
    /// Time since the round before. Zero in a process's first round.
    pub(super) passed: Duration,
    /// Time between two rounds.
    pub(super) every: Duration,
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
    match (before, look.seen) {
        (None, Seen::InOrder | Seen::Absent) => stays(None),
        (None, Seen::Met) => begin_or_wait(Duration::ZERO, look),
        (Some(pending), seen) if !pending.firing => match seen {
            // It was out of sight since the round before: nobody knows that it held.
            Seen::Met if !pending.unseen.is_zero() => begin_or_wait(pending.held, look),
            Seen::Met => begin_or_wait(pending.held + look.passed, look),
            Seen::Absent => stays(out_of_sight(pending, look)),
            Seen::InOrder => stays(None),
        },
        (Some(firing), Seen::InOrder | Seen::Absent) => {
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
        (Some(firing), Seen::Met) => {
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

/// A pending alert whose subject is not seen; `None` when that has lasted too long.
fn out_of_sight(pending: Standing, look: &AlertInput) -> Option<Standing> {
    // In the first round of a process no time has passed, and it must be marked all the same.
    let unseen = pending.unseen + look.passed.max(Duration::from_millis(1));
    (unseen <= grace(look)).then_some(Standing { unseen, ..pending })
}

fn begin_or_wait(held: Duration, look: &AlertInput) -> Transition {
    let firing = held >= look.hold;
    let tell = firing && !look.silenced;
    let held = if firing { Duration::ZERO } else { held };
    let now = Standing {
        firing,
        held,
        unseen: Duration::ZERO,
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
        seen: Seen::Met,
        hold: Duration::from_secs(60),
        silenced: false,
        passed: Duration::from_secs(15),
        every: Duration::from_secs(15),
        repeat: Duration::from_secs(3_600),
    };
    const GONE: AlertInput = AlertInput {
        seen: Seen::InOrder,
        ..LOOK
    };
    const ABSENT: AlertInput = AlertInput {
        seen: Seen::Absent,
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
            seen: Seen::InOrder,
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

    #[test]
    fn a_subject_that_is_out_of_sight_for_a_moment_keeps_the_time_that_its_condition_held() {
        let breaker = |look| AlertInput {
            hold: Duration::from_secs(300),
            ..look
        };
        let mut looks = vec![breaker(LOOK); 15];
        looks.extend([breaker(ABSENT); 3]);
        looks.extend([breaker(LOOK); 7]);
        let (standing, told) = told(&looks);
        // 210 s before the gap and 90 s after it; the gap itself does not count.
        assert_eq!(told.iter().position(Option::is_some), Some(24), "{told:?}");
        assert!(standing.is_some_and(|standing| standing.firing));
    }

    #[test]
    fn one_that_stays_away_or_is_seen_in_order_begins_anew() {
        let held = |looks: &[AlertInput]| told(looks).0.map(|standing| standing.held.as_secs());
        assert_eq!(held(&[LOOK, LOOK, LOOK, ABSENT, ABSENT]), Some(30));
        assert_eq!(held(&[LOOK, LOOK, LOOK, ABSENT, ABSENT, ABSENT]), None);
        assert_eq!(held(&[LOOK, LOOK, LOOK, GONE]), None);
        // Gaps do not add up.
        assert_eq!(
            held(&[LOOK, LOOK, ABSENT, ABSENT, LOOK, ABSENT, ABSENT]),
            Some(15)
        );
    }

    #[test]
    fn a_restarted_process_that_does_not_see_the_subject_at_first_forgets_nothing() {
        let pending = told(&[LOOK, LOOK, LOOK]).0;
        let first = AlertInput {
            passed: Duration::ZERO,
            ..ABSENT
        };
        let second = AlertInput {
            seen: Seen::Met,
            ..ABSENT
        };
        let there = step(step(pending, &first).now, &second);
        assert_eq!(there.now, pending, "the gap is not counted");
    }

    #[test]
    fn one_that_fires_recovers_in_time_whether_it_is_in_order_or_gone() {
        for gone in [GONE, ABSENT] {
            let mut looks = vec![LOOK; 5];
            looks.extend([gone; 4]);
            assert_eq!(told(&looks).1.last(), Some(&Some(Event::Recovered)));
        }
    }
}
