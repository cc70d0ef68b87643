#!/usr/bin/env bash
# Packs the program with its manual pages and completions into target/dist: an archive, and where cargo-deb is
# installed a package for Debian.
#   scripts/package.sh             builds the program first
#   scripts/package.sh PROGRAM     packs a program that is built already
set -euo pipefail
cd "$(dirname "$0")/.."

program=${1:-}
if [ -z "$program" ]; then
    cargo build --release --locked -p actix-outbox-cli
    program=${CARGO_TARGET_DIR:-target}/release/outbox
fi

dist=$PWD/target/dist
files=$dist/files
rm -rf "$dist"
mkdir -p "$files/man" "$files/completions" "$dist/unit"
cp "$program" "$files/outbox"
"$files/outbox" man --folder "$files/man"
"$files/outbox" completions bash >"$files/completions/outbox.bash"
"$files/outbox" completions zsh >"$files/completions/_outbox"
"$files/outbox" completions fish >"$files/completions/outbox.fish"

version=$("$files/outbox" --version | cut -d' ' -f2)
name=outbox-$version-$(rustc -vV | sed -n 's/^host: //p')
mkdir "$dist/$name"
cp -r "$files/." LICENSE-APACHE LICENSE-MIT CHANGELOG.md cli/README.md deploy/outbox.service deploy/outbox.toml "$dist/$name/"
tar -C "$dist" -czf "$dist/$name.tar.gz" "$name"
echo "${dist#"$PWD/"}/$name.tar.gz"

if command -v cargo-deb >/dev/null; then
    # The comment at the top of the unit is about an installation by hand. The name is the one that cargo-deb expects.
    sed -e '1,/^$/d' -e 's|/usr/local/bin/|/usr/bin/|' deploy/outbox.service >"$dist/unit/actix-outbox.outbox.service"
    cargo deb --quiet --no-build --no-strip -p actix-outbox-cli --output "$dist"
    ls "${dist#"$PWD/"}"/*.deb
else
    echo "no package for Debian: cargo-deb is not installed"
fi
