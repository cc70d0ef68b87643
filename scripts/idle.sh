#!/usr/bin/env bash
# Measures the cost of two idle workers for PostgreSQL, and fails above the limits; see benches/idle.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --bench idle
