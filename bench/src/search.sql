-- Fills one month of the history: into a table of its own, which gets its indexes when it becomes a partition. {rows} attempts, numbered from
-- {first}; {month} is its first day, {table} what the host would call it.
drop table if exists patchbay.attempts_{table};
drop table if exists patchbay.attempt_terms_{table};
create table patchbay.attempts_{table} (like patchbay.attempts including defaults including constraints including storage);
create table patchbay.attempt_terms_{table} (like patchbay.attempt_terms including constraints);
insert into patchbay.attempts_{table} (prefix, queue, job_id, job_created_ms, started, attempt, name, plugin, revision, host, started_at,
        finished_at, outcome, verdict, code, message, correlation_id, platform, calls, fingerprint)
    select 'bull', 'queue-' || q, n::text, (extract(epoch from at) * 1000)::bigint - 400, 1, 1, 'job-' || q || '-' || n % 3, 'plugin-' || q / 3,
        encode(sha256(('plugin-' || q / 3 || '-' || (extract(epoch from at) / 604800)::int)::bytea), 'hex'), 'host-' || n % 4 || ':1', at - interval '80 ms', at,
        case when not failed then 'completed' when n % 50 = 0 then 'trapped' else 'failed' end,
        case when failed then 'fail' else 'complete' end,
        case when failed then 'code-' || c end,
        case when failed then 'The service of partner ' || c || ' refused lead ' || n || ': no such customer, or the request came too late' end,
        md5(n::text)::uuid::text, (array['web', 'app', 'partner'])[n % 3 + 1],
        case when n % 3 = 0 then '[{"kind": "http", "method": "POST", "host": "api.example.com", "result": "200", "afterMs": 3, "tookMs": 61}]'::jsonb end,
        case when failed then decode(md5(q || '-' || c), 'hex') end
    from (select n, at, (hashint8(n) & 1023) * 30 / 1024 as q, (hashint8(n + 1) & 65535) < 1966 as failed, (hashint8(n + 2) & 65535) % 200 as c
        from (select n, (timestamptz '{month}' + (least(timestamptz '{month}' + interval '1 month', now()) - timestamptz '{month}')
            * ((n - {first})::float8 / {rows})) as at from generate_series({first}::bigint, {first}::bigint + {rows} - 1) n) numbered) rows;
insert into patchbay.attempt_terms_{table}
    -- A lead has some ten attempts; one country in eight stands for a value that many have.
    select decode(md5('lead.id-' || n / 20), 'hex'), finished_at, prefix, queue, job_id, job_created_ms, started
        from (select *, job_id::bigint as n from patchbay.attempts_{table}) a where n % 4 = 0
    union all
    select decode(md5('country-' || n / 4 % 8), 'hex'), finished_at, prefix, queue, job_id, job_created_ms, started
        from (select *, job_id::bigint as n from patchbay.attempts_{table}) a where n % 4 = 2;
alter table patchbay.attempts attach partition patchbay.attempts_{table}
    for values from ('{month}') to ((timestamptz '{month}' + interval '1 month'));
alter table patchbay.attempt_terms attach partition patchbay.attempt_terms_{table}
    for values from ('{month}') to ((timestamptz '{month}' + interval '1 month'));
analyze patchbay.attempts_{table};
analyze patchbay.attempt_terms_{table};
