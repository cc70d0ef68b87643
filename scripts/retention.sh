#!/usr/bin/env bash
# Measures how much deleting old rows slows a worker at full speed; see cli/benches/retention.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench -p actix-outbox-cli --bench retention
