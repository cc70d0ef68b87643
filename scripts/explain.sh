#!/usr/bin/env bash
# Measures how long `explain` takes with two million events in the table; see cli/benches/explain.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench -p actix-outbox-cli --bench explain
