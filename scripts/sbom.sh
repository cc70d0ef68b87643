#!/usr/bin/env bash
# Writes the software bill of materials of the program, in CycloneDX: FOLDER/outbox-VERSION.cdx.json. Builds nothing.
#   scripts/sbom.sh [FOLDER]     target/dist, unless another folder is named
# Needs cargo-cyclonedx: cargo install cargo-cyclonedx --locked
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-target/dist}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
bill=outbox-$version.cdx
mkdir -p "$folder"

# The tool writes a file next to each manifest of the workspace; only the program's is of use.
trap 'find . -name "$bill.made.json" -not -path "./target/*" -delete' EXIT
cargo cyclonedx -qq --manifest-path cli/Cargo.toml --target all --format json --spec-version 1.5 --override-filename "$bill.made"
# A reader has no use for the path of the folder in which the file was made.
sed "s|file://$PWD|file://.|g" "cli/$bill.made.json" >"$folder/$bill.json"
echo "$folder/$bill.json"
