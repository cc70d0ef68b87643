#!/usr/bin/env bash
# Measures this build's `outbox bench` and that of another program alternately; see cli/benches/compare.rs.
#   scripts/compare-builds.sh /path/to/another/outbox 7 [--only drain,latency] [--events N] …
# Fails if a figure is below 0.97 of the other's in three quarters of the pairs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench -p actix-outbox-cli --bench compare -- "$@"
