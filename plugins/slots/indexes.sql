-- Run by the database administrator, once and outside a transaction. `concurrently` blocks no writer.
-- Where the setting expiredBy is "start", the first two are needed on "startDateTime" instead.
-- Cleanup: the expired, unbooked slots in their order.
create index concurrently if not exists slots_unbooked_by_end on public.slots ("endDateTime", id) where "studentId" is null;
-- Refunds and lists: all slots in their order.
create index concurrently if not exists slots_by_end on public.slots ("endDateTime", id);
-- Statistics of one mentor.
create index concurrently if not exists slots_by_mentor on public.slots ("mentorId");
-- Each deleted slot is looked up here, because of the foreign key. Refunds look up what was paid.
create index concurrently if not exists token_usage_by_slot on public.token_usage ("slotId");
-- Refunds: a student's wallet.
create index concurrently if not exists tokens_by_user on public.tokens ("userId");
