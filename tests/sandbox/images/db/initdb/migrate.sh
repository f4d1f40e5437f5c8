#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# init-scripts/*.sql run as postgres, who is a superuser at that time; migrations/*.sql as supabase_admin; both in
# lexical order. Files mounted as 97-..99- come after the ones of the image. Passwords reach psql by its environment:
# a value given with -v would stand in the list of processes.
set -eu

PGHOST=${POSTGRES_HOST:-/var/run/postgresql}
PGPORT=${POSTGRES_PORT:-${PGPORT:-5432}}
PGDATABASE=${POSTGRES_DB:-postgres}
PGPASSWORD=$POSTGRES_PASSWORD
PGOPTIONS='-c client_min_messages=warning'
export PGHOST PGPORT PGDATABASE PGPASSWORD PGOPTIONS

here=$(cd -- "$(dirname -- "$0")" && pwd)

as() {
    user=$1
    shift
    psql -q -v ON_ERROR_STOP=1 --no-password --no-psqlrc -U "$user" "$@"
}

as supabase_admin <<'SQL'
\set pgpass `printf %s "$POSTGRES_PASSWORD"`
create role postgres superuser login replication bypassrls createdb createrole password :'pgpass';
alter database postgres owner to postgres;
SQL
for f in "$here"/init-scripts/*.sql; do
    as postgres -f "$f"
done
as supabase_admin <<'SQL'
\set pgpass `printf %s "$POSTGRES_PASSWORD"`
alter role supabase_admin password :'pgpass';
SQL
for f in "$here"/migrations/*.sql; do
    as supabase_admin -f "$f"
done
as supabase_admin -c 'select extensions.pg_stat_statements_reset()' > /dev/null
