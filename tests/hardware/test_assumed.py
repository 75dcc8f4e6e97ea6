"""What a profile leaves out takes the range of its class; what it states, or what was fitted together, does not."""

import pytest

import simkit
from simkit.errors import UserError
from simkit.foundation.yaml_source import parse_yaml
from simkit.hardware.catalog import list_hardware, load_hardware
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.parameters import profile_parameters, with_parameter
from simkit.hardware.priors import assuming, class_of

SMALL = """
schema_version: 1
name: small
title: a small chip
vendor: nobody
kind: asic
compute: {units: 4, matrix: {peak: {bf16: 100 TFLOP/s}}}
memory: {hbm: {kind: dram, capacity: 16 GB, bandwidth: 1 TB/s}}
"""


def written(tmp_path, text=SMALL):
    path = tmp_path / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def values(chip):
    return {parameter.key: parameter.value for parameter in profile_parameters(chip)}


def assumed(chip):
    return {one.key: one for one in chip.assumed}


def test_a_silent_profile_takes_the_middle_of_its_class_and_says_so(tmp_path):
    chip = load_hardware(written(tmp_path))
    assert class_of(chip) == "systolic-hbm"
    found, stand = assumed(chip), values(chip)
    assert set(found) == {"memory.hbm.achievable_fraction", "compute.matrix.achievable_fraction",
                          "compute.matrix.tile_rows", "compute.vector_peak", "overheads.kernel_launch"}
    for key, one in found.items():
        assert stand[key] == one.value == one.central
        assert min(one.fast, one.slow) <= one.value <= max(one.fast, one.slow)
        assert chip.provenance[key].confidence == "assumed"
        assert "systolic-hbm" in chip.provenance[key].source


def test_a_default_that_a_file_writes_down_is_stated(tmp_path):
    """1.0 without a source is a statement too; a file that is silent is not one that says 1.0."""
    text = SMALL.replace("bandwidth: 1 TB/s", "bandwidth: 1 TB/s, achievable_fraction: 1.0")
    chip = load_hardware(written(tmp_path, text + "overheads: {kernel_launch: 0 s}\n"))
    assert values(chip)["memory.hbm.achievable_fraction"] == 1.0
    assert {"memory.hbm.achievable_fraction", "overheads.kernel_launch"}.isdisjoint(assumed(chip))


def test_a_parameter_called_unknown_is_assumed(tmp_path):
    chip = load_hardware(written(tmp_path, SMALL.replace("compute: {", "compute: {vector_peak: null, ")))
    assert "compute.vector_peak" in assumed(chip)


def test_the_command_line_states_and_moves_nothing_else(tmp_path):
    path = written(tmp_path)
    silent, said = load_hardware(path), load_hardware(path, overrides={"memory.hbm.achievable_fraction": "0.5"})
    assert set(assumed(silent)) - set(assumed(said)) == {"memory.hbm.achievable_fraction"}
    changed = {key for key, value in values(said).items() if values(silent)[key] != value}
    assert changed == {"memory.hbm.achievable_fraction"}


def test_a_what_if_states_what_it_varies():
    chip = with_parameter(load_hardware("gaudi3"), "overheads.kernel_launch", 3e-6)
    assert "overheads.kernel_launch" not in assumed(chip)


def test_ideal_keeps_what_the_schema_has_and_still_lists_it(tmp_path):
    path = written(tmp_path)
    raw = profile_from_yaml(parse_yaml(SMALL, file=str(path)))
    with assuming("ideal"):
        inside = load_hardware(path)
    for chip in (inside, load_hardware(path, assume="ideal")):
        assert values(chip) == values(raw)
        assert chip.assumption == "ideal"
    assert load_hardware(path).assumption != "ideal"


def test_another_word_for_what_to_assume_is_refused():
    with pytest.raises(UserError, match="priors or ideal"):
        load_hardware("gaudi3", assume="best")


@pytest.mark.parametrize("name", ["h100-sxm", "a100-sxm-80gb", "b200-sxm", "l40s", "mi300x", "h200-sxm", "rtx-4090"])
def test_measured_kernels_and_full_profiles_assume_nothing(name):
    """Their kernels hold the fractions already, those of a chip that borrows them too."""
    assert load_hardware(name).assumed == ()
    assert values(load_hardware(name)) == values(load_hardware(name, assume="ideal"))


def test_what_was_fitted_together_is_charged_once():
    """Groq's and Cerebras' layer latency was fitted at a memory fraction of 1; SN40L's fraction was seen in whole
    steps, its links charge the collectives.
    """
    for name in ("groq-lpu", "cerebras-wse2", "cerebras-wse3"):
        found = assumed(load_hardware(name))
        assert {"memory.sram.achievable_fraction", "overheads.layer_latency"}.isdisjoint(found)
    assert {"memory.hbm.achievable_fraction", "overheads.layer_latency"}.isdisjoint(assumed(
        load_hardware("sambanova-sn40l")))
    tile = assumed(load_hardware("groq-lpu"))["compute.matrix.tile_rows"]
    assert (tile.fast, tile.value, tile.slow) == (1, 1, 320)


def test_no_chip_assumes_host_work_or_a_range_of_nothing():
    for chip in list_hardware():
        assert "overheads.step" not in assumed(chip)
        assert all(one.fast != one.slow for one in chip.assumed)


def test_a_loaded_profile_cannot_be_told_again_what_to_assume():
    """It was ignored in silence."""
    with pytest.raises(UserError, match="a loaded one was told"):
        simkit.decode_step(load_hardware("groq-lpu"), "llama-3-8b", assume="ideal")
