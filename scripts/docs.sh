#!/usr/bin/env bash
# Checks the links of the documents, then builds the book of docs/ with mdBook into target/book/html.
#   scripts/docs.sh --links     only checks the links
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/check-links.py
echo "links: none is broken"
if [ "${1:-}" = --links ]; then exit 0; fi

if ! command -v mdbook >/dev/null; then
    echo "mdbook is not installed: run 'cargo install mdbook', or 'scripts/docs.sh --links' to check only the links" >&2
    exit 1
fi

# The chapters link to files outside of docs/, which the book lacks: in the book such links lead to the source on docs.rs.
source="$PWD/target/book/source"
rm -rf "$PWD/target/book"
mkdir -p "$PWD/target/book"
cp -r docs "$source"
sed -i -E 's#\]\(\.\./([^)]+)\)#](https://docs.rs/crate/actix-outbox/latest/source/\1)#g' "$source"/*.md
mdbook build "$source" --dest-dir "$PWD/target/book/html"
echo "the book: target/book/html/index.html"
