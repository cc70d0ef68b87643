#!/usr/bin/env bash
# Runs the long fault suite: each kind of fault alone, then all together, with events that are deleted once they are done,
# under a mixed load, on a SQLite file, on MariaDB, with JetStream, and with consumers; see cli/tests/faults and docs/RELIABILITY.md.
# OUTBOX_FAULTS_OLDER names the program of an older version, for the kind `upgrade`.
#   scripts/faults.sh [--rounds N] [--seconds S] [--seed X] [--only KIND,KIND] [--phases PHASE,PHASE]
# --help names the kinds and the phases.
# The programs are optimised, as in production: unoptimised workers cannot catch up between long faults.
# Exits with 1 if an event was lost, duplicated, out of order or stuck, or if a figure is above its limit, and prints how to
# repeat the same faults.
set -euo pipefail
cd "$(dirname "$0")/.."
export OUTBOX_FAULTS="$*"
cargo test --release --quiet -p actix-outbox-cli --test faults -- --ignored --exact --nocapture \
    each_kind_of_fault_alone_and_then_all_together || exit 1
