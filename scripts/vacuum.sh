#!/usr/bin/env bash
# Measures the effect of the event table's settings for autovacuum and fill factor; see cli/benches/vacuum.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench -p actix-outbox-cli --bench vacuum
