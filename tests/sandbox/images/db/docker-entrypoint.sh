#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Start PostgreSQL; on an empty data directory create the cluster first and run what lies in
# /docker-entrypoint-initdb.d. Until that is done the server listens on its socket only, so that a TCP health check
# stays red.
set -eu

case "${1:-}" in -*) set -- postgres "$@" ;; esac

if [ "${1:-}" = postgres ] && [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 0700 "$PGDATA"
    install -d -o postgres -g postgres -m 0775 /var/run/postgresql
    [ "$(stat -c %U "$PGDATA/PG_VERSION" 2>/dev/null || echo postgres)" = postgres ] || chown -R postgres: "$PGDATA"
    # The mounted configuration directory may come from anywhere: the server includes conf.d and needs its root key.
    install -d -o postgres -g postgres -m 0755 /etc/postgresql-custom/conf.d
    [ "$(stat -c %U /etc/postgresql-custom)" = postgres ] || chown postgres: /etc/postgresql-custom
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [ "${1:-}" = postgres ]; then
    # A stand-in for the root key of pgsodium/Vault: same place, same form (64 hex digits), nothing reads it here.
    key=/etc/postgresql-custom/pgsodium_root.key
    if [ ! -s "$key" ]; then
        (umask 077 && od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' > "$key.new" && mv "$key.new" "$key")
    fi
fi

if [ "${1:-}" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo 'Error: the database is not initialised and POSTGRES_PASSWORD is not set.' >&2
        exit 2
    fi
    pwfile=$(umask 077 && mktemp)
    printf '%s\n' "$POSTGRES_PASSWORD" > "$pwfile"
    # shellcheck disable=SC2086  # POSTGRES_INITDB_ARGS holds several arguments
    initdb --no-sync -D "$PGDATA" -U "$POSTGRES_USER" --pwfile="$pwfile" -A scram-sha-256 -E UTF8 \
        --locale=C.UTF-8 ${POSTGRES_INITDB_ARGS:-} > /dev/null
    rm -f "$pwfile"
    pg_ctl -s -w -D "$PGDATA" -o "-c config_file=/etc/postgresql/postgresql.conf -c listen_addresses='' \
        -c fsync=off -p ${PGPORT:-5432}" start > /dev/null
    for f in /docker-entrypoint-initdb.d/*; do
        case "$f" in
            *.sh)
                # shellcheck disable=SC1090
                if [ -x "$f" ]; then "$f"; else . "$f"; fi ;;
            *.sql)
                psql -q -v ON_ERROR_STOP=1 --no-psqlrc -h /var/run/postgresql -U "$POSTGRES_USER" \
                    -d "$POSTGRES_DB" -f "$f" ;;
        esac
    done
    pg_ctl -s -w -D "$PGDATA" -m fast stop
    sync -f "$PGDATA"
fi

exec "$@"
