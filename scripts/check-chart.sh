#!/usr/bin/env bash
# Checks deploy/helm: Helm's own lint and templates with several values, Kubernetes' schemas, and that its worker is the one
# of deploy/kubernetes.yaml. No cluster installs it.
#
# Needs python3 with venv, and the network for pip (once).
set -euo pipefail
cd "$(dirname "$0")/.."

work=$PWD/target/check-chart
mkdir -p "$work"

# Helm 4.2.3, as a library.
tools=(helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 pyyaml==6.0.3)
if [ "$(cat "$work/tools" 2>/dev/null)" != "${tools[*]}" ]; then
    python3 -m venv --clear "$work/venv"
    "$work/venv/bin/pip" install --quiet "${tools[@]}"
    echo "${tools[*]}" >"$work/tools"
fi
echo "${tools[*]}"

rm -rf "$work/rendered"
"$work/venv/bin/python" scripts/check-chart.py "$work/rendered"
"$work/venv/bin/kubernetes-validate" --strict "$work"/rendered/*.yaml
