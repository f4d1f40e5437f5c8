#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Starts an ACME server (Debian's pebble) with a name server of its own on a test host, whose address is $1, and has the host
# trust the server's certificate. Names lead to the host unless told otherwise (http://127.0.0.1:8055/add-a).
set -eu
mkdir -p /srv/pebble
cd /srv/pebble
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.pem -subj /CN=test-acme -addext basicConstraints=critical,CA:true 2>/dev/null
openssl req -newkey rsa:2048 -nodes -keyout key.pem -out csr.pem -subj /CN=localhost 2>/dev/null
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >ext
openssl x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out cert.pem 2>/dev/null
cat >config.json <<JSON
{"pebble": {"listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
 "certificate": "/srv/pebble/cert.pem", "privateKey": "/srv/pebble/key.pem", "httpPort": 80, "tlsPort": 443,
 "ocspResponderURL": "", "externalAccountBindingRequired": false, "retryAfter": {"authz": 1, "order": 1},
 "certificateValidityPeriod": 7776000, "profiles": {"default": {"description": "as usual", "validityPeriod": 7776000}}}}
JSON
cp ca.pem /usr/local/share/ca-certificates/test-acme.crt
update-ca-certificates >/dev/null 2>&1
# Newer releases call it what it is.
flag=$(pebble-challtestsrv -h 2>&1 | grep -q -- -dnsserver && echo -dnsserver || echo -dns01)
systemd-run --quiet --unit challtestsrv pebble-challtestsrv -defaultIPv6 '' -defaultIPv4 "$1" "$flag" 127.0.0.1:8053 -doh '' -http01 '' -https01 '' -tlsalpn01 '' -management 127.0.0.1:8055
systemd-run --quiet --unit pebble -E PEBBLE_VA_NOSLEEP=1 -E PEBBLE_WFE_NONCEREJECT=5 pebble -config /srv/pebble/config.json -dnsserver 127.0.0.1:8053
# Hooks for challenges by DNS.
cat >auth.sh <<'HOOK'
#!/bin/sh
exec curl -sf -d "{\"host\":\"_acme-challenge.$CERTBOT_DOMAIN.\",\"value\":\"$CERTBOT_VALIDATION\"}" http://127.0.0.1:8055/set-txt
HOOK
cat >cleanup.sh <<'HOOK'
#!/bin/sh
exec curl -sf -d "{\"host\":\"_acme-challenge.$CERTBOT_DOMAIN.\"}" http://127.0.0.1:8055/clear-txt
HOOK
chmod 755 auth.sh cleanup.sh
for _ in 1 2 3 4 5 6 7 8 9 10; do
  if curl -sf --cacert ca.pem https://127.0.0.1:15000/roots/0 >root.pem && curl -sf --cacert ca.pem https://127.0.0.1:15000/intermediates/0 >intermediate.pem; then
    exit 0
  fi
  sleep 0.3
done
exit 1
