#!/usr/bin/env bash
# Checks that an application which bundles its own SQLite, by a newer rusqlite than this library's driver allows, can depend on
# actix-outbox with its default features: cargo allows one library that links SQLite, and the defaults must not be a second.
#   scripts/check-resolve.sh            # finds versions for all of its dependencies
#   scripts/check-resolve.sh --build    # also builds it
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
echo 'use actix_outbox as _; fn main() { println!("{}", rusqlite::version()); }' >"$folder/src/main.rs"
cat >"$folder/Cargo.toml" <<TOML
[package]
name = "application"
version = "0.0.0"
edition = "2024"

[dependencies]
actix-outbox = { path = "$PWD" }
rusqlite = { version = "0.43", features = ["bundled"] }

[workspace]
TOML
cargo generate-lockfile --quiet --manifest-path "$folder/Cargo.toml"
if [ "${1:-}" = --build ]; then
    cargo run --quiet --manifest-path "$folder/Cargo.toml" --target-dir target/resolve
fi
echo "an application with rusqlite 0.43 and actix-outbox resolves"
