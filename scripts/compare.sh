#!/usr/bin/env bash
# Measures this build's `outbox bench` against that of another program, in turns; see benches/compare.rs.
#   scripts/compare.sh /path/to/another/outbox 7 [--only drain,latency] [--events N] …
# Fails where a figure is below 0.97 of the other's in three quarters of the pairs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --bench compare -- "$@"
