#!/usr/bin/env bash
# Checks that the services of docs/getting-started.md and README.md compile as they are printed, as a package of its own
# outside of the workspace, with the dependencies that the page names.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/src/bin"

# block PAGE LANGUAGE: the page's first block of this language.
block() {
    awk -v "begin=^\`\`\`$2" '$0 ~ /^```/ && on { exit } on { print } $0 ~ begin { on = 1 }' "$1"
}
block docs/getting-started.md rust >"$folder/src/main.rs"
block README.md rust >"$folder/src/bin/readme.rs"
{
    printf '[package]\nname = "user-service"\nversion = "0.0.0"\nedition = "2024"\n\n'
    block docs/getting-started.md toml | sed -E "s|^actix-outbox = \{ version = \"[^\"]*\"|actix-outbox = { path = \"$PWD\"|; s| # or, from a checkout.*||"
    printf '\n[workspace]\n'
} >"$folder/Cargo.toml"
# The versions that the tests run with.
cp Cargo.lock "$folder/Cargo.lock"
cargo check --quiet --manifest-path "$folder/Cargo.toml" --target-dir "${CARGO_TARGET_DIR:-target}/first-hour" "$@"
echo "the services of the book and the README compile"
