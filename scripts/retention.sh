#!/usr/bin/env bash
# Measures what deleting old rows costs a worker at full speed; see benches/retention.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --bench retention
