"""What a profile leaves out takes the range of its class; what it states, or what was fitted together, does not."""

import pytest

import simkit
from simkit.errors import UserError
from simkit.foundation.yaml_source import parse_yaml
from simkit.hardware.catalog import load_hardware
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.parameters import profile_parameters, with_parameter
from simkit.hardware.priors import assuming, class_of
from simkit.step.operators import Operator
from simkit.timing.exchanges import all_reduce_time_s
from simkit.timing.roofs import special_function_time_s
from tests.reference_data import shipped_chips

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
                          "compute.matrix.tile_rows", "compute.vector_peak", "compute.special_rate", "overheads.kernel_launch"}
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


@pytest.mark.parametrize("name", ["h100-sxm", "a100-sxm-80gb", "b200-sxm", "l40s", "mi300x", "h200-sxm", "gb200"])
def test_measured_kernels_and_full_profiles_assume_nothing(name):
    """Their kernels hold the fractions already, those of a chip that borrows them too; their links were fitted whole."""
    assert load_hardware(name).assumed == ()
    stands, ideal = values(load_hardware(name)), values(load_hardware(name, assume="ideal"))
    taken = stands.pop("compute.matrix.prompt_fraction"), ideal.pop("compute.matrix.prompt_fraction")
    assert stands == ideal
    # Of a chip without measured kernels nobody knows a prompt's attention; no decode step asks for it.
    assert taken == ((0.5931, 1.0) if name == "mi300x" else (1.0, 1.0))


def test_what_was_fitted_together_is_charged_once():
    """A layer latency that a profile states was fitted at a memory fraction of 1; SN40L's fraction was seen in whole
    steps, its links charge the collectives.
    """
    stated = {name: load_hardware(name, overrides={"overheads.layer_latency": "38 us"})
              for name in ("groq-lpu", "cerebras-wse2", "cerebras-wse3")}
    for chip in stated.values():
        assert "overheads.layer_latency" not in assumed(chip)
    assert {"memory.hbm.achievable_fraction", "overheads.layer_latency"}.isdisjoint(assumed(
        load_hardware("sambanova-sn40l")))
    tile = assumed(load_hardware("groq-lpu"))["compute.matrix.tile_rows"]
    assert (tile.fast, tile.value, tile.slow) == (1, 10, 320)


def test_no_chip_assumes_host_work_or_a_range_of_nothing():
    for chip in shipped_chips().values():
        assert "overheads.step" not in assumed(chip)
        assert all(one.fast != one.slow for one in chip.assumed)


def test_a_loaded_profile_cannot_be_told_again_what_to_assume():
    """It was ignored in silence."""
    with pytest.raises(UserError, match="a loaded one was told"):
        simkit.decode_step(load_hardware("groq-lpu"), "llama-3-8b", assume="ideal")


LINKED = SMALL + """
links:
  scale_up: {name: ring, topology: torus, bandwidth: 100 GB/s, latency: 1 us, max_chips: 16}
  scale_out: {name: net, topology: switch, bandwidth: 50 GB/s, latency: 10 us, max_chips: 64}
system: {max_chips: 64}
"""


def test_a_wire_that_a_data_sheet_gives_is_not_reached_in_full_nor_for_nothing(tmp_path):
    """Silent links were ideal: every byte at the wire's rate, collectives without a start."""
    chip, ideal = load_hardware(written(tmp_path, LINKED)), load_hardware(written(tmp_path, LINKED), assume="ideal")
    found = assumed(chip)
    assert 0.4 < chip.scale_up.achievable_fraction < 1
    assert chip.scale_up.achievable_bytes_per_s == found["links.scale_up.achievable_fraction"].central * 100e9
    assert 0 < chip.scale_up.collective_launch_s < 5e-6
    for bytes_, chips in ((1e3, 4), (1e8, 16)):
        assert all_reduce_time_s(bytes_, chips, chip.scale_up) > all_reduce_time_s(bytes_, chips, ideal.scale_up)
    assert (ideal.scale_up.achievable_fraction, ideal.scale_up.collective_launch_s) == (1.0, 0.0)
    assert not [key for key in found if key.startswith("links.scale_out")]  # no class speaks of it


