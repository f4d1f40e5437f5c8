-- postgres ceases to be a superuser. What reads pg_shadow must then belong to one, or the pooler finds no passwords.
alter function pgbouncer.get_auth(text) owner to supabase_admin;
grant execute on function pgbouncer.get_auth(text) to pgbouncer;
alter role postgres nosuperuser createdb createrole login replication bypassrls;
