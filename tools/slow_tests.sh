#!/usr/bin/env bash
# The tests that CI leaves out, then the laws with five times CI's examples: bash tools/slow_tests.sh [PYTEST OPTIONS].
# Last run: see CONTRIBUTING.md.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/python -m pytest -m slow "$@"
HYPOTHESIS_PROFILE=many .venv/bin/python -m pytest -m "hypothesis and not slow" "$@"
