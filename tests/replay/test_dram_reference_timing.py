"""Every timing parameter of the reference's parameter sets, read from its document, beside ours."""

import re

import pytest

from simkit.replay.dram.standards import standard_named
from tests.reference_data import reference_path

SETS = ("HBM2_2000", "HBM2_2400", "HBM3_6400", "HBM3s1_6400", "GDDR6_14000", "LPDDR5_6400", "DDR5_4800")

# The reference's name of a delay, and ours in clock cycles.
FIGURES = {
    "nBL": "burst_cycles", "nBL_min": "burst_cycles", "nCL": "read_latency_cycles", "nCWL": "write_latency_cycles",
    "nRCD": "rcd_read_cycles", "nRCDRD": "rcd_read_cycles", "nRCDWR": "rcd_write_cycles", "nRP": "rp_cycles",
    "nRAS": "ras_cycles", "nRC": "rc_cycles", "nWR": "write_recovery_cycles", "nRTPL": "read_to_precharge_cycles",
    "nRTP": "read_to_precharge_cycles", "nPPD": "precharge_to_precharge_cycles", "nRRDS": "rrd_short_cycles",
    "nRRDL": "rrd_long_cycles", "nFAW": "faw_cycles", "nCCDS": "ccd_short_cycles", "nCCDL": "ccd_long_cycles",
    "nCCDR": "ccd_other_stack_cycles", "nCCDS_WR": "ccd_short_write_cycles", "nCCDL_WR": "ccd_long_write_cycles",
    "nWTRS": "wtr_short_cycles", "nWTRL": "wtr_long_cycles", "nRTW": "read_to_write_cycles", "nRFC": "rfc_cycles",
    "nRFCab": "rfc_cycles", "nRFCpb": "rfc_per_bank_cycles", "nREFI": "refi_cycles", "nREFIpb": "refi_per_bank_cycles",
    "nRREFD": "refresh_to_activate_other_bank_cycles", "nPBR2ACT": "refresh_to_activate_other_bank_cycles",
    "nAAD": "activate_split_deadline_cycles", "tCK_ps": "clock_period_ps",
}
# What the model does not keep under the name of one parameter, and why.
ELSEWHERE = {
    "rate": "twice the clock times the data rate: tested as the peak",
    "nBL_max": "the burst of LPDDR5's 16-bank mode, which the runs do not use",
    "nWCKPST": "in data_clock_hold_cycles, tested below", "nCAS": "0: a CAS costs its clock alone",
    "nRPab": "its runs wait nRP before a refresh: with nRPab the sequential one would be 0.07 % slower than it was",
    "nCS": "rank to rank; the runs drive one rank", "nPBR2PBR": "LPDDR5's runs refresh all banks at once",
    "nRFMab": "refresh management: no run asks for it", "nRFMpb": "refresh management: no run asks for it",
}


@pytest.fixture(scope="module")
def document():
    return reference_path("dram_bandwidth.md").read_text(encoding="utf-8")


def timing_of(document: str, name: str) -> dict[str, float]:
    section = document.split(f"### {name} ", 1)[1].split("### ", 1)[0]
    line = re.search(r"^- timing: (.*)$", section, re.MULTILINE)
    assert line is not None, name
    return {key: float(value) for key, value in re.findall(r"(\w+)=([\d.]+)", line[1])}


@pytest.mark.parametrize("name", SETS)
def test_every_timing_figure_is_the_reference_s(name, document):
    standard = standard_named(name)
    given = timing_of(document, name)
    assert len(given) >= 20
    unknown = set(given) - set(FIGURES) - set(ELSEWHERE)
    assert not unknown
    ours = {key: getattr(standard, FIGURES[key]) for key in given if key in FIGURES}
    assert ours == {key: given[key] for key in ours}


@pytest.mark.parametrize("name", SETS)
def test_every_organisation_is_the_reference_s(name, document):
    standard = standard_named(name)
    section = document.split(f"### {name} ", 1)[1].split("### ", 1)[0]

    def number(pattern: str, default: int = 1) -> int:
        found = re.search(pattern, section)
        return int(found[1]) if found else default

    assert standard.pseudo_channels == number(r"'pseudochannel': (\d+)")
    assert standard.stacks == number(r"'(?:sid|rank)': (\d+)")
    assert standard.bank_groups == number(r"'bankgroup': (\d+)")
    assert standard.banks_per_group == number(r"'bank': (\d+)")
    assert standard.rows == number(r"'row': (\d+)")
    assert standard.row_bytes == number(r"row (\d+) B per")
    assert standard.burst_bytes == number(r"burst (\d+) B")


@pytest.mark.parametrize("name", ["HBM2_2000", "HBM2_2400"])
def test_reads_turn_into_writes_as_the_reference_says(name, document):
    """HBM2: RD->WR = nCL + nBL + 2 - nCWL."""
    given = timing_of(document, name)
    assert standard_named(name).read_to_write_cycles == given["nCL"] + given["nBL"] + 2 - given["nCWL"]


def test_lpddr5_keeps_its_data_clock_for_a_read_and_its_postamble(document):
    """WCK runs for nCL + nBL + nWCKPST after a CAS."""
    given = timing_of(document, "LPDDR5_6400")
    assert standard_named("LPDDR5_6400").data_clock_hold_cycles == given["nCL"] + given["nBL_min"] + given["nWCKPST"]
