#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
set -e
case "${1:-}" in -*) set -- envoy "$@" ;; esac
if [ "${1:-}" = envoy ] && [ "$(id -u)" = 0 ]; then
    # an access log on /dev/stdout is opened by name, and Docker's pipe belongs to root
    chown --dereference envoy: /dev/stdout /dev/stderr 2> /dev/null || :
    exec setpriv --reuid=envoy --regid=envoy --clear-groups "$@"
fi
exec "$@"
