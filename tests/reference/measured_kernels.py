"""The closed forms of measured kernels, one problem and one mapping at a time, as their equations stand in model.md.

Slow and plain on purpose: no arrays, no search that is cut short. Figures are read from the same profiles.
"""

import math
from dataclasses import dataclass, replace

SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One attention kernel: shapes, bytes of a token and KV head, share of its reads that a warm cache serves."""

    sequences: int
    kv_heads: int
    query_rows: int
    tokens: int
    key_dim: int
    value_dim: int
    latent: bool
    cached_elements: int
    token_bytes: float
    hit_share: float = 0.0
    kernel: str = "grouped"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One mapping: its time, launch floor apart and included, what its busiest unit spends on tiles of arithmetic or
    on loading the tokens that there are, and its memory's time.
    """

    body_s: float
    floor_s: float
    tokens_s: float
    computing: bool
    memory_s: float


def ways(problem, chip, bandwidth, *, alone):
    """Every mapping that the kernel could take."""
    kernel = chip.kernel.for_latents() if problem.latent else chip.kernel
    if problem.kernel in ("grouped-unsplit", "unfused"):
        kernel = replace(kernel, most_sequence_units=1)
    free = problem.kernel != "per-query-head"
    shared = not free or kernel.matrix_least_group <= problem.query_rows <= kernel.matrix_most_group
    if shared:
        sizes = {problem.query_rows if free else 1}
        if free:
            for limit in (64, 32, 16, 8):
                if problem.query_rows > limit:
                    sizes.add(max(n for n in range(1, limit + 1) if problem.query_rows % n == 0))
        for rows in sizes:
            if rows <= kernel.most_item_rows:
                yield from _matrix_ways(problem, chip, kernel, bandwidth, rows, alone)
    # A group for which a library has no kernel runs one query head an item; latents do so for no other reason.
    if not shared or (not problem.latent and (problem.query_rows <= kernel.vector_most_group or not free)):
        yield from _vector_ways(problem, chip, kernel, bandwidth, alone)


def _memory(problem, chip, kernel, bandwidth):
    """Seconds of DRAM, of the shared cache by one reader, and the ramp."""
    hz, units = chip.compute.clock_hz, chip.compute.units
    moved = problem.sequences * problem.kv_heads * problem.tokens * problem.token_bytes
    missed = 1 - problem.hit_share
    # K and V of a page lie apart: a run is half of a page's bytes.
    run_bytes = kernel.page_tokens * problem.token_bytes / 2
    dram_s = moved * missed / (kernel.dram_achieved_fraction * bandwidth) * (1 + kernel.dram_run_overhead_bytes / run_bytes)
    cache_s = moved / (kernel.cache_bytes_per_cycle_per_unit * units * hz * _widened(kernel, bandwidth))
    return dram_s, cache_s, kernel.dram_ramp_ratio * (chip.main_memory.latency_s or 0) * missed


def _widened(kernel, bandwidth):
    return max(bandwidth / kernel.tuned_for_bytes_per_s, 1)


def _matrix_ways(problem, chip, kernel, bandwidth, rows, alone):
    compute, widened = chip.compute, _widened(kernel, bandwidth)
    hz, units = compute.clock_hz, compute.units
    width = problem.cached_elements
    eight = problem.token_bytes < 1.5 * width
    has_native = eight and problem.query_rows > 1 and kernel.native_8bit_rows > 0
    native = has_native and rows <= kernel.native_8bit_rows
    padded = 16 * math.ceil(rows / 16)
    unit_flop_per_cycle = compute.matrix_peak_flop_per_s[compute.matrix_dtype("bf16")] / hz / units
    matrix = 2 * padded * (problem.key_dim + problem.value_dim) / (unit_flop_per_cycle * kernel.matrix_efficiency)
    if eight and not native:
        matrix += (width + kernel.dequantise_token_elements) / kernel.dequantise_elements_per_cycle
    exponentials = padded / (compute.special_ops_per_s / hz / units) if compute.special_ops_per_s else 0
    setup = kernel.item_setup_cycles
    if problem.key_dim <= 64:
        setup *= kernel.narrow_head_setup_ratio
    if native:
        setup *= kernel.setup_ratio_native_8bit
    elif eight:
        setup *= kernel.setup_ratio_8bit
    floor = kernel.launch_cycles
    if problem.key_dim <= 64:
        floor *= kernel.narrow_head_launch_ratio
    if eight:
        floor *= kernel.launch_ratio_8bit
    if has_native and problem.query_rows <= 16:
        floor *= kernel.launch_ratio_native_8bit
    dram_s, cache_s, ramp_s = _memory(problem, chip, kernel, bandwidth)
    readers = problem.query_rows / rows
    row_elements = problem.sequences * problem.kv_heads * problem.query_rows * problem.value_dim
    yield from _cut(
        problem, kernel, hz, units, items=problem.sequences * problem.kv_heads * readers, setup=setup,
        load=problem.token_bytes / (kernel.load_bytes_per_cycle_per_unit * widened), compute=max(matrix, exponentials),
        tile=kernel.tile_tokens, memory_s=max(dram_s, cache_s * readers),
        extra_s=ramp_s + kernel.row_cycles * row_elements / 128 / units / hz, floor_s=floor / hz, alone=alone)


