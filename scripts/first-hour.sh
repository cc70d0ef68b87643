#!/usr/bin/env bash
# Checks that the service of docs/getting-started.md compiles as it is printed, as a package of its own outside of the
# workspace, with the dependencies that the page names.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"

# The first block of this language in the page.
block() {
    awk -v "begin=^\`\`\`$1" '$0 ~ /^```/ && on { exit } on { print } $0 ~ begin { on = 1 }' docs/getting-started.md
}
block rust >"$folder/src/main.rs"
{
    printf '[package]\nname = "user-service"\nversion = "0.0.0"\nedition = "2024"\n\n'
    block toml | sed -E "s|^actix-outbox = \{ version = \"[^\"]*\"|actix-outbox = { path = \"$PWD\"|; s| # or, from a checkout.*||"
    printf '\n[workspace]\n'
} >"$folder/Cargo.toml"
# The versions that the tests run with.
cp Cargo.lock "$folder/Cargo.lock"
cargo check --quiet --manifest-path "$folder/Cargo.toml" --target-dir "${CARGO_TARGET_DIR:-target}/first-hour" "$@"
echo "the service of the book compiles"
