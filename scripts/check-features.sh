#!/usr/bin/env bash
# Lints the library and the program with combinations of features that applications choose.
#   scripts/check-features.sh          # a few
#   scripts/check-features.sh --all    # more of them
set -euo pipefail
cd "$(dirname "$0")/.."

library=(postgres mysql sqlite-bundled postgres,rusqlite,inbox mysql-async,sqlx-0_8,sea-orm-1,inbox sqlite-bundled,consumer,nats,rabbitmq
    postgres,http-backend,nats,unstable-sessions sqlite-bundled,testing,actix-web,prometheus)
program=(postgres mysql sqlite-bundled,http,http-backend postgres,consumer)
if [ "${1:-}" = --all ]; then
    library+=(mysql,inbox postgres,redis,mysql sqlite-bundled,redis postgres,sqlite-bundled postgres,redis sqlite-bundled,sqlx-0_8
        postgres,rusqlite postgres,http-backend postgres,nats,unstable-sessions sqlite-bundled,rabbitmq sqlite-bundled,inbox
        sqlite-bundled,consumer)
    program+=(sqlite-bundled,redis postgres,redis,bench postgres,rabbitmq postgres,consumer,http)
fi

lint() {
    printf '\n== clippy: %s with the features %s\n' "$1" "$2"
    cargo clippy -p "$1" --no-default-features --features "$2" -- -D warnings
}
for features in "${library[@]}"; do lint actix-outbox "$features"; done
for features in "${program[@]}"; do lint actix-outbox-cli "$features"; done
