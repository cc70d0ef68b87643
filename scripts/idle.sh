#!/usr/bin/env bash
# Measures what two idle workers cost PostgreSQL, and fails beyond the limits; see benches/idle.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --bench idle
