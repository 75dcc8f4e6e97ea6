"""Runs of one target, guided by coverage (atheris) or blind: ``python tests/fuzz/run.py TARGET [--runs N] [--blind]``.

``tools/check.py fuzz`` runs every target both ways. Blind runs change seeds at random in this module's own ways; they find less an
execution, and there are ten of them in the time of a guided one. A finding is left in ``out/fuzz/TARGET/`` as the bytes that caused it. Mend the reader, shorten the bytes, and put them
into ``tests/fuzz/corpus/TARGET/`` under a name that says what was wrong: ``test_hostile_inputs.py`` runs them from then on.
Each run adds a line to ``out/fuzz/runs.csv``.
"""

import argparse
import datetime as dt
import hashlib
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))
OUT = REPOSITORY / "out" / "fuzz"
# Instrumented Python is several times slower than what users run.
SECONDS_INSTRUMENTED = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the mutations; 0 takes one from the clock")
    parser.add_argument("--blind", action="store_true", help="change seeds at random, without coverage")
    chosen = parser.parse_args()
    if chosen.blind:
        run_blind(chosen.target, chosen.runs, chosen.seed or time.time_ns())
    else:
        run_guided(chosen.target, chosen.runs, chosen.seed)


class Counted:
    """One target with its folder, what it may not do, and how often it ran: a line in ``out/fuzz/ledger/``."""

    def __init__(self, name: str, how: str, *, seconds: float) -> None:
        from tests.fuzz.targets import TARGETS, outcome
        from tests.fuzz.watch import Watch

        self.target, self._outcome = TARGETS[name], outcome
        self.home = OUT / name
        self.home.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="simkit-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self._watch = Watch(self.folder, seconds=seconds)
        self.runs = self.read = 0
        began = dt.datetime.now(tz=dt.UTC)
        self._how, self._date = how, f"{began:%Y-%m-%d}"
        self._ledger = OUT / "ledger" / f"{name}-{how}-{began:%Y%m%dT%H%M%S}.csv"
        self._ledger.parent.mkdir(exist_ok=True)
        for data in self.target.seeds():
            try:
                outcome(self.target, data, self.folder)  # lazy imports happen here, not under watch
            except Exception as error:  # noqa: BLE001 - a seed that fails is the first finding
                print(f"seed fails: {error!r}"[:300])

    def __call__(self, data: bytes) -> None:
        self.runs += 1
        if self._watch(lambda: self._outcome(self.target, data, self.folder)) == "read":
            self.read += 1
        if self.runs % 1000 == 0:
            self.note()

    def note(self) -> None:
        """Write down how often it ran."""
        line = f"{self.target.name},{self._how},{self._date},{self.runs},{self.read}\n"
        self._ledger.write_text(line, encoding="ascii")

    def corpus(self) -> list[Path]:
        """Folders of inputs to start from, besides the seeds."""
        found = self.home / "found"
        found.mkdir(exist_ok=True)
        kept = REPOSITORY / "tests" / "fuzz" / "corpus" / self.target.name
        return [found, *([kept] if kept.is_dir() else [])]


def run_guided(name: str, runs: int, seed: int) -> None:
    """Hand the target to libFuzzer, which ends the process."""
    import atheris  # installed by tools/check.py fuzz: nothing else in the repository needs it

    with atheris.instrument_imports(include=["simkit", "yaml"]):
        import tests.fuzz.targets  # noqa: F401 - imported here to be instrumented
    one_input = Counted(name, "guided", seconds=SECONDS_INSTRUMENTED)
    target = one_input.target
    seeds, words = one_input.home / "seeds", one_input.home / "words.dict"
    seeds.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (seeds / f"seed-{number:04d}").write_bytes(data[:target.longest])
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words), encoding="ascii")
    options = [f"-runs={runs}", f"-max_len={target.longest}", "-timeout=60", "-rss_limit_mb=3000",
               f"-artifact_prefix={one_input.home}/", "-print_final_stats=1",
               *([f"-dict={words}"] if target.words else []), *([f"-seed={seed}"] if seed else [])]
    atheris.Setup([sys.argv[0], *options, *map(str, [*one_input.corpus(), seeds])], one_input, internal_libfuzzer=True)
    try:
        atheris.Fuzz()
    finally:
        one_input.note()


def run_blind(name: str, runs: int, seed: int) -> None:
    """Change seeds at random; every finding is kept and the runs go on."""
    one_input = Counted(name, "blind", seconds=2.0)
    random = Random(seed)
    base = [*one_input.target.seeds(),
            *(path.read_bytes() for folder in one_input.corpus() for path in sorted(folder.iterdir()))]
    words = [word.encode() for word in one_input.target.words] + NASTY
    told: set[str] = set()
    for _ in range(runs):
        data = mutated(random, base, words, one_input.target.longest)
        try:
            one_input(data)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            place = "".join(traceback.format_tb(error.__traceback__)[-1:]) + type(error).__name__
            if place not in told:
                told.add(place)
                digest = hashlib.sha256(data).hexdigest()[:12]
                (one_input.home / f"crash-{digest}").write_bytes(data)
                print(f"crash-{digest}: {error!r}\n{place}"[:1000], flush=True)
    one_input.note()
    print(f"{one_input.runs:,} runs, {one_input.read:,} read, {len(told)} findings")
    sys.exit(1 if told else 0)


NASTY = [b"\x00", b"\xff\xfe", b"\x1b[31m", b"nan", b"inf", b"-inf", b"1e308", b"1e-320", b"-0", b"9" * 30, b"9" * 5000, b"0x1", b"1_0",
         b"=1+1", b"@", b"<script>", b"../", b"/etc/x", b"\n", b"\r", b"\t", b",", b":", b" ", b'"', b"'", b"[", b"]", b"{", b"}", b"[" * 60,
         b"{" * 60, b"\xe2\x80\xae", b"\xc2\xb2", b"\xd9\xa3", b"true", b"null", b"..", b"*", b"+", b"-", b"#", b"%", b"&a ", b"*a", b"!!x ",
         b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\xc2\x85", b"\xe2\x80\xa8", b"1e400", b"4k", b"M"]


def mutated(random: Random, base: list[bytes], words: list[bytes], longest: int) -> bytes:
    """A seed with one to four changes: a byte, a word put in, a piece left out, doubled, or taken from another seed."""
    data = random.choice(base)
    for _ in range(random.choice((1, 1, 2, 3, 4))):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.choice((1, 1, 2, 4, 8, 16)))
        kind = random.randrange(7)
        if kind == 0:
            data = data[:at] + bytes((random.randrange(256),)) + data[at + 1:]
        elif kind == 1:
            data = data[:at] + random.choice(words) + data[at:]
        elif kind == 2:
            data = data[:at] + random.choice(words) + data[end:]
        elif kind == 3:
            data = data[:at] + data[end:]
        elif kind == 4:
            data = data[:end] + data[at:]
        elif kind == 5:
            other = random.choice(base)
            place = random.randrange(len(other) + 1)
            data = data[:at] + other[place:place + end - at + 4] + data[end:]
        else:
            data = data[:at] + str(random.choice((0, 1, -1, 7, 10**6, 10**9, 2**53, 10**18, 1.5, -2.5e-9))).encode() + data[end:]
    return data[:longest + 6000]


def _escaped(word: str) -> str:
    return "".join(char if char.isalnum() or char in " .:/,-_=" else "".join(f"\\x{byte:02x}" for byte in char.encode())
                   for char in word)


if __name__ == "__main__":
    main()
