-- SPDX-License-Identifier: GPL-3.0-or-later
-- Database webhooks. Runs once, as postgres while it is still a superuser, after the image's own init scripts.
-- Names, arguments and payload are those of the platform, so that triggers written for it work unchanged.

begin;

-- The owner of everything below.
select not exists (select from pg_catalog.pg_roles where rolname = 'supabase_functions_admin') as missing \gset
\if :missing
    create role supabase_functions_admin login noinherit createrole noreplication;
\endif
alter role supabase_functions_admin set search_path = supabase_functions;
grant supabase_functions_admin to postgres;

-- A role of older images that nothing uses any more.
select exists (select from pg_catalog.pg_roles where rolname = 'supabase_pg_net_admin') as found \gset
\if :found
    reassign owned by supabase_pg_net_admin to supabase_admin;
    drop owned by supabase_pg_net_admin;
    drop role supabase_pg_net_admin;
\endif

-- Whenever pg_net is created: its request functions run with their owner's rights, and only these roles may call them.
-- Images bring a version of this function that knows their pg_net; that one stays.
select to_regprocedure('extensions.grant_pg_net_access()') is null as missing \gset
\if :missing
    create function extensions.grant_pg_net_access() returns event_trigger
    language plpgsql
    as $body$
    declare
        callers constant text := 'supabase_functions_admin, postgres, anon, authenticated, service_role';
        request regprocedure;
    begin
        if not exists (
            select
            from pg_event_trigger_ddl_commands() as command
            join pg_catalog.pg_extension as extension on extension.oid = command.objid
            where command.classid = 'pg_catalog.pg_extension'::regclass and extension.extname = 'pg_net'
        ) then
            return;
        end if;

        execute format('grant usage on schema net to %s', callers);
        for request in
            select routine.oid::regprocedure
            from pg_catalog.pg_proc as routine
            join pg_catalog.pg_namespace as namespace on namespace.oid = routine.pronamespace
            where namespace.nspname = 'net' and routine.proname in ('http_get', 'http_post')
        loop
            execute format('alter function %s security definer', request);
            execute format('alter function %s set search_path = net', request);
            execute format('revoke all on function %s from public', request);
            execute format('grant execute on function %s to %s', request, callers);
        end loop;
    end
    $body$;
    comment on function extensions.grant_pg_net_access() is 'Grants access to pg_net';
\endif

select not exists (select from pg_catalog.pg_event_trigger where evtname = 'issue_pg_net_access') as missing \gset
\if :missing
    create event trigger issue_pg_net_access on ddl_command_end
        when tag in ('CREATE EXTENSION') execute function extensions.grant_pg_net_access();
\endif

create extension if not exists pg_net schema extensions;

create schema supabase_functions authorization supabase_admin;
grant usage on schema supabase_functions to postgres, anon, authenticated, service_role;
grant all on schema supabase_functions to supabase_functions_admin;
alter default privileges in schema supabase_functions
    grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges in schema supabase_functions
    grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges in schema supabase_functions
    grant all on sequences to postgres, anon, authenticated, service_role;

create table supabase_functions.migrations (
    version text primary key,
    inserted_at timestamptz not null default now()
);

create table supabase_functions.hooks (
    id bigserial primary key,
    hook_table_id integer not null,
    hook_name text not null,
    created_at timestamptz not null default now(),
    request_id bigint
);
comment on table supabase_functions.hooks is 'One row for each request that a webhook trigger has queued';
create index supabase_functions_hooks_request_id_idx on supabase_functions.hooks (request_id);
create index supabase_functions_hooks_h_table_id_h_name_idx on supabase_functions.hooks (hook_table_id, hook_name);

-- Trigger arguments: url, method (GET or POST), headers (JSON), query parameters (JSON), timeout in milliseconds. The
-- last three may be left out or be the word null.
create function supabase_functions.http_request() returns trigger
language plpgsql
security definer
set search_path = supabase_functions
as $body$
declare
    url constant text := nullif(tg_argv[0], 'null');
    method constant text := nullif(tg_argv[1], 'null');
    headers constant jsonb := coalesce(nullif(tg_argv[2], 'null'), '{"Content-Type": "application/json"}')::jsonb;
    params constant jsonb := coalesce(nullif(tg_argv[3], 'null'), '{}')::jsonb;
    timeout_ms constant integer := coalesce(nullif(tg_argv[4], 'null'), '1000')::integer;
    request_id bigint;
begin
    if url is null then
        raise exception 'url argument is missing';
    elsif method is null then
        raise exception 'method argument is missing';
    elsif method = 'GET' then
        request_id := net.http_get(url, params, headers, timeout_ms);
    elsif method = 'POST' then
        request_id := net.http_post(
            url,
            jsonb_build_object(
                'type', tg_op, 'schema', tg_table_schema, 'table', tg_table_name, 'record', new, 'old_record', old
            ),
            params,
            headers,
            timeout_ms
        );
    else
        raise exception 'method argument % is invalid', method;
    end if;

    insert into supabase_functions.hooks (hook_table_id, hook_name, request_id)
    values (tg_relid::bigint, tg_name, request_id);
    return coalesce(new, old);
end
$body$;
revoke all on function supabase_functions.http_request() from public;
grant execute on function supabase_functions.http_request() to postgres, anon, authenticated, service_role;

grant all on all tables in schema supabase_functions to supabase_functions_admin;
grant all on all sequences in schema supabase_functions to supabase_functions_admin;
alter table supabase_functions.migrations owner to supabase_functions_admin;
alter table supabase_functions.hooks owner to supabase_functions_admin;
alter function supabase_functions.http_request() owner to supabase_functions_admin;

-- The versions that this file stands for, so that later migrations of the platform start behind them.
insert into supabase_functions.migrations (version) values ('initial'), ('20210809183423_update_grants');

commit;
