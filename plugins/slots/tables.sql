-- The tables of the old backend as far as this plugin uses them, to try it where they do not exist:
--   psql "$DATABASE_URL" -f tables.sql -f indexes.sql
create type public.slots_status_enum as enum ('confirmed', 'tentative', 'cancelled', 'completed', 'cancellation_requested');
create table public.slots (
    id uuid primary key default gen_random_uuid(),
    "startDateTime" timestamptz not null,
    "endDateTime" timestamptz not null,
    "mentorId" uuid not null,
    "studentId" uuid,
    "isAvailable" boolean not null default false,
    status public.slots_status_enum not null default 'tentative',
    "actualStartTime" timestamptz,
    "actualEndTime" timestamptz,
    "durationMinutes" integer,
    "earningsCredited" boolean not null default false,
    "earningsCreditedAt" timestamptz
);
create table public.slots_feedback (
    id uuid primary key default gen_random_uuid(),
    "slotId" uuid not null unique references public.slots on delete cascade,
    rating real,
    comments text
);
create table public.tokens (
    id uuid primary key default gen_random_uuid(),
    token bigint not null default 0,
    "userId" uuid not null,
    "createdAt" timestamptz not null default now(),
    "expiresAt" timestamptz
);
create type public.token_usage_usagetype_enum as enum ('meeting_booking', 'penalty', 'refund', 'bonus');
create table public.token_usage (
    id uuid primary key default gen_random_uuid(),
    "userId" uuid not null,
    "slotId" uuid references public.slots on delete set null,
    "usageType" public.token_usage_usagetype_enum not null,
    "tokensUsed" integer not null,
    "balanceBefore" integer not null,
    "balanceAfter" integer not null,
    description text,
    "referenceId" varchar(255),
    "createdAt" timestamptz not null default now(),
    "updatedAt" timestamptz not null default now()
);
