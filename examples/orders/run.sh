#!/usr/bin/env bash
# Runs the order service, the worker and the mailer until Ctrl-C, on servers that you have:
#   DATABASE_URL=postgres://localhost/app REDIS_URL=redis://localhost examples/orders/run.sh [ADDRESS]
# The database must exist; the outbox's tables are created in it.
set -euo pipefail
: "${DATABASE_URL:?the address of a database, such as postgres://localhost/app}"
: "${REDIS_URL:?the address of Redis, such as redis://localhost}"
cd "$(dirname "$0")"

cargo build -p orders -p actix-outbox-cli
target=$(cargo metadata --no-deps --format-version 1 | grep -o '"target_directory":"[^"]*"' | cut -d'"' -f4)
PATH=$target/debug:$PATH
export OUTBOX_CONFIG=$PWD/outbox.toml OUTBOX__PUBLISHERS__DEFAULT__URL=$REDIS_URL

outbox migrate          # creates the outbox's tables, or upgrades them
set -m                  # Ctrl-C reaches this script alone, which ends the programs; if one of them ends, the others end too
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
outbox worker &         # from the table to the stream
orders "${1:-127.0.0.1:8080}" &
mailer &
wait -n