def _vector_ways(problem, chip, kernel, bandwidth, alone):
    hz, units = chip.compute.clock_hz, chip.compute.units
    width = problem.cached_elements
    eight = problem.token_bytes < 1.5 * width
    rate = kernel.vector_elements_per_cycle_8bit if eight else kernel.vector_elements_per_cycle
    floor = kernel.launch_cycles * kernel.vector_launch_ratio
    if problem.key_dim <= 64:
        floor *= kernel.narrow_head_launch_ratio
    if eight:
        floor *= kernel.launch_ratio_8bit
    dram_s, cache_s, ramp_s = _memory(problem, chip, kernel, bandwidth)
    yield from _cut(
        problem, kernel, hz, units, items=problem.sequences * problem.kv_heads * problem.query_rows,
        setup=kernel.vector_item_setup_cycles * (kernel.vector_item_setup_ratio_8bit if eight else 1), load=0,
        compute=width / rate + kernel.vector_token_cycles, tile=kernel.vector_tile_tokens,
        memory_s=max(dram_s, cache_s * problem.query_rows), extra_s=ramp_s, floor_s=floor / hz, alone=alone)


def _cut(problem, kernel, hz, units, *, items, setup, load, compute, tile, memory_s, extra_s, floor_s, alone):
    """Each number of pieces that a sequence may be cut into; what two items a unit fill is not cut."""
    row_elements = problem.sequences * problem.kv_heads * problem.query_rows * problem.value_dim
    for pieces in SPLITS:
        if pieces > kernel.most_sequence_units or (pieces > 1 and items / units >= 2):
            return
        waves = items / units * pieces
        waves = math.ceil(waves) if waves < 8 else waves
        tokens = tile * math.ceil(problem.tokens / (pieces * tile))
        unit_s = waves * (setup + tokens * max(load, compute)) / hz
        combine = 0.0
        if pieces > 1:
            combine = (kernel.split_combine_cycles
                       + kernel.combine_cycles_per_64_bytes * row_elements * pieces * 4 / 64 / units) / hz
        body_s = max(unit_s, memory_s + kernel.exposed_setup_fraction * waves * setup / hz) + combine + extra_s
        yield Way(body_s=body_s, floor_s=floor_s if alone else 0.0, computing=compute >= load, memory_s=memory_s,
                  tokens_s=waves * (tokens * compute if compute >= load else problem.tokens / pieces * load) / hz)


def product_s(m, n, k, dtype, element_bytes, chip, hit_share):
    """Seconds of ``y[m, n] = x[m, k] w[k, n]`` timed by itself: the best of three tile widths and four cuts of k."""
    kernel, compute = chip.kernel.gemm, chip.compute
    hz, units = compute.clock_hz, compute.units
    rate = compute.matrix_peak_flop_per_s[compute.matrix_dtype(dtype)] / hz / units * kernel.matrix_efficiency
    rate *= kernel.matrix_ratio_8bit if element_bytes < 2 else kernel.matrix_ratio_many_rows if m > 256 else 1
    moved = (n * k + m * k) * element_bytes + m * n * 2
    dram_s = moved * (1 - hit_share) / (kernel.dram_achieved_fraction * chip.main_memory.chip_bandwidth_bytes_per_s)
    rows = min(16 * math.ceil(m / 16), 128)
    found = []
    for columns in (64, 128, 256):
        step = max((rows + columns) * element_bytes / kernel.load_bytes_per_cycle_per_unit, 2 * rows * columns / rate)
        for pieces in (1, 2, 4, 8):
            waves = max(math.ceil(n / columns) * math.ceil(m / 128) * pieces / units, 1)
            depth = 64 * math.ceil(k / pieces / 64)
            time_s = max(waves * (kernel.tile_setup_cycles + depth * step) / hz, dram_s)
            if pieces > 1:
                time_s += (kernel.split_combine_cycles
                           + kernel.combine_cycles_per_64_bytes * pieces * m * n * 4 / 64 / units) / hz
            found.append(time_s)
    launch = kernel.launch_cycles * (kernel.launch_ratio_8bit if element_bytes < 2 else 1)
    return launch / hz + min(found) + kernel.dram_ramp_ratio * (chip.main_memory.latency_s or 0) * (1 - hit_share)


def grouped_product_s(m, n, k, experts, dtype, element_bytes, weight_bytes, routed_bytes, chip):
    """Seconds of ``experts`` products of ``m`` rows each in the mean, inside a step: the best tile, then the copies."""
    kernel, compute = chip.kernel.moe, chip.compute
    hz, units, bandwidth = compute.clock_hz, compute.units, chip.main_memory.chip_bandwidth_bytes_per_s
    rate = compute.matrix_peak_flop_per_s[compute.matrix_dtype(dtype)] / hz / units * kernel.matrix_efficiency
    found = []
    for rows in (16, 32, 64, 128):
        tiles = max(experts, experts * m / rows + experts / 2)
        for columns in (64, 128):
            step = max((rows * element_bytes + columns * weight_bytes) / kernel.load_bytes_per_cycle_per_unit,
                       2 * rows * columns / rate)
            waves = max(tiles * math.ceil(n / columns) / units, 1)
            found.append(waves * (kernel.tile_setup_cycles + 64 * math.ceil(k / 64) * step) / hz)
    dram_s = experts * n * k * weight_bytes / (kernel.dram_achieved_fraction * bandwidth)
    return max(min(found), dram_s) + kernel.routing_passes * routed_bytes / bandwidth
