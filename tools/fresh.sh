#!/usr/bin/env bash
# The README's two commands as a newcomer meets them: bash tools/fresh.sh [PYTHON]. Nothing of this user's is seen or kept:
# an empty home, no pip cache, an ASCII locale, umask 077, no terminal, 20 columns, a path with spaces and letters beyond
# ASCII, and no rights over files that are read-only. Then wheel and sdist in empty folders, and a read-only source tree
# with a home that cannot be written.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(command -v "${1:-python3}") || { echo "no such Python: ${1:-python3}" >&2; exit 1; }
scratch=$(mktemp -d "${TMPDIR:-/tmp}/simkit fresh.XXXXXX")
trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT
home="$scratch/home" tree="$scratch/Ünï cødé/sim kit" empty="$scratch/empty folder" sealed="$scratch/sealed home"
mkdir -p "$home" "$tree" "$empty" "$sealed"
{ git ls-files -z 2>/dev/null || find . -type f -not -path './.venv/*' -not -path './out/*' -print0; } |
    xargs -0 tar c | tar x -C "$tree"
locale=C
locale -a 2>/dev/null | grep -q '^tr_TR' && locale=$(locale -a | grep '^tr_TR' | head -n 1)

# Where pip finds packages is the machine's, not the user's: those variables stay.
kept=()
while IFS='=' read -r name _; do
    case $name in PIP_* | *_proxy | *_PROXY | SSL_CERT_*) kept+=("$name=${!name}") ;; esac
done < <(env)
powerless=()
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    powerless=(setpriv --bounding-set=-all --inh-caps=-all) # root without its powers over read-only files
fi

newcomer() { # newcomer HOME COMMAND...
    local at=$1
    shift
    (umask 077 && "${powerless[@]}" env -i "${kept[@]}" PATH="$PATH" HOME="$at" LANG=$locale LC_ALL=$locale \
        PIP_NO_CACHE_DIR=1 NO_COLOR=1 COLUMNS=20 TERM=dumb "$@" </dev/null)
}

checks_passed=0
check() { # check DESCRIPTION COMMAND...
    local description=$1
    shift
    if ! "$@" >"$scratch/log" 2>&1; then
        cat "$scratch/log" >&2
        echo "fresh: FAILED: $description" >&2
        exit 1
    fi
    echo "fresh: ok: $description"
    checks_passed=$((checks_passed + 1))
}
quiet() { # quiet COMMAND...: succeeds, and says nothing on the standard error
    "$@" 2>"$scratch/said" >"$scratch/printed" && [ ! -s "$scratch/said" ] || { cat "$scratch/said" >&2; return 1; }
}
without() { # without PATTERN COMMAND...: succeeds, and the pattern is nowhere in what it says
    local pattern=$1
    shift
    "$@" >"$scratch/printed" 2>&1 || { cat "$scratch/printed" >&2; return 1; }
    ! grep -E "$pattern" "$scratch/printed" >&2
}

"$python" --version
venv="$tree/.venv/bin/python"
simulate=(simulate -A mha,mqa --batch 1 --kv-len 4k)
replay=(attention -H h100-sxm --n-q-heads 8 --n-kv-heads 1 --head-dim 128 --batch 1 --kv-len 256 --engine replay)

cd "$tree"
check "make report" newcomer "$home" make report PYTHON="$python"
check "the page is there" test -s out/gqa_on_asics/index.html
check "make test (command line and scratch)" newcomer "$home" make test PYTHON="$python" \
    PYTEST_ARGS="-n0 -q tests/cli/test_program.py tests/cli/test_simulate.py tests/foundation/test_scratch.py \
    --deselect tests/cli/test_simulate.py::test_one_point_takes_under_a_second_for_the_whole_process"
check "python cli.py from there" quiet newcomer "$home" "$venv" cli.py "${simulate[@]}"
check "wheel and sdist" newcomer "$home" "$venv" -m build --no-isolation --outdir "$scratch/dist" .

# Dependencies come from the first environment, by a name in ASCII letters, because Python reads .pth files in the locale's
# encoding before 3.13: what is proved is what the two files carry (.ci/run resolves them anew).
ln -s "$tree/.venv" "$scratch/first"
environment() { # environment FOLDER: a new one that finds the first one's packages
    newcomer "$home" "$python" -m venv "$1"
    "$venv" -c 'import os, site, sys; print(os.path.join(sys.argv[1], os.path.relpath(site.getsitepackages()[0], sys.prefix)))' \
        "$scratch/first" >"$(echo "$1"/lib/python*/site-packages)/zz.pth"
}
cd "$empty"
for built in "$scratch"/dist/simkit-*.whl "$scratch"/dist/simkit-*.tar.gz; do
    form=${built##*.}
    other="$scratch/venv $form"
    environment "$other"
    check "$form: pip install" newcomer "$home" "$other/bin/python" -m pip install --quiet --no-deps \
        --no-build-isolation --force-reinstall "$built"
    check "$form: runs in an empty folder" quiet newcomer "$home" "$other/bin/simkit" "${simulate[@]}"
    check "$form: it is not the checkout that runs" newcomer "$home" "$other/bin/python" -c \
        'import sys, simkit; sys.exit(not simkit.__file__.startswith(sys.prefix))'
done

# pip writes the folder's name as it is into a .pth file: so here the name has spaces and no letters beyond ASCII.
plain="$scratch/plain tree" other="$scratch/venv editable"
mkdir "$plain"
(cd "$tree" && tar c --exclude=./.venv --exclude=./out .) | tar x -C "$plain"
environment "$other"
check "pip install -e ." newcomer "$home" "$other/bin/python" -m pip install --quiet --no-deps \
    --no-build-isolation --force-reinstall -e "$plain"
check "editable: runs in an empty folder" quiet newcomer "$home" "$other/bin/simkit" "${simulate[@]}"
check "editable: it is the checkout that runs" newcomer "$home" "$other/bin/python" -c \
    'import sys, simkit; sys.exit(not simkit.__file__.startswith(sys.argv[1]))' "$plain"

chmod -R a-w "$tree" "$sealed"
check "read-only source, sealed home: python cli.py" quiet newcomer "$sealed" "$venv" "$tree/cli.py" "${simulate[@]}"
check "read-only source, sealed home: replay" without 'Traceback|RuntimeError' newcomer "$sealed" "$venv" \
    "$tree/cli.py" "${replay[@]}"
check "read-only source, sealed home: a figure" without 'Traceback|MPLCONFIGDIR' newcomer "$sealed" "$venv" \
    "$tree/cli.py" roofline -H h100-sxm -M llama-2-70b -A mha -o "$empty/roofline.png"
echo "fresh: $checks_passed passed, 0 failed"
