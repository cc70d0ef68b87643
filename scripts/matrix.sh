#!/usr/bin/env bash
# Runs the tests that depend on a server's version, against several versions of PostgreSQL, Redis, Valkey, MariaDB, MySQL and
# NATS, and with PgBouncer, and prints what ran as a table: docs/RELIABILITY.md has one.
#   scripts/matrix.sh                        # every version
#   scripts/matrix.sh postgres-14 redis-5    # these versions
#   OUTBOX_MATRIX_SUITES="store faults" scripts/matrix.sh postgres-14 postgres-15
# scripts/server.sh fetches the servers. The output of the tests is in target/tmp/matrix/VERSION-SUITE.log.
# A version that cannot be had has a row that says so. Exits with 1 if a test failed, if no test of a suite ran, or if a
# version that the arguments name cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."

versions=(postgres-14 postgres-15 postgres-16 postgres-17 postgres-18 redis-5 redis-6.2 redis-7 redis-8 valkey-9
    mariadb mysql-9 nats-2.12 nats-2.14 nats-2.15 pgbouncer)
named="$#"
[ "$named" -eq 0 ] || versions=("$@")
logs=target/tmp/matrix
status=0

say() { printf '%s\n' "$*" >&2; }

# The suites of a version. "program" tests the program `outbox`.
suites_of() {
    case "$1" in
        postgres-*) echo "store program faults" ;;
        mariadb | mysql-*) echo "store program faults" ;;
        nats-*) echo "sessions program faults" ;;
        pgbouncer) echo "pooler" ;;
        # Consumers need Redis 6.2.
        redis-5) echo "sessions program faults" ;;
        *) echo "sessions program consumers faults" ;;
    esac
}

tests() { cargo test --workspace --no-fail-fast "$@"; }

# A minute of one phase of the long fault suite.
phase() {
    OUTBOX_FAULTS="--rounds 0 --seconds 60 --phases $1" tests --test faults -- \
        --ignored --exact each_kind_of_fault_alone_and_then_all_together
}

run() {
    local version="$1" suite="$2" failed=0
    case "$suite:$version" in
        store:postgres-*) tests --lib -- store::conformance::postgres store::postgres ;;
        store:*) tests --lib -- store::conformance::mysql store::mysql ;;
        sessions:nats-*) tests --lib -- backend::nats ;;
        sessions:*) tests --lib -- backend::redis --skip backend::redis::source ;;
        program:postgres-*)
            tests --test it -- sql:: schemas:: rights:: moving:: waking:: unrecorded:: failover:: standby::
            ;;
        program:mariadb | program:mysql-*) tests --test it -- mysql:: mariadb ;;
        program:nats-*) tests --test it -- nats:: ;;
        program:*) tests --test it -- redis_streams:: redis_messages:: journal:: cluster:: sentinel:: replicas:: order:: ;;
        consumers:*)
            tests --lib -- backend::redis::source || failed=1
            tests --test it -- consumers:: partitions:: inbox:: || failed=1
            return "$failed"
            ;;
        pooler:*) tests --test it -- --ignored pgbouncer:: ;;
        faults:mariadb | faults:mysql-*) phase mysql ;;
        faults:nats-*) phase nats ;;
        faults:*) tests --test faults -- a_minute_of_all_faults ;;
    esac
}

name_of() {
    case "$1" in
        postgres-*) "$2/postgres" --version | sed -E 's/.*\) ([0-9.]+).*/PostgreSQL \1/' ;;
        pgbouncer) "$2/pgbouncer" --version | sed -n 1p ;;
        mariadb) "$2/mariadbd" --version | sed -E 's/.* ([0-9.]+)-MariaDB.*/MariaDB \1/' ;;
        mysql-*) "$2/mysqld" --version | sed -E 's/.*Ver ([0-9.]+).*/MySQL \1/' ;;
        nats-*) "$2/nats-server" --version | sed -E 's/.*v([0-9.]+).*/nats-server \1/' ;;
        *) "$2/redis-server" --version | sed -E 's/^(Redis|Valkey) server v=([0-9.]+).*/\1 \2/' ;;
    esac
}

# The sum of what the test programs report: "test result: ok. 12 passed; 0 failed; …".
sum() { awk -v what="$2" '/^test result:/ { for (i = 2; i <= NF; i++) if ($i ~ what) total += $(i - 1) } END { print total + 0 }' "$1"; }

run_suite() {
    local version="$1" suite="$2" bin="$3" log="$logs/$1-$2.log" start="$SECONDS" passed failed ended=0
    say "$version: $suite"
    (
        PATH="$PWD/$bin:$PATH"
        case "$version" in
            mysql-*) export OUTBOX_TEST_MYSQLD="$PWD/$bin/mysqld" ;;
            nats-*) export OUTBOX_TEST_NATS_SERVER="$PWD/$bin/nats-server" ;;
        esac
        run "$version" "$suite"
    ) >"$log" 2>&1 || ended=$?
    passed=$(sum "$log" "^passed") failed=$(sum "$log" "^failed")
    if [ "$ended" -ne 0 ] || [ "$passed" -eq 0 ]; then
        status=1
        say "failed, see $log"
        grep -E '^test .* FAILED$|^error' "$log" >&2 || true
    fi
    echo "| $(name_of "$version" "$bin") | $suite | $passed | $failed | $((SECONDS - start)) s |"
}

cargo test --workspace --lib --test it --test faults --no-run
mkdir -p "$logs"
printf '| server | tests | passed | failed | time |\n|---|---|---|---|---|\n'
for version in "${versions[@]}"; do
    if ! bin=$(scripts/server.sh "$version"); then
        say "$version cannot be had"
        echo "| $version | cannot be had | | | |"
        [ "$named" -eq 0 ] || status=1
        continue
    fi
    for suite in ${OUTBOX_MATRIX_SUITES:-$(suites_of "$version")}; do run_suite "$version" "$suite" "${bin#"$PWD"/}"; done
done

exit "$status"
