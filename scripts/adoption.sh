#!/usr/bin/env bash
# Adopts 2,000,000 rows of a django-broadcaster table while a writer inserts, kills the adoption ten times, and prints how
# long a write waited at most and whether a row was lost; see cli/tests/it/adoption/interrupted.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo test -p actix-outbox-cli --test it -- --ignored --exact --nocapture \
    adoption::interrupted::two_million_rows_are_adopted_under_kills_and_no_write_waits_for_2_s
