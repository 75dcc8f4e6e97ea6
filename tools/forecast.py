"""Add dated forecasts to simkit/evidence/data/forecasts.csv; rows that stand there never change.

    python tools/forecast.py           # questions whose inputs changed since their newest row, or that have none
    python tools/forecast.py --write   # append a row of today for each of them

Chips of which nobody has published a decode step, under a model that fits their class, with the heads that it was
trained with, all heads (MHA) and one (MQA). Groq 3 has fp8 alone; the others take fp8 weights and a bf16 cache.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from simkit.evidence.accelerators.forecasts import COLUMNS, SHIPPED, answers, question_of, read_forecasts  # noqa: E402
from simkit.study.likely import LIKELY_FIELDS  # noqa: E402

TABLE: Final = REPOSITORY / "simkit" / "evidence" / "data" / SHIPPED
# Chips that each model takes, by chip: of one rack or board, and enough for MHA at the largest batch.
CHIPS: Final = {
    "rubin": (1, 8), "mi455x": (1, 8), "tpu-v7": (1, 8), "tpu-v8i": (1, 8), "trainium3": (1, 16),
    "microsoft-maia200": (1, 8), "sambanova-sn50": (8, 16), "groq-3-lpu": (64, 256)}
MODELS: Final = ("llama-3.1-8b", "llama-3.1-70b")


def questions() -> list[dict[str, Any]]:
    """What is asked: heads and batches of each chip and model at 8192 tokens."""
    return [{"chip": chip, "model": model, "attention": layout, "weight_dtype": "fp8",
             "kv_dtype": "fp8" if chip == "groq-3-lpu" else "bf16", "chips": count, "batch": batch, "kv_len": 8192}
            for chip, counts in CHIPS.items() for model, count in zip(MODELS, counts, strict=True)
            for layout, batch in product(("mha", "gqa-8", "mqa"), (1, 32))]


def new_rows() -> list[dict[str, Any]]:
    """Today's rows of questions whose newest row has another digest."""
    old = {question_of(row): row["digest"] for row in read_forecasts(TABLE)} if TABLE.exists() else {}
    made = datetime.now(UTC).date().isoformat()
    return [{"made": made, **row, **{name: "" if row[name] is None else f"{row[name]:.5g}" for name in LIKELY_FIELDS}}
            for key, row in answers(questions()).items() if old.get(key) != row["digest"]]


def main() -> int:
    """Say or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    rows = new_rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if not TABLE.exists():
        writer.writeheader()
    writer.writerows(rows)
    if parser.parse_args().write:
        with TABLE.open("a", encoding="utf-8", newline="") as table:
            table.write(text.getvalue())
    else:
        print(text.getvalue(), end="")
    print(f"{len(rows)} of {len(questions())} questions have no row of today's inputs", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
