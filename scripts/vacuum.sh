#!/usr/bin/env bash
# Measures what the event table's settings for autovacuum and fill factor are worth; see benches/vacuum.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --bench vacuum
