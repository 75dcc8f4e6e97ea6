"""The physics checks: each shipped truth passes, each slip that people make is found at its line."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from simkit.foundation.errors import UserError
from simkit.foundation.named_files import catalogue_files
from simkit.foundation.units import format_quantity
from simkit.foundation.yaml_source import YamlSource, load_yaml, parse_yaml
from simkit.hardware.catalog import KIND, load_hardware
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.inherit import load_profile_source
from simkit.hardware.lint import Finding, lint
from simkit.hardware.lint.check import RULES
from simkit.hardware.lint.dram import memory_is_read_in_its_family_s_time
from simkit.hardware.lint.links import wire_bytes_per_s
from simkit.hardware.lint.memory import banks_carry_the_bandwidth, ridge_point_is_of_its_kind
from simkit.hardware.parameters import profile_parameters
from tests.reference_data import shipped_chips

FILES = catalogue_files(KIND)
SLIPPED = sorted((Path(__file__).parents[1] / "bad_profiles").glob("lint_*.yaml"))


@pytest.fixture(scope="module")
def catalogue():
    return tuple(shipped_chips().values())


def _findings(source: YamlSource, catalogue) -> list[Finding]:
    return lint(profile_from_yaml(source), source, catalogue)


def _errors_at(source: YamlSource, catalogue) -> set[str]:
    return {str(finding.where.key) for finding in _findings(source, catalogue) if finding.severity == "error"}


# Profile, the text that stands there, the slip, and where an error must be reported.
SLIPS = [
    ("h100-sxm", "bandwidth: {value: 3.352 TB/s", "bandwidth: {value: 3.352 GB/s", "memory.hbm.bandwidth"),
    ("h100-sxm", "bandwidth: {value: 3.352 TB/s", "bandwidth: {value: 26.8 TB/s", "memory.hbm.bandwidth"),  # in bits
    ("h100-sxm", "capacity: {value: 80 GiB", "capacity: {value: 640 GiB", "memory.hbm.capacity"),  # a whole board
    ("h100-sxm", "capacity: {value: 50 MiB", "capacity: {value: 50 KiB", "memory.l2.capacity"),
    ("h100-sxm", "capacity: {value: 50 MiB", "capacity: {value: 500 GiB", "memory.hbm.capacity"),
    ("h100-sxm", "latency: {value: 345 ns", "latency: {value: 345 us", "memory.hbm.latency"),
    ("h100-sxm", "latency: {value: 345 ns", "latency: {value: 34.5 ns", "memory.hbm.latency"),
    ("h100-sxm", "data_rate: {value: 5.238 GHz", "data_rate: {value: 52.38 GHz", "memory.hbm.dram.data_rate"),
    ("h100-sxm", "bf16: {value: 989.4 TFLOP/s", "bf16: {value: 989.4 GFLOP/s", "compute.matrix.peak.bf16"),
    ("h100-sxm", "bandwidth: {value: 234 GB/s", "bandwidth: {value: 30.9 TB/s", "memory.smem.bandwidth"),  # 132 SM
    ("h100-sxm", "bandwidth: {value: 315 GB/s", "bandwidth: {value: 315 TB/s", "links.scale_up.bandwidth"),
    ("h100-sxm", "energy: {value: 18.0 pJ/bit", "energy: {value: 18.0 nJ/bit", "memory.hbm.energy"),
    ("l40s", "bandwidth: {value: 864 GB/s", "bandwidth: {value: 864 TB/s", "memory.gddr.bandwidth"),
    ("mi300x", "bandwidth: {value: 5.3 TB/s", "bandwidth: {value: 5.3 GB/s", "memory.hbm.bandwidth"),
    ("mi300x", "vector_peak: {value: 163.4 TFLOP/s", "vector_peak: {value: 163.4 PFLOP/s", "compute.vector_peak"),
    ("tpu-v5e", "bandwidth: {value: 819 GB/s", "bandwidth: {value: 819 MB/s", "memory.hbm.bandwidth"),
    ("groq-lpu", "bandwidth: {value: 80 TB/s", "bandwidth: {value: 80 GB/s", "memory.sram.bandwidth"),
    ("cerebras-wse3", "bandwidth: {value: 21 PB/s", "bandwidth: {value: 21 TB/s", "memory.sram.bandwidth"),
    ("sambanova-sn40l", "bandwidth: {value: 1.6 TB/s", "bandwidth: {value: 1.6 GB/s", "memory.hbm.bandwidth"),
    ("dmatrix-corsair", '  max_chips: {value: 512, source: register, confidence: estimate, note: "eight racks;',
     '  max_chips: {value: 51200, source: register, confidence: estimate, note: "eight racks;', "system.max_chips"),
]


@pytest.mark.parametrize(("name", "true", "slip", "key"), SLIPS, ids=[f"{name}-{slip}" for name, _, slip, _ in SLIPS])
def test_a_slip_in_a_shipped_profile_is_an_error_at_its_key(name, true, slip, key, catalogue):
    text = FILES[name].read_text(encoding="utf-8")
    assert text.count(true) == 1
    source = parse_yaml(text.replace(true, slip), file=f"{name}.yaml")
    assert key in _errors_at(source, catalogue)


# Profile, a parameter and a slip in it, how grave the remark is, where it stands and what it says: every rule once.
REMARKS = [
    ("h100-sxm", "memory.hbm.bandwidth", "33.5 TB/s", "error", "memory.hbm.bandwidth", "pins at 5.238 Gb/s carry"),
    ("h100-sxm", "memory.hbm.dram.data_rate", "5.238 MHz", "error", "memory.hbm.dram.data_rate", "not a speed of HBM3"),
    ("h100-sxm", "memory.hbm.dram.bus_width_bits", "4096", "error", "memory.hbm.dram.bus_width_bits", "a stack of HBM3"),
    ("h100-sxm", "memory.hbm.dram.channels", "16", "error", "memory.hbm.dram.channels", "channels of HBM3 have 32 or 64"),
    ("h100-sxm", "memory.hbm.dram.stacks", "50", "error", "memory.hbm.bandwidth", "does not fit 50 stacks"),
    ("h100-sxm", "memory.hbm.capacity", "640 GiB", "error", "memory.hbm.capacity", "in each of 5 stacks"),
    ("l40s", "memory.gddr.dram.access_granularity_bytes", "320", "error",
     "memory.gddr.dram.access_granularity_bytes", "no DRAM moves bursts of 320 bytes"),
    ("l40s", "memory.gddr.capacity", "480 GiB", "error", "memory.gddr.capacity", "expected 15 ms to 100 ms of GDDR"),
    ("mi300x", "memory.l2.bandwidth", "100 TB/s", "error", "memory.l2.bandwidth", "more than the nearer 'smem'"),
    ("h100-sxm", "memory.smem.bandwidth", "30.9 TB/s", "error", "memory.smem.bandwidth", "bytes a clock for each SM"),
    ("h100-sxm", "memory.smem.banks.count", "320", "error", "memory.smem.banks.count", "320 banks of 4 bytes carry"),
    ("groq-lpu", "memory.sram.capacity", "230 GB", "warning", "memory.sram.capacity", "expected 400 ns to 1 ms"),
    ("h100-sxm", "memory.l2.capacity", "500 MiB", "warning", "memory.l2.capacity", "3.97 MB for each SM"),
    ("mi300x", "memory.hbm.latency", "4.27 us", "error", "memory.hbm.latency", "expected 150 ns to 900 ns"),
    ("h100-sxm", "memory.smem.latency", "1.62 ns", "warning", "memory.smem.latency", "2.96 cycles"),
    ("h100-sxm", "memory.hbm.latency", "34.5 us", "error", "memory.hbm.latency", "more than the units' private memory"),
    ("h100-sxm", "compute.outstanding_bytes", "1 KiB", "warning", "compute.outstanding_bytes", "reach only"),
    ("sambanova-sn40l", "memory.hbm.bandwidth", "1.6 GB/s", "error", "memory.hbm.bandwidth", "the ridge point would be"),
    ("h100-sxm", "memory.hbm.achievable_fraction", "1.0", "warning", "memory.hbm", "no achievable_fraction"),
    ("h100-sxm", "memory.hbm.achievable_fraction", "0.0949", "warning", "memory.hbm.achievable_fraction", "of the peak"),
    ("h100-sxm", "memory.hbm.reserve_fraction", "0.008", "warning", "memory.hbm.reserve_fraction", "runtimes keep"),
    ("a100-sxm-80gb", "compute.clock", "14.1 GHz", "error", "compute.clock", "lie between 1 GHz and 3.3 GHz"),
    ("h100-sxm", "compute.matrix.peak.bf16", "989 GFLOP/s", "error", "compute.matrix.peak.bf16", "flops a clock in each"),
    ("tpu-v5p", "compute.units", "20", "warning", "compute.vector_peak", "near no power of two"),
    ("tpu-v4", "compute.vector_peak", "430 GFLOP/s", "error", "compute.vector_peak", "640 times the vector rate"),
    ("h100-sxm", "compute.matrix.peak.tf32", "989 TFLOP/s", "warning", "compute.matrix.peak.tf32", "1 times the 16-bit"),
    ("h100-sxm", "compute.matrix.peak.fp8", "3958 TFLOP/s", "warning", "compute.matrix.peak.fp8", "a sparse parameter"),
    ("b200-sxm", "compute.matrix.peak.fp4", "18000 TFLOP/s", "warning", "compute.matrix.peak.fp4", "a sparse parameter"),
    ("h100-sxm", "compute.special_rate", "387 Gop/s", "warning", "compute.special_rate", "1.6 results a clock"),
    ("h100-sxm", "compute.special_rate", "387 Top/s", "error", "compute.special_rate", "more exponentials"),
    ("h100-sxm", "compute.matrix.achievable_fraction", "0.08", "warning", "compute.matrix.achievable_fraction", "0.08"),
    ("h100-sxm", "compute.matrix.tile_rows", "160", "warning", "compute.matrix.tile_rows", "no power of two"),
    ("h100-sxm", "compute.matrix.tile_rows", "1024", "error", "compute.matrix.tile_rows", "no matrix unit"),
    ("h100-sxm", "links.scale_up.bandwidth", "315 TB/s", "error", "links.scale_up.bandwidth", "more than main memory"),
    ("mi300x", "links.scale_up.bandwidth", "31 GB/s", "warning", "links.scale_up.bandwidth", "times less than main memory"),
    ("mi250x", "links.scale_up.achievable_fraction", "0.1", "warning", "links.scale_up.achievable_fraction", "0.3 and more"),
    ("tpu-v4", "links.scale_up.collective_launch", "1.5 ms", "error", "links.scale_up.collective_launch", "30 µs at most"),
    ("h100-pcie", "links.scale_up.bandwidth", "630 GB/s", "error", "links.scale_up.bandwidth", "'PCIe 5.0 x16' carries 63"),
    ("mi300x", "links.scale_out.bandwidth", "500 MB/s", "error", "links.scale_out.bandwidth", "of the nearer link"),
    ("gb200", "links.scale_up.latency", "46 us", "warning", "links.scale_up.latency", "for a small message"),
    ("h100-sxm", "links.scale_up.max_chips", "2048", "error", "links.scale_up.max_chips", "the farther network joins"),
    ("l40s", "links.scale_up.max_chips", "80", "warning", "links.scale_up.max_chips", "the largest system has 8"),
    ("l40s", "system.max_chips", "80", "error", "system.max_chips", "the links reach only 8"),
    ("apple-m4-max", "system.max_chips", "8", "warning", "system.max_chips", "no link joins them"),
    ("l40s", "links.scale_up.direct_chips", "16", "error", "links.scale_up.direct_chips", "16 of 8 chips"),
    ("l40s", "links.scale_up.shared_bandwidth", "180 GB/s", "warning", "links.scale_up.shared_bandwidth", "shared by 8"),
    ("tpu-v5e", "links.scale_up.shape", "[4, 8]", "error", "links.scale_up.shape", "4x8 are 32 chips, but the link joins 256"),
    ("tpu-v4", "links.scale_up.shape", "[16, 16, 32]", "warning", "links.scale_up.max_chips", "a torus of 16x16x32 has 8192"),
    ("tpu-v4", "links.scale_up.shape", "[2, 32, 64]", "error", "links.scale_up.shape", "2x32x64 is not made of blocks of 4"),
    ("tpu-v5e", "links.scale_up.shape", "[1, 256]", "warning", "links.scale_up.shape", "expected sides of two"),
    ("h100-sxm", "links.scale_up.shape", "[2, 4]", "error", "links.scale_up.shape", "only a torus or a mesh has a shape"),
    ("tenstorrent-wormhole-n300", "links.scale_up.wraps", "always", "error", "links.scale_up.wraps", "only a torus closes"),
    ("cerebras-wse3", "fabric.link.bytes_per_cycle", "4000", "warning", "fabric.link.bytes_per_cycle", "have 1.3 to 3000"),
    ("cerebras-wse2", "fabric.region", "[800, 800]", "error", "fabric.region", "800x800 of 750x994 tiles"),
    ("tenstorrent-wormhole-n300", "fabric.in_flight", "2", "error", "fabric.in_flight", "2 groups of sequences on 1 regions"),
    ("tenstorrent-wormhole-n300", "fabric.head_tiles", "160", "error", "fabric.head_tiles", "but the chip has 128"),
    ("cerebras-wse2", "fabric.tile.port_bytes_per_cycle", "240", "error", "fabric.tile.port_bytes_per_cycle", "take 197 PB/s"),
    ("tpu-v5e", "fabric.tile.stationary", "[12, 12]", "warning", "fabric.tile.stationary", "a row a cycle makes"),
    ("b200-sxm", "memory.hbm.energy", "1.1 pJ/bit", "error", "memory.hbm.energy", "expected 6 to 35 pJ/bit"),
    ("b200-sxm", "memory.smem.energy", "1.52 pJ/bit", "error", "memory.l2.energy", "less than a nearer level takes"),
    ("h100-sxm", "memory.hbm.energy", "30 pJ/bit", "warning", "memory.hbm.energy", "over the chip's power"),
    ("tpu-v7", "power.tdp", "100 W", "error", "power.tdp", "0.0433 pJ a flop"),
    ("h100-sxm", "power.flop_energy", "0.052 pJ/FLOP", "warning", "power.flop_energy", "only 0.073 of the chip's power"),
    ("h100-sxm", "power.flop_energy", "5.2 pJ/FLOP", "warning", "power.flop_energy", "more than the chip's power"),
    ("h100-sxm", "power.idle", "12.2 W", "error", "power.idle", "expected 0.05 to 0.6"),
    ("h100-sxm", "overheads.kernel_launch", "12.6 us", "warning", "overheads.kernel_launch", "expected 500 ns to 8"),
    ("groq-lpu", "overheads.layer_latency", "380 us", "warning", "overheads.layer_latency", "expected 5"),
    ("h100-sxm", "price.per_hour", "19 USD/h", "warning", "price.per_hour", "a dense 16-bit TFLOP/s"),
    ("h100-sxm", "price.purchase", "306780 USD", "warning", "price.purchase", "a dense 16-bit TFLOP/s"),
]


@pytest.mark.parametrize(("name", "parameter", "slip", "severity", "key", "words"), REMARKS,
                         ids=[f"{name}-{parameter}={slip}" for name, parameter, slip, *_ in REMARKS])
def test_a_rule_says_what_is_wrong_and_where(name, parameter, slip, severity, key, words, catalogue):
    source = load_yaml(FILES[name])
    before = {(finding.severity, str(finding.where.key), finding.message) for finding in _findings(source, catalogue)}
    slipped = lint(profile_from_yaml(source, {parameter: slip}), source, catalogue)
    after = {(finding.severity, str(finding.where.key), finding.message) for finding in slipped}
    assert any(one == severity and where == key and words in said for one, where, said in after - before), after - before


@pytest.mark.parametrize("topology", ["switch", "ring", "all-to-all"])
@pytest.mark.parametrize("words", [{"shape": "[2, 2]"}, {"shape": "[16, 16]"}, {"shape": "[1, 6]", "wraps": "blocks-of-4"}], ids=str)
def test_a_shape_that_has_to_go_is_told_once(topology, words, catalogue):
    """Nobody mends the sides of a switch."""
    source = load_yaml(FILES["h100-sxm"])
    given = {f"links.scale_up.{key}": value for key, value in {"topology": topology, **words}.items()}
    (found,) = [one for one in lint(profile_from_yaml(source, given), source, catalogue)
                if one.severity == "error" or str(one.where.key).endswith(("shape", "wraps"))]
    assert found.message.endswith(f"on a {topology}: only a torus or a mesh has a shape")
    assert all(word.strip("[]").replace(", ", "x") in found.message for word in words.values())


def test_banks_belong_to_an_sram():
    profile = profile_from_yaml(load_yaml(FILES["h100-sxm"]))
    smem = next(level for level in profile.memory if level.banks)
    odd = replace(profile, memory=tuple(replace(level, banks=smem.banks) for level in profile.memory))
    assert {key[1] for _, key, said in banks_carry_the_bandwidth(odd) if "has no banks" in said} == {"l2", "hbm"}


def test_every_rule_has_a_slip_that_it_finds(catalogue):
    silent = {rule.__name__ for rule in RULES}
    for name, parameter, slip, *_ in REMARKS:
        profile = profile_from_yaml(load_yaml(FILES[name]), {parameter: slip})
        silent -= {rule.__name__ for rule in RULES if list(rule(profile))}
    assert not silent


@pytest.mark.parametrize(("factor", "least_share"), [(10.0, 0.83), (0.1, 0.83), (1000.0, 0.94), (0.001, 0.94)])
def test_a_slip_in_any_one_figure_is_mostly_found(factor, least_share, catalogue):
    """Every parameter of every fifth profile in turn: a decimal point, or a unit (TB for GB), or a range of the schema.

    What stays unseen is tied to nothing: capacities of SRAM without a bandwidth, units of chips without a clock.
    """
    found = Counter()
    for name in sorted(FILES)[::5]:
        source = load_profile_source(FILES[name]).whole
        profile = profile_from_yaml(source)
        before = {(finding.severity, finding.message) for finding in lint(profile, source, catalogue)}
        for parameter in profile_parameters(profile):
            stated = parameter.key in profile.provenance and not parameter.key.startswith("kernel")
            # Nothing times a factor is no slip.
            if not stated or parameter.dimension is None or not isinstance(parameter.value, int | float) or not parameter.value:
                continue
            whole = isinstance(parameter.value, int)
            slip = str(round(parameter.value * factor)) if whole else format_quantity(
                parameter.value * factor, parameter.dimension, digits=12)
            try:
                after = lint(profile_from_yaml(source, {parameter.key: slip}), source, catalogue)
            except UserError:
                found[True] += 1
                continue
            found[bool({(finding.severity, finding.message) for finding in after} - before)] += 1
    assert found.total() > 200
    assert found[True] / found.total() >= least_share, found


@pytest.mark.parametrize(("name", "gigabytes_per_s"), [
    ("PCIe 4.0 x16", 31.5), ("PCIe 5.0 x8", 31.5), ("NVLink 4 through NVSwitch", 450), ("InfiniBand NDR", 50),
    ("24 x 200 GbE RoCE", 600), ("400 Gb/s, one NIC per GPU", 50), ("on-die Ethernet", None)])
def test_the_name_of_a_link_says_what_its_wires_carry(name, gigabytes_per_s):
    """PCI-SIG, NVIDIA and IBTA data rates of one direction, after line coding."""
    expected = None if gigabytes_per_s is None else pytest.approx(gigabytes_per_s * 1e9, rel=2e-3)
    assert wire_bytes_per_s(name) == expected


def test_a_finding_points_to_the_line_of_the_figure(catalogue):
    text = FILES["h100-sxm"].read_text(encoding="utf-8").replace("value: 3.352 TB/s", "value: 3.352 GB/s")
    line = next(number for number, row in enumerate(text.splitlines(), 1) if "3.352 GB/s" in row)
    findings = _findings(parse_yaml(text, file="mine.yaml"), catalogue)
    assert any(str(finding).startswith(f"mine.yaml:{line}:5: memory.hbm.bandwidth: error: ") for finding in findings)


@pytest.mark.parametrize("path", SLIPPED, ids=lambda path: path.stem)
def test_each_slipped_example_is_found_as_its_first_line_says(path, catalogue):
    """First line of the file: ``# expect <severity> <key>: <part of the message>``."""
    words = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# expect ").split(" ", 2)
    severity, key, message = words[0], words[1].removesuffix(":"), words[2]
    found = [(finding.severity, finding.where.key, finding.message) for finding in _findings(load_yaml(path), catalogue)]
    assert any(one == severity and where == key and message in text for one, where, text in found), found


