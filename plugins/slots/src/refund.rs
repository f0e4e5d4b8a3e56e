//! Refunds of meetings that were booked and paid, have expired, and were not held.
//!
//! A refund gives back what the student's booking of that slot has cost and was not yet given back,
//! as far as token_usage knows. A batch is one transaction of three steps, in which each statement
//! sees what was committed before it: lock the meetings, lock the wallets, and only then ask what
//! was paid. So another run, or a cancellation that locks the slot, is either seen or comes later
//! and sees this one.

use patchbay_plugin::sql::Value as Cell;
use patchbay_plugin::{Failure, Value, json};

use crate::batches::{Done, Place};
use crate::database::{self, Failed, array, int, text};
use crate::kinds::{Parameters, Terms};
use crate::time::{Millis, minutes};

/// Most meetings of one transaction.
pub const LARGEST: u32 = 100;

const DESCRIPTION: &str = "Refund: the meeting expired and was not held";
const DAY_MINUTES: i64 = 24 * 60;

/// Of the entries of one slot and student: what was paid and not given back. The sign of refunds
/// differs from system to system.
const OWED: &str = "coalesce(sum(case when u.\"usageType\" = 'meeting_booking' then abs(u.\"tokensUsed\") else -abs(u.\"tokensUsed\") end), 0)::int8";
const ENTRIES: &str = "u.\"slotId\" = s.id and u.\"userId\" = s.\"studentId\" and u.\"usageType\" in ('meeting_booking', 'refund')";
/// What this transaction has locked: settings of its own carry the ids from step to step.
const LOCKED: &str =
    "s.id = any($1) and s.id::text = any(string_to_array(current_setting('slots.locked'), ','))";

/// What became of the meetings that were due.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Refunded {
    pub meetings: i64,
    pub tokens: i64,
    /// Never paid for, or already refunded.
    pub nothing_owed: i64,
    pub without_wallet: i64,
    /// Left to the next run.
    pub wallet_locked: i64,
}

impl Refunded {
    pub fn add(&mut self, other: &Self) {
        self.meetings += other.meetings;
        self.tokens += other.tokens;
        self.nothing_owed += other.nothing_owed;
        self.without_wallet += other.without_wallet;
        self.wallet_locked += other.wallet_locked;
    }
}

/// The condition of a meeting that is to be refunded, but for what was paid.
fn is_due(terms: Terms<'_>, parameters: &mut Parameters) -> String {
    let (settings, refund) = (terms.settings, &terms.settings.refund);
    let before = terms.expired_before() - minutes(refund.grace_minutes);
    let after = before - minutes(refund.look_back_days.saturating_mul(DAY_MINUTES));
    let mut time = |at: Millis| parameters.add(text(settings.utc_offset.parameter(at)));
    let (before, after) = (time(before), time(after));
    let statuses = parameters.add(array(&refund.statuses));
    let column = settings.expired_by.column();
    format!(
        "{column} < {before} and {column} >= {after} and \"studentId\" is not null and status = any({statuses}) \
         and \"actualStartTime\" is null and \"actualEndTime\" is null and \"durationMinutes\" is null and \"earningsCredited\" is not true \
         and not exists (select from public.slots_feedback f where f.\"slotId\" = s.id)"
    )
}

/// How many meetings a run would refund, and with how many tokens.
pub fn preview(terms: Terms<'_>) -> Result<Value, Failure> {
    let mut parameters = Parameters::default();
    let statement = format!(
        "select count(*) filter (where due.tokens > 0), coalesce(sum(due.tokens) filter (where due.tokens > 0), 0)::int8, \
           count(*) filter (where due.tokens <= 0) \
         from (select (select {OWED} from public.token_usage u where {ENTRIES}) as tokens from public.slots s where {}) as due",
        is_due(terms, &mut parameters)
    );
    let rows = database::query(&statement, parameters.0)?;
    let row = rows.into_iter().next().unwrap_or_default();
    Ok(json!({
        "enabled": terms.settings.refund.enabled, "meetings": int(&row, 0), "tokens": int(&row, 1), "nothingOwed": int(&row, 2),
    }))
}

/// At most `size` meetings that are due behind a place, in their order.
pub fn due(terms: Terms<'_>, size: u32, place: Option<&Place>) -> Result<Vec<Place>, Failed> {
    let column = terms.settings.expired_by.column();
    let mut parameters = Parameters::default();
    let statement = format!(
        "select {column}::text, id::text from public.slots s where {} and {} order by {column}, id limit {size}",
        is_due(terms, &mut parameters),
        Place::is_behind(place, column, &mut parameters),
    );
    let rows = database::query(&statement, parameters.0)?;
    Ok(rows.iter().filter_map(|row| Place::of(row, 0, 1)).collect())
}