def test_a_small_all_reduce_of_two_takes_the_floor_of_its_class_where_the_hop_is_the_class_own(tmp_path):
    """What was measured whole is not charged twice: two phases of hop and start are the floor."""
    text = LINKED.replace("latency: 1 us", "latency: 1.5 us")
    assert all_reduce_time_s(1.0, 2, load_hardware(written(tmp_path, text)).scale_up) == pytest.approx(6e-6, rel=1e-3)


def test_a_latency_that_was_fitted_to_whole_collectives_has_no_start_besides():
    for chip in shipped_chips().values():
        latency = chip.provenance.get("links.scale_up.latency")
        if latency is not None and "fit" in (latency.source or "") and "all-reduces" in (latency.source or ""):
            assert chip.scale_up.collective_launch_s == 0, chip.name
            assert "links.scale_up.collective_launch" not in assumed(chip), chip.name


def test_no_link_of_a_data_sheet_is_ideal():
    """A link is measured, or its share of the wire is a range."""
    for chip in shipped_chips().values():
        if chip.scale_up is not None:
            key = "links.scale_up.achievable_fraction"
            said = chip.provenance[key].note or ""
            assert key in assumed(chip) or chip.scale_up.achievable_fraction < 1 or "reach" in said, chip.name


def test_a_tier_of_dimms_or_lpddr_reaches_what_such_memory_does():
    """A tier beside the main memory was read at its peak."""
    for name, level, family in (("sambanova-sn40l", "ddr", "cpu"), ("graphcore-mk2", "ddr", "cpu"),
                                ("dmatrix-corsair", "lpddr", "gpu-unified")):
        chip = load_hardware(name)
        one = assumed(chip)[f"memory.{level}.achievable_fraction"]
        assert chip.level(level).achievable_bytes_per_s == one.value * chip.level(level).bandwidth_bytes_per_s
        assert one.slow < one.value < one.fast < 1
        assert f"class {family}," in chip.provenance[one.key].source
        assert load_hardware(name, assume="ideal").level(level).achievable_fraction == 1.0


def test_scratchpads_that_only_pass_activations_on_are_not_tiers():
    assert {key for key in assumed(load_hardware("gaudi3")) if key.startswith("memory.")} == {
        "memory.hbm.achievable_fraction"}


def test_exponentials_of_unknown_rate_take_time_that_follows_the_vector_lanes(tmp_path):
    """They took none. On a chip that states neither, the vector rate's own estimate is what they are a share of."""
    chip, ideal = load_hardware(written(tmp_path)), load_hardware(written(tmp_path), assume="ideal")
    softmax = Operator(name="softmax", count=1, exponentials=1e9)
    one = assumed(chip)["compute.special_rate"]
    assert one.slow < one.value < one.fast < chip.compute.vector_peak_flop_per_s
    assert special_function_time_s(softmax, chip) == 1e9 / one.value > 1e9 / chip.compute.vector_peak_flop_per_s
    assert special_function_time_s(softmax, ideal) == 0
    wide = load_hardware(written(tmp_path, SMALL.replace("compute: {", "compute: {vector_peak: 10 TFLOP/s, ")))
    wider = load_hardware(written(tmp_path, SMALL.replace("compute: {", "compute: {vector_peak: 20 TFLOP/s, ")))
    assert wider.compute.special_ops_per_s == pytest.approx(2 * wide.compute.special_ops_per_s)


def test_measured_kernels_hold_their_exponentials(tmp_path):
    """A chip that borrows kernels and is silent of the rate has none besides."""
    path = tmp_path / "mine.yaml"
    path.write_text("schema_version: 1\nname: mine\nextends: h100-sxm\ncompute: {special_rate: null}\n", encoding="utf-8")
    assert load_hardware(path).compute.special_ops_per_s is None


def test_the_kind_of_every_shipped_torus_is_said():
    for chip in shipped_chips().values():
        if chip.scale_up is not None and chip.scale_up.topology == "torus":
            assert chip.scale_up.wraps is not None, f"{chip.name}: closed to rings by a default"