def test_there_are_slipped_examples():
    assert len(SLIPPED) >= 5


def test_a_profile_without_sources_is_told_so_for_every_figure(catalogue):
    source = parse_yaml("""
schema_version: 1
name: mine
title: Mine
vendor: me
kind: asic
compute: {units: 64, clock: 1 GHz, matrix: {peak: {bf16: 100 TFLOP/s}}}
memory: {sram: {kind: sram, capacity: 1 GB, bandwidth: 20 TB/s}}
""", file="mine.yaml")
    keys = {finding.where.key for finding in _findings(source, catalogue) if "no source" in finding.message}
    assert keys == {"compute.units", "compute.clock", "compute.matrix.peak.bf16", "memory.sram.capacity",
                    "memory.sram.bandwidth"}


def test_a_figure_that_no_source_gives_is_not_a_finding(catalogue):
    source = load_yaml(FILES["b200-sxm"])
    assert profile_from_yaml(source).missing == ("memory.l2.bandwidth",)
    assert all(finding.where.key != "memory.l2.bandwidth" for finding in _findings(source, catalogue))


def test_an_unknown_short_source_name_is_found(catalogue):
    text = FILES["l40s"].read_text(encoding="utf-8").replace("source: rrze-stream", "source: rrze-streem")
    messages = {finding.message for finding in _findings(parse_yaml(text, file="l40s.yaml"), catalogue)}
    assert "'rrze-streem' is neither in the sources table nor a citation" in messages
    assert "no parameter uses this source" in messages


def test_units_at_the_banks_read_faster_than_pins_and_do_little_with_each_byte():
    """The same memory without ``scope: unit`` would be read far too fast for its family and its arithmetic."""
    chip = load_hardware("gddr6-aim", assume="ideal")
    whole = replace(chip, memory=tuple(
        replace(level, scope="chip", capacity_bytes=level.chip_capacity_bytes,
                bandwidth_bytes_per_s=level.chip_bandwidth_bytes_per_s) for level in chip.memory))
    for profile, expected in ((chip, []), (whole, ["ridge_point_is_of_its_kind", "memory_is_read_in_its_family_s_time"])):
        found = [rule.__name__ for rule in (ridge_point_is_of_its_kind, memory_is_read_in_its_family_s_time)
                 if list(rule(profile))]
        assert found == expected
