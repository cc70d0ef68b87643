# The commands that a contributor needs; `just` lists them. CONTRIBUTING.md has all of them, and works without just.

_default:
    @just --list --unsorted

# Events, handlers and retries on a SQLite file; no server needed
try:
    cargo run -p quickstart

# Compile everything
build:
    cargo build --workspace --all-targets

# The tests whose name contains NAME: just test takeover
test name='':
    cargo test --workspace --lib --test it -- {{ quote(name) }}

# Every test and example; installs what is missing on Debian
test-all:
    scripts/test.sh

# Format, and report lints and words
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets -- -D warnings
    scripts/check-words.py
    scripts/check-links.py

# What must hold before a change is merged
ci:
    .ci/run

# PostgreSQL, Redis, the tables and a worker in containers
up:
    docker compose -f deploy/compose.yaml up --build

# The book, in target/book/html
book:
    scripts/docs.sh

# Write the reference in docs/command-line.md again, after a change of flags
reference:
    OUTBOX_WRITE_REFERENCE=1 cargo test --workspace --lib reference

# Events a second and the worker's memory
bench:
    scripts/throughput.sh
