#!/usr/bin/env bash
# Measures what publishing with each driver costs, as a share of the same driver's raw INSERT: docs/PERFORMANCE.md.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo run --quiet --release --manifest-path tests/adapters/Cargo.toml --target-dir target --bin ratio
