"""DRAM parameter sets: geometry and timing of one channel, in clock cycles, with their sources.

JEDEC states a DRAM's timing in nanoseconds or in clock cycles (CK). A set here holds cycles of its own clock,
the form in which the reference runs were made, so that nothing is rounded twice. ``at_clock`` derives a faster
grade of the same device by holding each analogue delay in nanoseconds, which is what JEDEC does between grades.

Source of every set without its own note: the tables of Ramulator 2.1 (CMU-SAFARI/ramulator2, commit c5b1c3a),
which cite JESD235D (HBM2), JESD238 (HBM3), JESD270-4 (HBM4), JESD250 (GDDR6), JESD209-5B (LPDDR5) and
JESD79-5 (DDR5). They are the standards' minima, not the values of one vendor's part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

from simkit.foundation.errors import UserError, did_you_mean

CommandBus = Literal["row_and_column", "row_and_column_half_clock", "single", "single_split_activate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DramStandard:
    """One DRAM type at one speed: geometry of a channel and delays in CK cycles.

    Names follow JEDEC: ``rcd_read`` is tRCDRD, ``ccd_long`` tCCD_L and so on; ``short``/``long`` mean another or
    the same bank group, ``other_stack`` another stack id (HBM3's tCCD_R). A zero says that the delay does not
    exist in that standard.

    ``command_bus`` says what may be sent in a clock: ``row_and_column`` one row and one column command (HBM2);
    ``row_and_column_half_clock`` the same with row commands on half clocks (HBM3, HBM4); ``single`` one command
    (GDDR6, DDR5); ``single_split_activate`` one, with ACT in two parts and CAS before the first read or write
    after a pause (LPDDR5). ``activate_bus`` and ``column_bus`` are the clocks those commands occupy their bus.
    """

    name: str
    family: str
    clock_period_ps: int
    command_bus: CommandBus
    pseudo_channels: int
    stacks: int
    bank_groups: int
    banks_per_group: int
    rows: int
    row_bytes: int
    burst_bytes: int
    # data bus
    burst_cycles: int
    read_latency_cycles: int
    write_latency_cycles: int
    # row
    rcd_read_cycles: int
    rcd_write_cycles: int
    rp_cycles: int
    ras_cycles: int
    rc_cycles: int
    write_recovery_cycles: int
    read_to_precharge_cycles: int
    precharge_to_precharge_cycles: int
    rrd_short_cycles: int
    rrd_long_cycles: int
    faw_cycles: int
    # column
    ccd_short_cycles: int
    ccd_long_cycles: int
    ccd_other_stack_cycles: int
    ccd_short_write_cycles: int
    ccd_long_write_cycles: int
    wtr_short_cycles: int
    wtr_long_cycles: int
    read_to_write_cycles: int
    # refresh
    rfc_cycles: int
    rfc_per_bank_cycles: int
    refi_cycles: int
    refi_per_bank_cycles: int
    refresh_to_activate_other_bank_cycles: int
    # command bus
    activate_bus_cycles: float
    column_bus_cycles: float
    precharge_bus_cycles: float
    activate_split_deadline_cycles: int = 0
    data_clock_hold_cycles: int = 0
    source: str = "Ramulator 2.1, commit c5b1c3a"

    @property
    def peak_bandwidth_bytes_per_s(self) -> float:
        """Peak of one pseudo-channel: burst bytes / (burst cycles x clock period)."""
        return self.burst_bytes / (self.burst_cycles * self.clock_period_ps * 1e-12)

    @property
    def banks_per_pseudo_channel(self) -> int:
        """Banks that share one data bus: stacks x bank groups x banks per group."""
        return self.stacks * self.bank_groups * self.banks_per_group

    @property
    def pseudo_channel_bytes(self) -> int:
        """Capacity behind one data bus."""
        return self.banks_per_pseudo_channel * self.rows * self.row_bytes


# JESD235D.
_HBM2_2000 = DramStandard(
    name="HBM2_2000", family="HBM2", clock_period_ps=1000, command_bus="row_and_column",
    pseudo_channels=2, stacks=1, bank_groups=4, banks_per_group=4, rows=65536, row_bytes=1024, burst_bytes=32,
    burst_cycles=2, read_latency_cycles=14, write_latency_cycles=5,
    rcd_read_cycles=14, rcd_write_cycles=12, rp_cycles=14, ras_cycles=34, rc_cycles=48,
    write_recovery_cycles=16, read_to_precharge_cycles=5, precharge_to_precharge_cycles=0,
    rrd_short_cycles=4, rrd_long_cycles=4, faw_cycles=15,
    ccd_short_cycles=2, ccd_long_cycles=4, ccd_other_stack_cycles=0,
    ccd_short_write_cycles=2, ccd_long_write_cycles=4,
    wtr_short_cycles=6, wtr_long_cycles=8, read_to_write_cycles=14 + 2 + 2 - 5,
    rfc_cycles=350, rfc_per_bank_cycles=160, refi_cycles=3900, refi_per_bank_cycles=122,
    refresh_to_activate_other_bank_cycles=8,
    activate_bus_cycles=2, column_bus_cycles=1, precharge_bus_cycles=1,
)

# JESD235D, the same device at a faster grade.
_HBM2_2400 = replace(
    _HBM2_2000, name="HBM2_2400", clock_period_ps=833,
    read_latency_cycles=17, write_latency_cycles=6,
    rcd_read_cycles=17, rcd_write_cycles=14, rp_cycles=17, ras_cycles=40, rc_cycles=57,
    write_recovery_cycles=19, read_to_precharge_cycles=6,
    rrd_short_cycles=5, rrd_long_cycles=5, faw_cycles=19,
    wtr_short_cycles=8, wtr_long_cycles=10, read_to_write_cycles=17 + 2 + 2 - 6,
    rfc_cycles=421, rfc_per_bank_cycles=193, refi_cycles=4682, refi_per_bank_cycles=147,
    refresh_to_activate_other_bank_cycles=10,
)

# JESD238.
_HBM3_6400 = DramStandard(
    name="HBM3_6400", family="HBM3", clock_period_ps=625, command_bus="row_and_column_half_clock",
    pseudo_channels=2, stacks=2, bank_groups=4, banks_per_group=4, rows=16384, row_bytes=1024, burst_bytes=32,
    burst_cycles=2, read_latency_cycles=20, write_latency_cycles=10,
    rcd_read_cycles=31, rcd_write_cycles=15, rp_cycles=26, ras_cycles=45, rc_cycles=72,
    write_recovery_cycles=33, read_to_precharge_cycles=9, precharge_to_precharge_cycles=2,
    rrd_short_cycles=4, rrd_long_cycles=5, faw_cycles=24,
    ccd_short_cycles=2, ccd_long_cycles=4, ccd_other_stack_cycles=3,
    ccd_short_write_cycles=2, ccd_long_write_cycles=4,
    wtr_short_cycles=7, wtr_long_cycles=10, read_to_write_cycles=20,
    rfc_cycles=560, rfc_per_bank_cycles=320, refi_cycles=6240, refi_per_bank_cycles=195,
    refresh_to_activate_other_bank_cycles=8,
    activate_bus_cycles=1.5, column_bus_cycles=1, precharge_bus_cycles=0.5,
)

# JESD238: see its source.
_HBM3S1_6400 = replace(
    _HBM3_6400, name="HBM3s1_6400", stacks=1, rfc_cycles=416, refi_per_bank_cycles=390,
    source="Ramulator 2.1, commit c5b1c3a: HBM3_4Gb, one stack id",
)

# JESD270-4: see its source.
_HBM4_8000 = replace(
    _HBM3_6400, name="HBM4_8000", family="HBM4", clock_period_ps=500,
    stacks=2, bank_groups=2, banks_per_group=8, rows=16384,
    read_latency_cycles=20, write_latency_cycles=10,
    rcd_read_cycles=39, rcd_write_cycles=19, rp_cycles=33, ras_cycles=57, rc_cycles=90,
    write_recovery_cycles=42, read_to_precharge_cycles=12, precharge_to_precharge_cycles=2,
    rrd_short_cycles=5, rrd_long_cycles=7, faw_cycles=30,
    ccd_short_cycles=2, ccd_long_cycles=4, ccd_other_stack_cycles=2,
    ccd_short_write_cycles=2, ccd_long_write_cycles=4,
    wtr_short_cycles=9, wtr_long_cycles=13, read_to_write_cycles=25,
    rfc_cycles=900, rfc_per_bank_cycles=560, refi_cycles=7800, refi_per_bank_cycles=244,
    refresh_to_activate_other_bank_cycles=16,
    source="Ramulator 2.1 hbm4.py (HBM4_32Gb_8Hi, HBM4_8000Mbps); JESD270-4",
)

# JESD250.
_GDDR6_14000 = DramStandard(
    name="GDDR6_14000", family="GDDR6", clock_period_ps=570, command_bus="single",
    pseudo_channels=1, stacks=1, bank_groups=4, banks_per_group=4, rows=16384, row_bytes=2048, burst_bytes=32,
    burst_cycles=2, read_latency_cycles=24, write_latency_cycles=6,
    rcd_read_cycles=27, rcd_write_cycles=16, rp_cycles=27, ras_cycles=53, rc_cycles=79,
    write_recovery_cycles=27, read_to_precharge_cycles=4, precharge_to_precharge_cycles=1,
    rrd_short_cycles=8, rrd_long_cycles=8, faw_cycles=29,
    ccd_short_cycles=2, ccd_long_cycles=4, ccd_other_stack_cycles=0,
    ccd_short_write_cycles=2, ccd_long_write_cycles=4,
    wtr_short_cycles=9, wtr_long_cycles=11, read_to_write_cycles=24 + 1,
    rfc_cycles=211, rfc_per_bank_cycles=106, refi_cycles=3333, refi_per_bank_cycles=0,
    refresh_to_activate_other_bank_cycles=15,
    activate_bus_cycles=1, column_bus_cycles=1, precharge_bus_cycles=1,
)

# JESD209-5B.
_LPDDR5_6400 = DramStandard(
    name="LPDDR5_6400", family="LPDDR5", clock_period_ps=1250, command_bus="single_split_activate",
    pseudo_channels=1, stacks=1, bank_groups=4, banks_per_group=4, rows=65536, row_bytes=2048, burst_bytes=32,
    burst_cycles=2, read_latency_cycles=17, write_latency_cycles=9,
    rcd_read_cycles=15, rcd_write_cycles=15, rp_cycles=15, ras_cycles=34, rc_cycles=49,
    write_recovery_cycles=28, read_to_precharge_cycles=8, precharge_to_precharge_cycles=2,
    rrd_short_cycles=4, rrd_long_cycles=4, faw_cycles=16,
    ccd_short_cycles=2, ccd_long_cycles=4, ccd_other_stack_cycles=0,
    ccd_short_write_cycles=2, ccd_long_write_cycles=4,
    wtr_short_cycles=5, wtr_long_cycles=10, read_to_write_cycles=17 + 2 + 2 - 9,
    rfc_cycles=224, rfc_per_bank_cycles=112, refi_cycles=3125, refi_per_bank_cycles=391,
    refresh_to_activate_other_bank_cycles=6,
    activate_bus_cycles=1, column_bus_cycles=1, precharge_bus_cycles=1,
    activate_split_deadline_cycles=8, data_clock_hold_cycles=17 + 2 + 1,
)

# JESD79-5.
_DDR5_4800 = DramStandard(
    name="DDR5_4800", family="DDR5", clock_period_ps=416, command_bus="single",
    pseudo_channels=1, stacks=1, bank_groups=8, banks_per_group=4, rows=65536, row_bytes=4096, burst_bytes=64,
    burst_cycles=8, read_latency_cycles=36, write_latency_cycles=34,
    rcd_read_cycles=36, rcd_write_cycles=36, rp_cycles=36, ras_cycles=77, rc_cycles=113,
    write_recovery_cycles=72, read_to_precharge_cycles=18, precharge_to_precharge_cycles=2,
    rrd_short_cycles=8, rrd_long_cycles=12, faw_cycles=48,
    ccd_short_cycles=8, ccd_long_cycles=12, ccd_other_stack_cycles=0,
    ccd_short_write_cycles=8, ccd_long_write_cycles=48,
    wtr_short_cycles=6, wtr_long_cycles=24, read_to_write_cycles=36 + 8 + 2 - 34 + 2,
    rfc_cycles=710, rfc_per_bank_cycles=0, refi_cycles=9375, refi_per_bank_cycles=0,
    refresh_to_activate_other_bank_cycles=0,
    activate_bus_cycles=2, column_bus_cycles=2, precharge_bus_cycles=1,
)

# Delays that JEDEC states in nanoseconds and that therefore take more cycles at a faster clock. The others (burst,
# tCCD_S, tPPD, bus occupancy) are counted in clocks by the standard and stay.
_ANALOGUE_DELAYS: Final = (
    "read_latency_cycles", "write_latency_cycles", "rcd_read_cycles", "rcd_write_cycles", "rp_cycles",
    "ras_cycles", "rc_cycles", "write_recovery_cycles", "read_to_precharge_cycles", "rrd_short_cycles",
    "rrd_long_cycles", "faw_cycles", "ccd_long_cycles", "ccd_other_stack_cycles", "ccd_long_write_cycles",
    "wtr_short_cycles", "wtr_long_cycles", "read_to_write_cycles", "rfc_cycles", "rfc_per_bank_cycles",
    "refi_cycles", "refi_per_bank_cycles", "refresh_to_activate_other_bank_cycles",
)


def at_clock(base: DramStandard, *, name: str, clock_period_ps: int) -> DramStandard:
    r"""The same device at another clock: analogue delays keep their nanoseconds.

    .. math:: n' = \lceil n \, t_{CK} / t'_{CK} \rceil

    Parameters: ``base`` set, ``name`` of the new one, its clock period in ps.
    Source: JEDEC's own rule between grades (Ramulator 2.1's HBM3E grades are its HBM3-6400 scaled so).
    """
    scale = base.clock_period_ps / clock_period_ps
    cycles = {field: math.ceil(getattr(base, field) * scale - 1e-9) for field in _ANALOGUE_DELAYS}
    source = f"derived: {base.name} with its delays held in ns at tCK {clock_period_ps} ps"
    return replace(base, name=name, clock_period_ps=clock_period_ps, source=source, **cycles)


# Faster grades of a device keep its nanoseconds, see at_clock.
_SETS: Final = (
    _HBM2_2000,
    _HBM2_2400,
    at_clock(_HBM2_2400, name="HBM2e_3200", clock_period_ps=625),
    at_clock(_HBM2_2400, name="HBM2e_3600", clock_period_ps=556),
    _HBM3_6400,
    _HBM3S1_6400,
    at_clock(_HBM3_6400, name="HBM3_5200", clock_period_ps=769),
    at_clock(_HBM3_6400, name="HBM3e_8000", clock_period_ps=500),
    at_clock(_HBM3_6400, name="HBM3e_9200", clock_period_ps=435),
    at_clock(_HBM3_6400, name="HBM3e_9600", clock_period_ps=417),
    _HBM4_8000,
    _GDDR6_14000,
    at_clock(_GDDR6_14000, name="GDDR6_16000", clock_period_ps=500),
    _LPDDR5_6400,
    at_clock(_LPDDR5_6400, name="LPDDR5_8533", clock_period_ps=938),
    _DDR5_4800,
    at_clock(_DDR5_4800, name="DDR5_5600", clock_period_ps=357),
)

STANDARDS: Final[dict[str, DramStandard]] = {standard.name: standard for standard in _SETS}


def standard_named(name: str) -> DramStandard:
    """The parameter set of that name; raises ``UserError`` with the nearest known names."""
    try:
        return STANDARDS[name]
    except KeyError:
        raise UserError(f"unknown DRAM type '{name}'", hint=did_you_mean(name, STANDARDS)) from None
