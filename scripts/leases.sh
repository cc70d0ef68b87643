#!/usr/bin/env bash
# Measures a heartbeat after a day under one snapshot, and fails above the limit; see cli/benches/leases.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench -p actix-outbox-cli --bench leases
