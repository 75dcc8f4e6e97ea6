#!/usr/bin/env bash
# The tests that CI leaves out: bash tools/slow_tests.sh [PYTEST OPTIONS]. Last run: see CONTRIBUTING.md.
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/python -m pytest -m slow "$@"
