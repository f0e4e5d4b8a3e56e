-- The plugin's tables in an empty database. In the old backend's, compare column by column: docs are in README.md.
create schema if not exists mrlearn;
create table if not exists mrlearn.sync_configs (
  id bigint generated always as identity primary key,
  course_id text not null unique,
  course_title text,
  interval_hours int not null check (interval_hours between 1 and 720),
  detailed_reports boolean not null default false,
  enabled boolean not null default true,
  reminder_cron text,
  reminder_tz text,
  reminder_channel text check (reminder_channel in ('whatsapp', 'email')),
  -- Only learners with less progress than this are reminded, in percent.
  reminder_below int check (reminder_below between 1 and 100),
  has_credentials boolean not null default false,
  -- unchecked: the vendor was not asked yet, or did not answer. bad-credentials: nothing is asked until others are saved.
  state text not null default 'unchecked' check (state in ('unchecked', 'ok', 'bad-credentials')),
  state_reason text,
  state_since timestamptz not null default now(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  check ((reminder_cron is null) = (reminder_channel is null))
);
create table if not exists mrlearn.sync_runs (
  id bigint generated always as identity primary key,
  config_id bigint not null references mrlearn.sync_configs (id) on delete cascade,
  trigger text not null,
  -- The idempotency key of the job that began it: a repeat of the job goes on with its own run.
  job_key text not null,
  state text not null default 'running' check (state in ('running', 'completed', 'failed')),
  -- Where the next page begins, and what proves that none was skipped.
  position jsonb not null,
  pages int not null default 0,
  seen bigint not null default 0,
  written bigint not null default 0,
  error_code text,
  error_message text,
  started_at timestamptz not null default now(),
  heartbeat_at timestamptz not null default now(),
  finished_at timestamptz
);
create unique index if not exists one_sync_at_a_time on mrlearn.sync_runs (config_id) where state = 'running';
create index if not exists sync_runs_of_config on mrlearn.sync_runs (config_id, id desc);
create table if not exists mrlearn.learners (
  id text primary key,
  email text,
  name text,
  mobile text,
  active boolean,
  vendor_created_at timestamptz,
  last_login_at timestamptz,
  updated_at timestamptz not null default now()
);
create index if not exists learners_by_email on mrlearn.learners (lower(email));
create table if not exists mrlearn.enrolments (
  learner_id text not null,
  course_id text not null,
  title text,
  progress numeric,
  completed boolean not null default false,
  total_time_s bigint,
  -- Of the vendor's usage report; only with detailed reports.
  time_spent_s bigint,
  score text,
  items jsonb,
  assigned_at timestamptz,
  last_access_at timestamptz,
  -- The vendor does not list the course with the learner any more.
  left_at timestamptz,
  updated_at timestamptz not null default now(),
  primary key (learner_id, course_id)
);
create index if not exists enrolments_of_course on mrlearn.enrolments (course_id, learner_id);
-- Accounts of learners who were promoted.
create table if not exists mrlearn.accounts (
  learner_id text primary key,
  account_id text not null,
  promoted_at timestamptz not null default now()
);
create table if not exists mrlearn.reminders (
  learner_id text not null,
  day date not null,
  config_id bigint not null,
  channel text not null,
  at timestamptz not null default now(),
  primary key (learner_id, day)
);
