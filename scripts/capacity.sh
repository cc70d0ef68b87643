#!/usr/bin/env bash
# Computes what deployments larger than one machine reach, and compares the computation with runs on this one; see
# cli/benches/capacity.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench -p actix-outbox-cli --bench capacity -- "$@"
