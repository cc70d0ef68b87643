#!/usr/bin/env bash
# Measures the cost of two idle workers for PostgreSQL, and fails above the limits; see cli/benches/idle.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench -p actix-outbox-cli --bench idle
