#!/usr/bin/env bash
# Measures a heartbeat after a day under one snapshot, and fails above the limit; see benches/leases.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --bench leases --features bench_api
