"""Every reader against made-up input, blind and guided by coverage.

``python tools/check.py fuzz [--runs N] [TARGET ...]``. 20 000 runs of each, both ways, take an hour. Atheris has wheels
for Linux only, and no test needs it: it is installed here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
NEEDS: Final = "atheris==3.0.0"


def main() -> None:
    """Run the targets; stop at the first that has a finding."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="check.py fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all when left out")
    parser.add_argument("--runs", type=int, default=20_000)
    chosen = parser.parse_args()
    unknown = set(chosen.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", NEEDS], check=True)
    for target in chosen.targets or TARGETS:
        print(f"== {target}", flush=True)
        words = [sys.executable, "tests/fuzz/run.py", target, "--runs", str(chosen.runs)]
        subprocess.run([*words, "--blind"], cwd=REPOSITORY, check=True)
        guided = subprocess.run(words, cwd=REPOSITORY, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                encoding="utf-8", errors="replace")
        print("\n".join(guided.stdout.splitlines()[-20:]), flush=True)
        found = [path.name for kind in ("crash", "timeout", "oom")
                 for path in (REPOSITORY / "out" / "fuzz" / target).glob(f"{kind}-*")]
        if found:
            raise SystemExit(f"{target}: {', '.join(found)} in out/fuzz/{target}")


if __name__ == "__main__":
    main()
