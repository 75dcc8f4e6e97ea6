"""The event loop against the plain controller of ``dram_oracle``.

Completion times must be equal to the tick, and so must what each data bus waited for.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import settings

from simkit.replay.dram.simulate import DramChannel, DramConfig, DramResult
from simkit.replay.dram.standards import standard_named
from tests.replay.cases import dram_config
from tests.replay.dram_oracle import Oracle, Request

SEEDS = range(-(-settings.default.max_examples // 40))  # any will do: 12 200 streams of other seeds were equal too
pytestmark = pytest.mark.hypothesis  # one stream each in CI, five by python tools/check.py slow


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Random requests for one channel: ``places`` different bursts (0: any), ticks between arrivals drawn from ``gaps``."""

    config: DramConfig
    count: int = 100
    write_share: float = 0.3
    rows: int = 2  # of every bank
    places: int = 0
    gaps: tuple[int, ...] = ()
    most_outstanding: int | None = None
    cuts: tuple[int, ...] = ()  # where one batch ends and the next begins


def config_of(dram_type: str, **settings: object) -> DramConfig:
    return dram_config(dram_type, **{"refresh": "none", "read_queue": 16, "write_queue": 10, **settings})


def assert_equal_to_the_oracle(stream: Stream, *, least_refreshes: int = 0) -> None:
    for seed in SEEDS:
        assert run_beside_the_oracle(stream, seed).refreshes >= least_refreshes


