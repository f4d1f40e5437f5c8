#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Writes PgBouncer's configuration from the environment and starts it. The names are those of edoburu/pgbouncer: DB_HOST,
# DB_PORT, DB_NAME, DB_USER and DB_PASSWORD for the database and the role that looks up passwords, and for the rest the
# names of PgBouncer's settings in capitals. Not known here: DATABASE_URL, ADMIN_PASSWORDS and STATS_PASSWORDS, DB_NAME
# lists, TLS, and a configuration that is already there.
set -euo pipefail

directory=/etc/pgbouncer
settings=(
    AUTH_QUERY AUTH_USER POOL_MODE DEFAULT_POOL_SIZE MIN_POOL_SIZE RESERVE_POOL_SIZE MAX_CLIENT_CONN MAX_DB_CONNECTIONS
    MAX_USER_CONNECTIONS MAX_PREPARED_STATEMENTS SERVER_RESET_QUERY SERVER_IDLE_TIMEOUT QUERY_WAIT_TIMEOUT
    CLIENT_IDLE_TIMEOUT SERVER_LOGIN_RETRY DNS_MAX_TTL DNS_NXDOMAIN_TTL LOG_CONNECTIONS LOG_DISCONNECTIONS STATS_USERS
)

umask 077
{
    printf '[databases]\n%s = host=%s port=%s auth_user=%s\n' \
        "${DB_NAME:-*}" "${DB_HOST:?the database to connect to}" "${DB_PORT:-5432}" "${DB_USER:-postgres}"
    printf '[pgbouncer]\nlisten_addr = %s\nlisten_port = %s\n' "${LISTEN_ADDR:-0.0.0.0}" "${LISTEN_PORT:-5432}"
    printf 'unix_socket_dir =\nauth_file = %s/userlist.txt\nauth_type = %s\n' "$directory" "${AUTH_TYPE:-md5}"
    printf 'ignore_startup_parameters = %s\n' "${IGNORE_STARTUP_PARAMETERS:-extra_float_digits}"
    printf 'admin_users = %s\n' "${ADMIN_USERS:-postgres}"
    for name in "${settings[@]}"; do
        [ -z "${!name:-}" ] || printf '%s = %s\n' "${name,,}" "${!name}"
    done
} > "$directory/pgbouncer.ini"

# PgBouncer makes what it needs for SCRAM or MD5 from the password itself.
password=${DB_PASSWORD:-}
printf '"%s" "%s"\n' "${DB_USER:-postgres}" "${password//\"/\"\"}" > "$directory/userlist.txt"

exec "$@"
