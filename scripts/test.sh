#!/usr/bin/env bash
# Runs the whole test suite: the tests, the documentation's examples and the example that needs no server.
# Installs missing programs from Debian's packages if it has the rights, and otherwise prints the commands.
#   scripts/test.sh --programs     only installs them
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# On the PATH, or in the folder of Debian's packages.
has_postgres() {
    local bin
    for bin in /usr/lib/postgresql/*/bin; do
        if [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ]; then return 0; fi
    done
    command -v initdb >/dev/null && command -v postgres >/dev/null
}

# ensurepip installs pip into an environment; Debian has it in a separate package.
has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Installs packages without starting their servers: the tests start their own.
install_packages() {
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    as_root apt-get update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

step "Programs that the tests need"
command -v cargo >/dev/null || fail "cargo is missing. Install Rust 1.94 or later: https://rustup.rs"
command -v cc >/dev/null || fail "A C compiler is missing. Run: sudo apt-get install gcc libc6-dev"
packages=()
command -v redis-server >/dev/null || packages+=(redis-server)
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || packages+=(rabbitmq-server)
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || packages+=(nginx-light)
command -v curl >/dev/null || packages+=(curl)
command -v promtool >/dev/null || packages+=(prometheus)
has_postgres || packages+=(postgresql)
command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ] || packages+=(mariadb-server)
has_venv || packages+=(python3-venv)
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
command -v chromium >/dev/null || packages+=(chromium)
command -v chromedriver >/dev/null || packages+=(chromium-driver)
if [ "${#packages[@]}" -gt 0 ]; then
    by_hand="sudo apt-get update && sudo apt-get install --no-install-recommends ${packages[*]}"
    command -v apt-get >/dev/null || fail "Missing: ${packages[*]}. On Debian: $by_hand"
    if [ "$(id -u)" -ne 0 ] && ! sudo -n true 2>/dev/null; then fail "Missing: ${packages[*]}. Run: $by_hand"; fi
    echo "Installing ${packages[*]}"
    (install_packages "${packages[@]}") || fail "The installation failed. Run: $by_hand"
fi
echo "cargo, cc, redis-server, rabbitmq-server, postgres, mariadbd, nginx, curl, promtool, chromium, node, npm and python3 with venv are installed"
if [ "${1:-}" = --programs ]; then exit 0; fi

# Tests wait more than they compute, so three share two processors. With more threads their servers only wait for each other.
threads=$((3 * $(nproc 2>/dev/null || echo 2) / 2))
if [ "$threads" -gt 6 ]; then threads=6; fi

step "Tests and the documentation's examples"
RUST_TEST_THREADS="${RUST_TEST_THREADS:-$threads}" cargo test --workspace

# A workspace of its own; in the same folder, most of what it needs is built already.
step "Tests of the adapters, with every driver"
RUST_TEST_THREADS="${RUST_TEST_THREADS:-$threads}" cargo test --manifest-path tests/adapters/Cargo.toml --target-dir target

step "Examples with sqlx"
RUST_TEST_THREADS="${RUST_TEST_THREADS:-$threads}" cargo test --manifest-path examples/web/Cargo.toml --target-dir target

step "Example: quickstart"
cargo run --quiet -p quickstart

step "All passed"
