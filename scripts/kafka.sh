#!/usr/bin/env bash
# The tests of the Kafka backend: against librdkafka's mock cluster, and, if KAFKA_URL is set, against that cluster too:
#   KAFKA_URL=localhost:9092 scripts/kafka.sh
# A broker for it: docker compose -f deploy/compose.yaml --profile kafka up kafka
# Needs a C compiler, make, and the headers of OpenSSL and zlib.
set -euo pipefail
cd "$(dirname "$0")/.."

run() { cargo test --manifest-path kafka/Cargo.toml --target-dir target "$@"; }

printf '\n== Kafka: the mock cluster\n'
(unset KAFKA_URL && run)

if [ -n "${KAFKA_URL:-}" ]; then
    printf '\n== Kafka: the cluster at %s\n' "$KAFKA_URL"
    run --test it -- --skip faults
else
    echo "KAFKA_URL is not set: not run against a cluster"
fi