def run_beside_the_oracle(stream: Stream, seed: int) -> DramResult:
    rng = np.random.default_rng(seed)
    config, count = stream.config, stream.count
    standard = config.standard
    span = config.driven_pseudo_channels * standard.banks_per_pseudo_channel * standard.row_bytes * stream.rows
    address = rng.integers(0, span // standard.burst_bytes, stream.places or count) * standard.burst_bytes
    if stream.places:
        address = rng.choice(address, count)
    writes = (rng.random(count) < stream.write_share).astype(np.int64)
    arrival = np.cumsum(rng.choice(stream.gaps or [0], count))
    channel = DramChannel(config)
    oracle = Oracle(config, channel.ticks)
    bank, row = channel.bank_and_row(address)
    requests = [Request(number=i, bank=int(bank[i]), row=int(row[i]), write=bool(writes[i]), arrival=int(arrival[i]))
                for i in range(count)]
    ours: dict[int, int] = {}
    for start, end in zip([0, *stream.cuts], [*stream.cuts, count], strict=True):
        result = channel.submit(
            address[start:end], is_write=writes[start:end], drain=end == count,
            arrival_s=arrival[start:end] * channel.tick_s if stream.gaps else None,
            max_outstanding_reads=stream.most_outstanding)
        oracle.run(requests[start:end], drain=end == count, most_outstanding=stream.most_outstanding or np.inf)
        ticks = np.round(result.completion_s / channel.tick_s).astype(int)
        ours |= dict(zip(result.request.tolist(), ticks.tolist(), strict=True))
        assert list(ours.items()) == list(oracle.done.items())
    assert len(ours) == count
    assert_same_account(result, oracle, channel.tick_s)
    return result


def assert_same_account(result: DramResult, oracle: Oracle, tick_s: float) -> None:
    buses = result.config.driven_pseudo_channels
    ticks = {cause: seconds * buses / tick_s for cause, seconds in result.time_s_by_cause.items()}
    assert result.elapsed_s == pytest.approx(oracle.last_done * tick_s)
    assert ticks.pop("pipeline") == pytest.approx(oracle.last_done * buses - sum(oracle.waited.values()))
    assert ticks == pytest.approx({cause: oracle.waited[cause] for cause in ticks})
    assert result.mean_read_latency_s == pytest.approx(np.mean(oracle.latencies or [0]) * tick_s)
    # Nobody waits for a refresh in the tick of the last burst, and the loop has ended.
    refreshes = sum(tick < oracle.last_burst for tick in oracle.refreshed)
    counts = (result.row_hits, result.activates, result.refreshes, result.requests)
    assert counts == (oracle.counts["row_hits"], oracle.counts["activates"], refreshes, len(oracle.done))


CASES = [
    ("HBM2_2400", "rowhit", "bg128", (16, 10), 0.0, 2), ("HBM2_2400", "frfcfs", "robaco", (4, 5), 0.3, 2),
    ("HBM2_2400", "rowhit", "bg128x", (64, 20), 0.3, 64), ("HBM3_6400", "rowhit", "bg128", (16, 10), 0.0, 2),
    ("HBM3_6400", "rowhit", "robaco", (16, 10), 0.3, 2), ("HBM3_6400", "frfcfs", "bg128", (4, 5), 1.0, 64),
    ("HBM4_8000", "rowhit", "bg128", (64, 20), 0.3, 2), ("GDDR6_14000", "rowhit", "bg128", (16, 10), 0.0, 2),
    ("GDDR6_14000", "rowhit", "bg128x", (16, 10), 0.3, 2), ("GDDR6_14000", "frfcfs", "robaco", (4, 5), 0.3, 64),
    ("DDR5_4800", "rowhit", "bg128", (16, 10), 0.0, 2), ("DDR5_4800", "rowhit", "robaco", (4, 5), 0.3, 2),
]


@pytest.mark.parametrize(("dram_type", "scheduler", "mapping", "queues", "write_share", "rows"), CASES)
def test_completion_times_equal_those_of_a_controller_that_looks_at_everything_every_tick(
    dram_type, scheduler, mapping, queues, write_share, rows,
):
    config = config_of(dram_type, scheduler=scheduler, mapping=mapping, read_queue=queues[0], write_queue=queues[1])
    assert_equal_to_the_oracle(Stream(config=config, count=90, write_share=write_share, rows=rows))


DRAM_TYPES = ("HBM2_2400", "HBM3_6400", "HBM4_8000", "GDDR6_14000", "LPDDR5_6400", "DDR5_4800")


@pytest.mark.parametrize("dram_type", DRAM_TYPES)
@pytest.mark.parametrize(("places", "accept_per_tick"), [(5, 4), (24, 1)])
def test_few_places_asked_for_again_and_again_are_served_as_by_the_oracle(dram_type, places, accept_per_tick):
    config = config_of(dram_type, mapping="robaco", accept_per_tick=accept_per_tick, write_low_mark=0.0, write_high_mark=0.5)
    assert_equal_to_the_oracle(Stream(config=config, count=90, places=places))


@pytest.mark.parametrize("dram_type", DRAM_TYPES)
@pytest.mark.parametrize("gaps", [(0, 0, 1, 2, 3), (0, 0, 0, 5, 90), (400,)])
def test_requests_that_arrive_over_time_are_served_as_by_the_oracle(dram_type, gaps):
    config = config_of(dram_type)
    assert_equal_to_the_oracle(Stream(config=config, count=20 if gaps == (400,) else 80, gaps=gaps))


@pytest.mark.parametrize("dram_type", DRAM_TYPES)
@pytest.mark.parametrize("most_outstanding", [1, 3, 20])
def test_a_limit_of_reads_on_their_way_holds_back_as_in_the_oracle(dram_type, most_outstanding):
    stream = Stream(config=config_of(dram_type), count=15 if most_outstanding == 1 else 60, most_outstanding=most_outstanding,
                    write_share=0.2, gaps=() if most_outstanding == 3 else (0, 1, 6))
    assert_equal_to_the_oracle(stream)


@pytest.mark.parametrize("dram_type", [name for name in DRAM_TYPES if name.startswith("HBM")])
@pytest.mark.parametrize("refresh", ["none", "pb"])
def test_two_pseudo_channels_share_commands_and_not_data_as_in_the_oracle(dram_type, refresh):
    config = config_of(dram_type, driven_pseudo_channels=2, refresh=refresh, read_queue=32)
    assert_equal_to_the_oracle(Stream(config=config, count=120))
    assert_equal_to_the_oracle(Stream(config=config, count=60, places=8, gaps=(0, 0, 4, 30)))


@pytest.mark.parametrize("dram_type", ["HBM2_2400", "HBM3_6400", "HBM4_8000", "LPDDR5_6400"])
def test_one_bank_s_refresh_is_served_as_by_the_oracle(dram_type):
    config = config_of(dram_type, refresh="pb")
    assert_equal_to_the_oracle(Stream(config=config, count=80, gaps=(0, 1, 5, 60)), least_refreshes=2)


def short_interval(dram_type: str, **settings: object) -> DramConfig:
    """All banks are due again soon after each refresh."""
    standard = standard_named(dram_type)
    return replace(config_of(dram_type, refresh="ab", **settings),
                   standard=replace(standard, refi_cycles=standard.rfc_cycles + 301))


@pytest.mark.parametrize("dram_type", DRAM_TYPES)
def test_a_refresh_of_all_banks_is_served_as_by_the_oracle(dram_type):
    driven = 2 if dram_type == "HBM3_6400" else 1
    gaps = (0, 0, 30) if dram_type == "LPDDR5_6400" else (0, 0, 120)
    config = short_interval(dram_type, read_queue=8, driven_pseudo_channels=driven)
    assert_equal_to_the_oracle(Stream(config=config, count=90, write_share=0.2, gaps=gaps, rows=4096), least_refreshes=1)


@pytest.mark.parametrize("dram_type", DRAM_TYPES)
@pytest.mark.parametrize("gaps", [(), (0, 2, 30)])
def test_batches_that_leave_their_queue_to_the_next_are_served_as_by_the_oracle(dram_type, gaps):
    refresh = "pb" if gaps and dram_type in {"HBM3_6400", "LPDDR5_6400"} else "none"
    stream = Stream(config=config_of(dram_type, refresh=refresh), count=70, gaps=gaps, cuts=(1, 25, 26, 60), most_outstanding=8)
    assert_equal_to_the_oracle(stream)


@pytest.mark.parametrize("command_bus", ["row_and_column", "single", "single_split_activate"])
@pytest.mark.parametrize("refresh", ["ab", "pb"])
def test_commands_that_all_take_several_ticks_are_served_as_by_the_oracle(command_bus, refresh):
    """No standard's PRE takes two: that a refresh holds its bus shows here alone."""
    standard = replace(standard_named("HBM2_2400"), command_bus=command_bus, activate_bus_cycles=3, column_bus_cycles=2,
                       precharge_bus_cycles=3, precharge_to_precharge_cycles=4, ccd_short_write_cycles=3, rrd_long_cycles=9,
                       ras_cycles=10, activate_split_deadline_cycles=4 if "split" in command_bus else 0, refi_cycles=500,
                       refi_per_bank_cycles=67)
    config = replace(config_of("HBM2_2400", refresh=refresh, read_queue=8, driven_pseudo_channels=2), standard=standard)
    assert_equal_to_the_oracle(Stream(config=config, count=90, gaps=(0, 1, 20), rows=8), least_refreshes=1)
