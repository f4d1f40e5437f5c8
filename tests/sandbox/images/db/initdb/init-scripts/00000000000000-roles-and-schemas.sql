-- Roles, schemas and first tables that supabase/postgres brings. Runs as postgres (still superuser).
\set pgpass `printf %s "$POSTGRES_PASSWORD"`
alter role supabase_admin with superuser createdb createrole replication bypassrls;

create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator login noinherit password :'pgpass';
grant anon, authenticated, service_role to authenticator;
create role supabase_auth_admin login noinherit createrole password :'pgpass';
create role supabase_storage_admin login noinherit createrole password :'pgpass';
create role supabase_replication_admin login replication password :'pgpass';
create role supabase_read_only_user login bypassrls;
grant pg_read_all_data to supabase_read_only_user;
create role supabase_realtime_admin nologin noinherit;
create role supabase_etl_admin login replication;
create role dashboard_user createdb createrole replication;
create role pgbouncer login password :'pgpass';

alter role supabase_admin set search_path to public, extensions;
alter role supabase_auth_admin set search_path to auth;
alter role supabase_storage_admin set search_path to storage;
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';

create schema extensions;
grant usage on schema extensions to postgres, anon, authenticated, service_role;
create extension "uuid-ossp" schema extensions;
create extension pgcrypto schema extensions;
create extension pg_stat_statements schema extensions;
create schema auth authorization supabase_auth_admin;
create schema storage authorization supabase_storage_admin;
create schema realtime authorization supabase_admin;
create schema graphql_public authorization supabase_admin;
create schema vault authorization supabase_admin;

create schema pgbouncer authorization pgbouncer;
create function pgbouncer.get_auth(p_usename text) returns table(username text, password text)
  language sql security definer set search_path = '' as $$
  select usename::text, passwd::text from pg_catalog.pg_shadow
   where usename = p_usename and passwd is not null and (valuntil is null or valuntil > now())
$$;
revoke all on function pgbouncer.get_auth(text) from public;
grant execute on function pgbouncer.get_auth(text) to pgbouncer;

grant usage on schema public, auth, storage, realtime to postgres, anon, authenticated, service_role;
alter default privileges in schema public grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
  grant all on tables to postgres, anon, authenticated, service_role;

-- The services own these and would migrate them further; the stand-ins do not, so tests find something to count.
set role supabase_auth_admin;
create table auth.schema_migrations(version text primary key);
create table auth.users(
  id uuid primary key default gen_random_uuid(), email text unique, encrypted_password text,
  raw_app_meta_data jsonb, raw_user_meta_data jsonb, created_at timestamptz default now());
create function auth.uid() returns uuid language sql stable as $$
  select nullif(coalesce(current_setting('request.jwt.claim.sub', true),
                         current_setting('request.jwt.claims', true)::jsonb ->> 'sub'), '')::uuid
$$;
create function auth.role() returns text language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.role', true), ''),
                  current_setting('request.jwt.claims', true)::jsonb ->> 'role')
$$;
set role supabase_storage_admin;
create table storage.buckets(
  id text primary key, name text not null unique, owner uuid, public bool default false,
  created_at timestamptz default now());
create table storage.objects(
  id uuid primary key default gen_random_uuid(), bucket_id text references storage.buckets, name text, owner uuid,
  metadata jsonb, created_at timestamptz default now());
create table storage.migrations(id int primary key, name text, hash text, executed_at timestamptz default now());
alter table storage.objects enable row level security;
reset role;

create publication supabase_realtime;
grant all on database postgres to postgres, dashboard_user, supabase_auth_admin, supabase_storage_admin;
grant all on schema auth, storage to dashboard_user;
grant supabase_auth_admin, supabase_storage_admin, anon, authenticated, service_role to postgres;
