#!/usr/bin/env bash
# Compares the library's public API with tests/public-api/actix-outbox.txt:
#   scripts/public-api.sh [--write]
# Installs cargo-public-api under target/ if it is missing. It reads rustdoc's JSON, which is not stable: a toolchain whose JSON it
# cannot read is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.52.0
kept=tests/public-api/actix-outbox.txt
folder=$PWD/target/public-api

if ! "$folder/bin/cargo-public-api" --version 2>/dev/null | grep -q " $version$"; then
    if ! cargo install cargo-public-api --version "$version" --locked --root "$folder" --target-dir "$folder/tool" --quiet; then
        echo "skipped: cargo-public-api $version cannot be installed"
        exit 0
    fi
    rm -rf "$folder/tool"
fi

RUSTC_BOOTSTRAP=1 cargo rustdoc -q -p actix-outbox --lib --all-features --target-dir "$folder" -- \
    -Z unstable-options --output-format json
found=$folder/actix-outbox.txt
if ! "$folder/bin/cargo-public-api" public-api --rustdoc-json "$folder/doc/actix_outbox.json" -sss >"$found"; then
    echo "skipped: this toolchain's JSON cannot be read"
    exit 0
fi

if [ "${1-}" = --write ]; then
    mkdir -p "$(dirname "$kept")"
    cp "$found" "$kept"
elif ! diff -u "$kept" "$found"; then
    echo "The public API has changed. If that is meant: scripts/public-api.sh --write, and a line in CHANGELOG.md"
    exit 1
fi
