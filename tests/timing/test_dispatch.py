"""Rows that go to their experts and back: limits, bounds, skew, and measured kernels."""

from dataclasses import replace

import numpy as np
import pytest

from simkit.evidence.silicon.compare import compare, predicted_times_s
from simkit.evidence.silicon.tables import shipped_table
from simkit.hardware.catalog import load_hardware
from simkit.step.build import build_step
from simkit.step.collectives import collectives_of
from simkit.step.expert_load import parse_expert_load
from simkit.step.operators import Collective
from simkit.timing.exchanges import all_to_all_time_s, collective_time_s, expert_times_s
from tests.evidence import compared
from tests.reference_data import reference_path
from tests.step.test_experts import mixture

NVLINK = load_hardware("h100-sxm").scale_up


def exchange(copies_bytes: float, merged_bytes: float, chips: float = 8.0, kind: str = "dispatch") -> Collective:
    return Collective(name=kind, kind=kind, count=1, bytes=copies_bytes, merged_bytes=merged_bytes, chips=chips)


def test_few_rows_take_the_kernels_floor_and_many_rows_go_once_to_a_chip():
    few, many = expert_times_s(exchange(1e3, 1e3), NVLINK)
    assert collective_time_s(exchange(1e3, 1e3), NVLINK) == few < many
    assert few == pytest.approx(NVLINK.dispatch_launch_s + NVLINK.latency_s, rel=1e-2)
    few, many = expert_times_s(exchange(8e9, 1e9), NVLINK)
    assert collective_time_s(exchange(8e9, 1e9), NVLINK) == many < few


@pytest.mark.parametrize("kind", ["dispatch", "combine"])
def test_an_exchange_of_experts_is_never_faster_than_its_bytes_on_the_link(kind):
    for size in (1e3, 1e6, 1e9):
        one = exchange(size, size / 2, kind=kind)
        assert collective_time_s(one, NVLINK) > all_to_all_time_s(size / 2, 8.0, NVLINK)
        assert collective_time_s(replace(one, chips=1.0), NVLINK) == 0.0
        assert collective_time_s(replace(one, bytes=2 * size, merged_bytes=size), NVLINK) > collective_time_s(one, NVLINK)


def test_more_units_copy_faster_until_the_link_binds():
    times = [float(expert_times_s(replace(exchange(1e12, 1e9), copy_units=units), NVLINK)[1]) for units in (4, 8, 20, 200)]
    assert times[0] / times[1] == pytest.approx(2.0, rel=0.02)
    assert times == sorted(times, reverse=True)
    assert times[-1] > all_to_all_time_s(1e9, 8.0, NVLINK)


def test_skewed_loads_lengthen_the_exchange_as_they_lengthen_the_experts():
    def found(load: str) -> tuple[float, float, float]:
        workload = replace(mixture(tp=8.0, ep=8, batch=512.0, sharding="data"), expert_load=parse_expert_load(load))
        sent = next(one for one in collectives_of(workload) if one.kind == "dispatch")
        work = next(one for one in build_step(workload).operators if one.name == "experts_up")
        return float(sent.bytes), float(sent.merged_bytes), float(work.matrix_flops)

    even, skewed = found("uniform"), found("zipf:1")
    assert skewed[0] / even[0] == pytest.approx(skewed[2] / even[2], rel=1e-9)
    # A row goes to a chip once, so that copies saturate at all rows.
    assert 1 < skewed[1] / even[1] < skewed[0] / even[0]
    assert found("zipf:10")[1] <= 512 * 4096 * 2


def test_class_ranges_stand_in_for_links_whose_dispatch_nobody_measured():
    for chip in ("tpu-v6e", "trainium2", "gaudi3"):
        assumed = {one.key: one for one in load_hardware(chip).assumed}
        launch = assumed["links.scale_up.dispatch_launch"]
        assert launch.fast < launch.central < launch.slow
    assert load_hardware("h100-sxm").assumed == load_hardware("l40s").assumed == ()


def test_measured_dispatches_and_combines_are_met_at_the_median():
    records = compared.kernels("expert_dispatch")
    for system in ("h100_sxm", "b200_sxm"):
        for regime in ("all", "held_out"):
            assert records[system, regime]["median_ape"] < 0.12
        assert abs(records[system, "held_out"]["bias"]) < 0.05


@pytest.mark.parametrize(("table", "bounds"), [
    ("prefill_attention", {"a100_sxm": 0.05, "h100_sxm": 0.135, "b200_sxm": 0.125, "l40s": 0.235}),
    ("prefill_gemm", {"a100_sxm": 0.07, "h100_sxm": 0.12, "b200_sxm": 0.12, "l40s": 0.14})])
def test_measured_kernels_of_prompts_are_met_at_the_median(table, bounds):
    records = {(one["system"], one["regime"]): one for one in compare(reference_path(f"{table}.csv.gz"), sample=1200)}
    for system, bound in bounds.items():
        assert records[system, "held_out"]["median_ape"] < bound
    held_out = [records[system, "held_out"] for system in bounds]
    assert np.average([one["median_ape"] for one in held_out], weights=[one["rows"] for one in held_out]) < 0.15


@pytest.mark.parametrize("name", ["expert_dispatch", "prefill_attention", "prefill_gemm"])
def test_the_shipped_rows_of_these_tables_are_met_like_the_whole_ones(name):
    rows = shipped_table(f"silicon_{name}.csv")
    errors = np.concatenate([predicted_times_s(own, load_hardware(system)) / own.time_s - 1
                             for system in rows.systems for own in [rows.of_system(system)]])
    assert np.median(np.abs(errors)) < 0.15
