#!/usr/bin/env bash
# Compares this project with others at the same work, and prints a table: docs/benchmark.md.
#   scripts/compare.sh                                  # about half an hour, and as long again to build
#   scripts/compare.sh --rounds 1 --events 20000 --only drain,kill --tools actix-outbox,awa
# Needs PostgreSQL's and Redis' server programs, python3 with venv, and Rust 1.94; the packages come from crates.io and PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=benches/outboxes
target="${CARGO_TARGET_DIR:-$PWD/target}"
venv="$target/tmp/outboxes"

cargo build --release -p actix-outbox-cli --bin outbox --target-dir "$target"
cargo build --release --manifest-path "$packages/Cargo.toml" --target-dir "$target"
if [ ! -e "$venv/complete" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$packages/driver/requirements.txt"
    touch "$venv/complete"
fi

# outbox-postgres has its migration in its package, and no function that runs it.
migration=$(cargo metadata --format-version 1 --manifest-path "$packages/Cargo.toml" | python3 -c '
import json, pathlib, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "outbox-postgres":
        print(*pathlib.Path(package["manifest_path"]).parent.glob("migrations/*_init.sql"))')

export PYTHONDONTWRITEBYTECODE=1
exec "$venv/bin/python" "$packages/driver/compare.py" --binaries "$target/release" --migration "$migration" "$@"
