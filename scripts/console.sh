#!/usr/bin/env bash
# Measures the response times of the console's pages with two million events, and the cost of an open page for a worker;
# see cli/benches/console.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench -p actix-outbox-cli --bench console
