#!/usr/bin/env bash
# Measures how long the console's pages take with two million events in the table, and what an open page costs a worker;
# see benches/console.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --bench console
