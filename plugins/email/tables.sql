-- The plugin's tables in an empty database. In the old backend's, compare column by column: README.md.
create table if not exists public.email_templates (
  id uuid primary key default gen_random_uuid(),
  name varchar(200) not null unique,
  kind text not null default 'transactional' check (kind in ('transactional', 'marketing')),
  subject text not null,
  html text,
  text text,
  sample jsonb not null default '{}',
  version int not null default 1,
  created_by text,
  updated_by text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  removed_at timestamptz
);
create table if not exists public.email_template_versions (
  template_id uuid not null references public.email_templates on delete cascade,
  version int not null,
  kind text not null,
  subject text not null,
  html text,
  text text,
  sample jsonb not null,
  changed_by text,
  changed_at timestamptz not null default now(),
  primary key (template_id, version)
);
-- One row for each recipient of each mail.
create table if not exists public.emails_sent (
  id uuid primary key default gen_random_uuid(),
  message_id text not null,
  to_address text not null,
  status text not null check (status in ('sent', 'refused', 'suppressed', 'failed', 'unknown')),
  reply_code int,
  reply text,
  kind text not null,
  subject text,
  template_id text,
  template_version int,
  lead_id text,
  sent_by text,
  platform text,
  job_id text,
  tried_at timestamptz not null,
  created_at timestamptz not null default now(),
  unique (message_id, to_address)
);
create index if not exists emails_sent_to on public.emails_sent (to_address, tried_at desc);
create index if not exists emails_sent_lead on public.emails_sent (lead_id, tried_at desc) where lead_id is not null;
-- Addresses of which a mail server has said that nobody is there.
create table if not exists public.email_suppressions (
  address text primary key,
  reply_code int not null,
  reply text,
  bounces int not null default 1,
  first_at timestamptz not null,
  last_at timestamptz not null
);
