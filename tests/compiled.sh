#!/usr/bin/env bash
# Builds the compiled wheel, installs it apart from the tree and holds it to the tests of what it compiles.  PYTHON names
# the interpreter (default python3), which needs its headers; arguments go to pytest.  It takes some four minutes on two
# processors.
set -euo pipefail
cd "$(dirname "$0")/.."

place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
unset PYTHONPATH
"${PYTHON:-python3}" -m venv "$place/venv"
python="$place/venv/bin/python"

echo "== compile"
HL7CORE_COMPILE=1 "$python" -m pip wheel -q --no-deps -w "$place/wheel" .
wheel=("$place"/wheel/hl7core-*.whl)
if [[ "${wheel[0]}" == *-none-any.whl ]]; then echo "the wheel is pure: ${wheel[0]}" >&2; exit 1; fi
"$python" -m pip install -q "${wheel[0]}[test]"

echo "== test what is installed"
"$python" - "$PWD" <<'PY'
import sys
from pathlib import Path
import hl7core
from hl7core.cli.version import is_compiled
at = Path(hl7core.__file__)
assert not at.is_relative_to(sys.argv[1]), f"the tree itself would be tested: {at}"
assert is_compiled(), f"nothing is compiled: {at}"
PY
"$python" -m pytest -q -p no:cacheprovider -n "$(nproc)" \
  tests/wire tests/model tests/test_files.py tests/test_captures.py tests/captures tests/test_bench.py \
  tests/cli/test_read.py tests/cli/test_export.py tests/cli/test_show.py "$@"
