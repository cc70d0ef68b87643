#!/usr/bin/env bash
# Checks that the services of docs/getting-started.md, README.md and docs/consumers.md compile as they are printed, as packages of
# their own outside of the workspace, with the dependencies that the pages name.
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
# check FOLDER: compiles the package there.
check() {
    # The versions that the tests run with.
    cp Cargo.lock "$1/Cargo.lock"
    cargo check --quiet --manifest-path "$1/Cargo.toml" --target-dir "${CARGO_TARGET_DIR:-target}/first-hour" "${@:2}"
}
check "$folder" "$@"

# block_with PAGE LANGUAGE TEXT: the page's first block of this language that contains the text.
block_with() {
    awk -v "begin=^\`\`\`$2" -v "text=$3" '
        /^```/ && on { if (index(block, text)) { printf "%s", block; exit } on = 0; next }
        on { block = block $0 "\n" }
        $0 ~ begin { on = 1; block = "" }' "$1"
}
mkdir -p "$folder/consumer/src"
block_with docs/consumers.md rust ConsumerProbes >"$folder/consumer/src/main.rs"
{
    block_with docs/consumers.md toml '[package]' | sed -E "s|^actix-outbox = \{ version = \"[^\"]*\"|actix-outbox = { path = \"$PWD\"|"
    printf '\n[workspace]\n'
} >"$folder/consumer/Cargo.toml"
check "$folder/consumer" "$@"
echo "the services of the book and the README compile"