/// Refunds at most `size` meetings behind a place.
pub fn batch(
    terms: Terms<'_>,
    size: u32,
    place: Option<&Place>,
) -> Result<(Done, Refunded), Failed> {
    let places = due(terms, size, place)?;
    let slots: Vec<&str> = places.iter().map(Place::id).collect();
    let done = Done {
        found: places.len() as u32,
        last: places.last().cloned(),
    };
    if slots.is_empty() {
        return Ok((done, Refunded::default()));
    }
    let steps = [
        lock_meetings(terms, &slots),
        (lock_wallets(), vec![array(&slots)]),
        refund(terms, &slots),
    ];
    let rows = database::transaction(steps)?;
    let row = rows.into_iter().next().unwrap_or_default();
    let [locked, owed, without_wallet, meetings, tokens] = [0, 1, 2, 3, 4].map(|n| int(&row, n));
    let refunded = Refunded {
        meetings,
        tokens,
        nothing_owed: locked - owed,
        without_wallet,
        wallet_locked: owed - without_wallet - meetings,
    };
    Ok((done, refunded))
}

type Step = (String, Vec<Cell>);

/// Meetings that are still due and that nobody else has locked.
fn lock_meetings(terms: Terms<'_>, slots: &[&str]) -> Step {
    let mut parameters = Parameters(vec![array(slots)]);
    let due = is_due(terms, &mut parameters);
    let text = format!(
        "with locked as (select id from public.slots s where s.id = any($1) and {due} order by id for update of s skip locked) \
         select set_config('slots.locked', coalesce(string_agg(id::text, ','), ''), true) from locked"
    );
    (text, parameters.0)
}

/// Of several wallets of one student that which lives longest. One that somebody has locked is left
/// to the next run: who waits for a lock holds others meanwhile.
fn lock_wallets() -> String {
    format!(
        "with locked as ( \
           select t.id from public.tokens t where t.id in ( \
             select distinct on (w.\"userId\") w.id from public.tokens w \
             where w.\"userId\" in (select s.\"studentId\" from public.slots s where {LOCKED}) \
             order by w.\"userId\", w.\"expiresAt\" desc nulls first, w.\"createdAt\", w.id \
           ) order by t.id for update of t skip locked \
         ) select set_config('slots.wallets', coalesce(string_agg(id::text, ','), ''), true) from locked"
    )
}

/// Several refunds of one student follow one another in the balances.
fn refund(terms: Terms<'_>, slots: &[&str]) -> Step {
    let refund = &terms.settings.refund;
    let text = format!(
        "with locked as materialized (select s.id, s.\"studentId\" from public.slots s where {LOCKED}), \
         owed as materialized ( \
           select s.id, s.\"studentId\", {OWED} as tokens from locked s join public.token_usage u on {ENTRIES} group by 1, 2 having {OWED} > 0 \
         ), wallet as materialized ( \
           select t.id, t.\"userId\", t.token from public.tokens t \
           where t.\"userId\" in (select \"studentId\" from owed) and t.id::text = any(string_to_array(current_setting('slots.wallets'), ',')) \
         ), entry as materialized ( \
           select o.id, o.\"studentId\", w.id as wallet, o.tokens, \
             w.token + sum(o.tokens) over (partition by w.id order by o.id rows unbounded preceding) as after \
           from owed o join wallet w on w.\"userId\" = o.\"studentId\" \
         ), noted as ( \
           insert into public.token_usage (\"userId\", \"slotId\", \"usageType\", \"tokensUsed\", \"balanceBefore\", \"balanceAfter\", description) \
           select \"studentId\", id, 'refund', $2 * tokens, after - tokens, after, $3 from entry \
         ), credited as ( \
           update public.tokens t set token = t.token + c.tokens \
           from (select wallet, sum(tokens)::int8 as tokens from entry group by 1) as c where t.id = c.wallet \
         ), closed as (update public.slots s set status = $4 from entry where s.id = entry.id) \
         select (select count(*) from locked), (select count(*) from owed), \
           (select count(*) from owed where \"studentId\" not in (select t.\"userId\" from public.tokens t where t.\"userId\" in (select \"studentId\" from owed))), \
           (select count(*) from entry), (select coalesce(sum(tokens), 0)::int8 from entry)"
    );
    let sign = if refund.negative_amounts { -1 } else { 1 };
    let parameters = vec![
        array(slots),
        Cell::Int(sign),
        database::text(DESCRIPTION),
        database::text(&refund.new_status),
    ];
    (text, parameters)
}
