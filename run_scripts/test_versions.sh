#!/usr/bin/env bash
# Run the tests on the oldest and on the newest supported versions of all packages:
#   run_scripts/test_versions.sh                      both, each in a new environment
#   run_scripts/test_versions.sh oldest tests/ofa     one of them, with arguments of pytest
# The oldest versions are the lower bounds in pyproject.toml. PYTHON chooses the interpreter, 3.11 or newer.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

lower_bounds() {
    "$python" - <<'PYTHON'
import re
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
for requirement in sum((extras[name] for name in ("train", "slurm", "sweep", "test")), project["dependencies"]):
    bound = re.match(r"([\w-]+)>=([\w.]+)", requirement)
    if bound:
        print(f"{bound[1]}=={bound[2]}")
PYTHON
}

run() (  # oldest or newest, then arguments of pytest
    versions=$1
    folder=$(mktemp --directory)
    trap 'rm -rf "$folder"' EXIT
    if [[ $versions == oldest ]]; then lower_bounds > "$folder/constraints"; else : > "$folder/constraints"; fi
    "$python" -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --upgrade pip
    "$folder/venv/bin/pip" install --quiet --constraint "$folder/constraints" --editable ".[test]"
    echo "== $versions versions =="
    "$folder/venv/bin/pip" list
    OMP_NUM_THREADS=1 "$folder/venv/bin/python" -m pytest -q -n 2 "${@:2}"
)

case ${1:-both} in
    both) run oldest; run newest ;;
    oldest | newest) run "$@" ;;
    *) echo "usage: $0 [oldest|newest [PYTEST_ARGUMENT ...]]" >&2; exit 2 ;;
esac
