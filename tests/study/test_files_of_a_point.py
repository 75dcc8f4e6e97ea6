"""How many files a point passes: what a reader must open to follow one number, and a program must step through."""

import sys
from pathlib import Path

import pytest

import simkit
from simkit.study.point import decode_step

PACKAGE = str(Path(simkit.__file__).parent)


def files_of(question) -> set[str]:
    """Files of the package whose functions run while a question is answered."""
    found = set()

    def profile(frame, event, _):
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(PACKAGE):
            found.add(name.removeprefix(PACKAGE))

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        question()
    finally:
        sys.setprofile(before)
    return found


@pytest.mark.parametrize("chip", ["h100-sxm", "b200-sxm", "tpu-v6e", "groq-lpu", "sambanova-sn40l"])
def test_one_point_passes_at_most_twenty_files(chip):
    hardware, model = simkit.load_hardware(chip), simkit.load_model("llama-2-70b")

    def ask(batch, kv_len):
        return decode_step(hardware, model, attention="gqa-8", batch=batch, kv_len=kv_len)

    for kv_len in (100, 4000):  # what a chip, a model and a layout are asked for once, and its assumed parameters that count
        ask(32, kv_len)
    found = files_of(lambda: ask(32, 4096))
    assert 10 <= len(found) <= 20, sorted(found)
