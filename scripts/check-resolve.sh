#!/usr/bin/env bash
# Checks that applications with other versions of the drivers can depend on actix-outbox: cargo allows one library that links
# SQLite, and neither the default features nor an adapter may bring a second, nor decide about the application's.
#   scripts/check-resolve.sh            # finds versions for all dependencies of each combination
#   scripts/check-resolve.sh --build    # also builds and runs applications that publish with the oldest and newest rusqlite
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
echo 'fn main() {}' >"$folder/src/main.rs"

outbox() { echo "actix-outbox = { path = \"$PWD\", features = [$(printf '"%s", ' "$@")] }"; }
without_defaults() { outbox "$@" | sed 's/, features/, default-features = false, features/'; }
# A dependency: its package, its version, its features; the key holds the version, so that there may be two of one package.
dependency() {
    local package=$1 version=$2
    shift 2
    echo "${package}_${version//./_} = { package = \"$package\", version = \"$version\", default-features = false," \
        "features = [$(printf '"%s", ' "$@")] }"
}
rusqlite() { echo "rusqlite = { version = \"$1\", features = [\"bundled\"] }"; }

manifest() {
    printf '[package]\nname = "application"\nversion = "0.0.0"\nedition = "2024"\n\n[workspace]\n\n[dependencies]\n%s\n' \
        "$1" >"$folder/Cargo.toml"
    rm -f "$folder/Cargo.lock"
}

# The adapter takes the application's rusqlite, not another one.
has_one_rusqlite() { [ "$(grep -c '^name = "rusqlite"' "$folder/Cargo.lock")" -le 1 ]; }

resolved=0 failed=0
# A combination: its name and the lines of its dependencies.
resolves() {
    manifest "$2"
    if cargo generate-lockfile --quiet --manifest-path "$folder/Cargo.toml" 2>"$folder/error" && has_one_rusqlite; then
        resolved=$((resolved + 1))
        printf '%-76s resolves\n' "$1"
    else
        failed=$((failed + 1))
        printf '%-76s DOES NOT RESOLVE\n' "$1"
        cat "$folder/error"
    fi
}

both="sqlite-bundled"
adapters=(tokio-postgres mysql-async sqlx-0_8 sqlx-0_9 sea-orm-1 sea-orm-2 rusqlite)
for adapter in "${adapters[@]}"; do
    resolves "$adapter" "$(outbox "$adapter")"
    resolves "$adapter, sqlite-bundled" "$(outbox "$adapter" $both)"
    resolves "$adapter, sqlite-bundled without postgres" "$(without_defaults "$adapter" $both)"
done
resolves "all adapters" "$(outbox "${adapters[@]}")"
resolves "all adapters, sqlite-bundled" "$(outbox "${adapters[@]}" $both)"

for version in 0.8 0.9; do
    feature="sqlx-${version/./_}"
    resolves "$feature with sqlx $version and postgres" "$(outbox "$feature")
$(dependency sqlx $version postgres runtime-tokio)"
    resolves "$feature with sqlx $version and sqlite" "$(outbox "$feature")
$(dependency sqlx $version sqlite runtime-tokio)"
    resolves "$feature, sqlite-bundled with sqlx $version and both" "$(outbox "$feature" $both)
$(dependency sqlx $version postgres sqlite runtime-tokio)"
done
resolves "sqlx-0_8, sqlx-0_9 with both and postgres" "$(outbox sqlx-0_8 sqlx-0_9)
$(dependency sqlx 0.8 postgres)
$(dependency sqlx 0.9 postgres)"
resolves "sqlx-0_8, sqlx-0_9 with both and sqlite" "$(outbox sqlx-0_8 sqlx-0_9)
$(dependency sqlx 0.8 sqlite)
$(dependency sqlx 0.9 sqlite)"

for version in 1 2; do
    feature="sea-orm-$version"
    for database in postgres sqlite; do
        resolves "$feature with SeaORM $version and $database" "$(outbox "$feature")
$(dependency sea-orm $version sqlx-$database runtime-tokio)"
    done
    resolves "$feature, sqlite-bundled with SeaORM $version and both" "$(outbox "$feature" $both)
$(dependency sea-orm $version sqlx-postgres sqlx-sqlite runtime-tokio)"
done

for version in 0.32 0.33 0.34 0.35 0.36 0.37 0.38 0.39 0.40 0.43; do
    resolves "rusqlite $version with the default features" "$(outbox postgres)
$(rusqlite $version)"
    resolves "rusqlite with rusqlite $version" "$(outbox rusqlite)
$(rusqlite $version)"
done
for version in 0.32 0.39; do
    resolves "rusqlite, sqlite-bundled with rusqlite $version" "$(outbox rusqlite $both)
$(rusqlite $version)"
done
resolves "all adapters with diesel with sqlite, sqlx, SeaORM and rusqlite" "$(outbox "${adapters[@]}" $both)
$(dependency diesel 2.3 sqlite)
$(dependency sqlx 0.8 postgres sqlite)
$(dependency sqlx 0.9 postgres sqlite)
$(dependency sea-orm 1 sqlx-postgres sqlx-sqlite)
$(dependency sea-orm 2 sqlx-postgres sqlx-sqlite)
$(rusqlite 0.32)"

if [ "${1:-}" = --build ]; then
    cat >"$folder/src/main.rs" <<'RUST'
fn main() {
    let mut connection = rusqlite::Connection::open_in_memory().unwrap();
    let mut transaction = connection.transaction().unwrap();
    let event = actix_outbox::NewEvent::new("user.created", "user-service");
    let refused = actix_outbox::rusqlite::publish(&mut transaction, event).unwrap_err();
    println!("SQLite {}: {refused}", rusqlite::version());
}
RUST
    for version in 0.32 0.39 0.43; do
        manifest "$(outbox rusqlite)
$(rusqlite $version)"
        cargo run --quiet --manifest-path "$folder/Cargo.toml" --target-dir target/resolve
    done
fi

echo "$resolved combinations resolve, $failed do not"
[ "$failed" -eq 0 ]
