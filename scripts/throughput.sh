#!/usr/bin/env bash
# Measures how fast a worker drains 100,000 events from PostgreSQL into Redis, and its memory; see cli/benches/throughput.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench -p actix-outbox-cli --bench throughput
