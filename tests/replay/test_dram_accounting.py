"""What a channel's data bus waited for, in cases small enough to work by hand on HBM2 at 1 GHz, whose tick is a nanosecond.

Its delays: an ACT takes two ticks, so RD follows it after tRCDRD + 1 = 15, WR after tRCDWR + 1 = 13, PRE after tRAS + 1 = 35 and
the next ACT of the bank after tRC = 48; ACT follows PRE after tRP - 1 = 13. tRRD 4, tCCD_S 2, tCCD_L 4, tRTP 5, read to write 13,
write to read of one group 5 + 2 + 8 = 15. A burst takes 2 and ends 14 + 2 = 16 after its RD. The first request is accepted,
and its ACT sent, at tick 1.
"""

from dataclasses import replace

import numpy as np
import pytest

from simkit.replay.dram.simulate import DramChannel, DramConfig, DramResult, replay_requests
from simkit.replay.dram.standards import standard_named

HBM2 = replace(standard_named("HBM2_2000"), pseudo_channels=1)


def config_of(*, standard=HBM2, **settings: object) -> DramConfig:
    return DramConfig(standard=standard, mapping="robaco", **{"refresh": "none", **settings})


def place(*, group: int = 0, bank: int = 0, row: int = 0, column: int = 0) -> int:
    """Byte address with ``robaco``: 32 bursts of 32 B a row, 4 groups, 4 banks in each, rows."""
    return (((row * 4 + bank) * 4 + group) * 32 + column) * 32


def replayed(places: list[int], *, at_ns: list[int] | None = None, writes: list[int] | None = None,
             config: DramConfig | None = None, most_outstanding: int | None = None) -> DramResult:
    return replay_requests(config or config_of(), places, is_write=writes, max_outstanding_reads=most_outstanding,
                           arrival_s=None if at_ns is None else np.array(at_ns) * 1e-9)


def waits_ns(result: DramResult) -> dict[str, float]:
    return {cause: round(seconds * 1e9, 6) for cause, seconds in result.time_s_by_cause.items() if abs(seconds) > 1e-15}


def done_ns(result: DramResult) -> dict[int, int]:
    return dict(zip(result.request.tolist(), np.round(result.completion_s * 1e9).astype(int).tolist(), strict=True))


def test_one_read_waits_for_its_row_and_ends_a_read_latency_and_a_burst_after_its_command():
    """ACT 1, RD 16, last beat 32: 15 for the row, 2 of data, 15 that no later command uses."""
    result = replayed([place()])
    assert waits_ns(result) == {"row_miss": 15, "busy": 2, "pipeline": 15}
    assert done_ns(result) == {0: 32}
    assert result.elapsed_s == pytest.approx(32e-9)
    assert result.mean_read_latency_s == pytest.approx(32e-9)
    assert (result.activates, result.row_hits, result.refreshes, result.requests) == (1, 0, 0, 1)


def test_a_second_row_of_a_bank_waits_for_the_first_one_s_whole_cycle():
    """RD 16, PRE 36 (tRAS), ACT 49 (tRC), RD 64; the bus was free from 18 on: 46 more for the row."""
    result = replayed([place(), place(row=1)])
    assert waits_ns(result) == {"row_miss": 15 + 46, "busy": 4, "pipeline": 15}
    assert done_ns(result) == {0: 32, 1: 80}
    assert (result.activates, result.row_hits) == (2, 0)


def test_a_second_burst_of_a_row_waits_for_its_bank_group():
    """RD 16 and, tCCD_L later, 20: the bus was free at 18."""
    result = replayed([place(), place(column=1)])
    assert waits_ns(result) == {"row_miss": 15, "bank_group": 2, "busy": 4, "pipeline": 15}
    assert (result.activates, result.row_hits) == (1, 1)


def test_rows_of_other_banks_wait_for_the_distance_between_activates():
    """ACT 1, 5, 9 (tRRD 4), RD 16, 20, 24: each 2 after the bus was free, all of it the activation limit's."""
    result = replayed([place(group=0), place(group=1), place(group=2)])
    assert waits_ns(result) == {"row_miss": 15, "activation_limit": 4, "busy": 6, "pipeline": 15}


def test_the_fifth_activate_waits_for_the_window_of_four():
    """With tFAW 24: ACT 1, 5, 9, 13, 25; RD 16, 20, 24, 28, 40: the last 10 after the bus was free."""
    result = replayed([place(group=number % 4, bank=number // 4) for number in range(5)],
                      config=config_of(standard=replace(HBM2, faw_cycles=24)))
    assert waits_ns(result) == {"row_miss": 15, "activation_limit": 2 + 2 + 2 + 10, "busy": 10, "pipeline": 15}


def test_of_a_row_s_wait_only_what_the_bank_could_have_used_is_the_activation_limit_s():
    """tRRD 20: ACT 1 and 21, RD 16 and 36. The bus was free at 18: 18 more, less than the 20 that ACT was late."""
    result = replayed([place(group=0), place(group=1)], config=config_of(standard=replace(HBM2, rrd_short_cycles=20)))
    assert waits_ns(result) == {"row_miss": 15, "activation_limit": 18, "busy": 4, "pipeline": 15}


def test_a_row_that_is_late_by_its_own_delay_too_shares_its_wait():
    """Bank 0's second row could be activated at 49; another bank's ACT 47, accepted then, holds it until 51.

    RD 16, 62, 66: from 18 on 44 wait for a row, though the bank that ends the wait was not asked for before 47, as bank 0 was.
    From 64 on 2 wait for bank 0's ACT, sent 51 - 49 late for the other's sake.
    """
    result = replayed([place(), place(row=1), place(group=1)], at_ns=[1, 1, 47])
    assert done_ns(result) == {0: 32, 2: 78, 1: 82}
    assert waits_ns(result) == {"row_miss": 15 + 44, "activation_limit": 2, "busy": 6, "pipeline": 15}


def test_a_write_after_a_read_waits_for_the_bus_to_turn():
    """RD 16, the write comes at 17, WR 29. The end is the read's last beat, 32: a write is done for its sender once sent."""
    result = replayed([place(), place(column=1)], writes=[0, 1], at_ns=[1, 17])
    assert waits_ns(result) == {"row_miss": 15, "turnaround": 29 - 18, "busy": 4, "pipeline": 32 - 30}
    assert result.elapsed_s == pytest.approx(32e-9)
    assert result.mean_read_latency_s == pytest.approx(32e-9)
    assert done_ns(result) == {0: 32, 1: 29 + 5 + 2}


def test_a_read_after_a_write_waits_for_the_write_to_end_and_tells_arrival_from_turning():
    """WR 29 leaves the bus at 31; the read is accepted at 35 and may go at 29 + 15 = 44."""
    result = replayed([place(), place(column=1), place(column=2)], writes=[0, 1, 0], at_ns=[1, 17, 35])
    assert waits_ns(result) == {"row_miss": 15, "turnaround": 11 + 9, "no_request": 4, "busy": 6, "pipeline": 15}


def test_a_write_to_a_row_that_a_read_has_opened_does_not_wait_for_the_read():
    """The read's ACT 1 leaves only the write in the queue: WR 14, two before RD could go, and RD after it at 14 + 15."""
    result = replayed([place(), place(column=1)], writes=[0, 1])
    assert list(done_ns(result).items()) == [(1, 14 + 5 + 2), (0, 29 + 16)]


def test_a_late_request_is_what_the_bus_waited_for():
    """The row is open: the read of tick 101 goes at once, 83 after the bus was free; its latency is 17, the first one's 32."""
    result = replayed([place(), place(column=1)], at_ns=[1, 101])
    assert waits_ns(result) == {"row_miss": 15, "no_request": 101 - 18, "busy": 4, "pipeline": 15}
    assert result.mean_read_latency_s == pytest.approx((32 + 17) / 2 * 1e-9)


def test_a_request_that_arrives_within_a_tick_waits_for_the_next():
    assert done_ns(replayed([place()], at_ns=[100.0]))[0] == 131
    assert done_ns(replayed([place()], at_ns=[100.3]))[0] == 132
    assert done_ns(replayed([place()], at_ns=[100.9]))[0] == 132


def test_with_one_command_bus_a_hit_waits_for_another_bank_s_activate():
    """ACT 1 and 5, RD 16 and 20. At 30 arrive a row of a third bank, ACT 30 for two ticks, and a hit, RD 32; RD 45 for the row.

    The bus was free at 22: 8 without a request, 2 for the command bus; then from 34 on 11 for the row.
    """
    single = config_of(standard=replace(HBM2, command_bus="single"))
    result = replayed([place(), place(group=1), place(group=2), place(column=1)], at_ns=[1, 1, 30, 30], config=single)
    assert done_ns(result) == {0: 32, 1: 36, 3: 48, 2: 61}
    assert waits_ns(result) == {"row_miss": 15 + 11, "activation_limit": 2, "no_request": 8, "command_bus": 2, "busy": 8,
                                "pipeline": 15}


def test_a_refresh_of_all_banks_holds_the_bus_until_a_row_can_be_open_again():
    """Due at 1000: PRE 1000, REF 1014 (tRP), ACT 1014 + 349 (tRFC - 1), RD 1378. Accepted at 1010.

    The bus was free from 18 on: 378 since the refresh fell due, the 982 before it without a request.
    """
    config = config_of(standard=replace(HBM2, refi_cycles=1000), refresh="ab")
    result = replayed([place(), place(column=1)], at_ns=[1, 1010], config=config)
    assert done_ns(result) == {0: 32, 1: 1394}
    assert waits_ns(result) == {"row_miss": 15, "refresh": 378, "no_request": 982, "busy": 4, "pipeline": 15}
    assert (result.refreshes, result.activates) == (1, 2)


def test_the_refresh_of_one_bank_makes_that_bank_wait_and_another_for_tRREFD():  # noqa: N802 - JEDEC's name
    """Bank 0 is due at 200: PRE 200, REFpb 214, its ACT 214 + 159 (tRFCpb - 1), RD 388; bank 1's ACT 214 + 7, RD 236.

    Both are accepted at 200. From 18 on to RD 236: 182 without a request, 15 of refresh, 21 for bank 1's row, which its ACT
    waited for another bank's refresh. Then from 238 to 388 for bank 0's row.
    """
    config = config_of(standard=replace(HBM2, refi_per_bank_cycles=200), refresh="pb")
    result = replayed([place(), place(column=1), place(group=1)], at_ns=[1, 200, 200], config=config)
    assert done_ns(result) == {0: 32, 2: 252, 1: 404}
    assert waits_ns(result) == {"row_miss": 15 + 150, "refresh": 15, "no_request": 182, "activation_limit": 21, "busy": 6,
                                "pipeline": 15}
    assert result.refreshes == 1


@pytest.mark.parametrize(("refresh", "busy"), [("pb", 159), ("ab", 349)])
def test_a_refresh_lets_the_request_be_served_for_which_a_row_was_opened(refresh, busy):
    """Due at 800, ACT 795, RD 810; the row could be closed 11 after its ACT, but is at 815. REF 829; then ACT and RD."""
    standard = replace(HBM2, ras_cycles=10, rc_cycles=20, refi_per_bank_cycles=800, refi_cycles=800)
    result = replayed([place(), place(column=1)], at_ns=[795, 796], config=config_of(standard=standard, refresh=refresh))
    assert done_ns(result) == {0: 810 + 16, 1: 829 + busy + 15 + 16}


def test_a_row_is_not_closed_before_the_request_is_served_for_which_it_was_opened():
    """The rows could be closed at 12 and 16 (tRAS 10): RD 16, PRE 21, ACT 34, RD 49; the other's RD 20, PRE 25, ACT 38, RD 53."""
    standard = replace(HBM2, ras_cycles=10, rc_cycles=20)
    result = replayed([place(), place(row=1), place(group=1), place(group=1, row=1)], at_ns=[1, 1, 1, 7],
                      config=config_of(standard=standard))
    assert done_ns(result) == {0: 32, 2: 36, 1: 65, 3: 69}


def test_a_hit_whose_row_a_refresh_closed_keeps_its_age():
    """Places 0 and 1 were used before. At 795 come an opener, a hit of its row and another row: the hit is still before that."""
    config = config_of(standard=replace(HBM2, refi_cycles=800), refresh="ab")
    result = replayed([place(), place(column=1), place(group=1), place(group=1, column=1), place(group=1, row=1)],
                      at_ns=[1, 1, 795, 795, 795], config=config)
    assert result.request.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("writes", "low_mark", "order"), [
    ([1, 1, 0, 0], 0.3, [0, 3, 4, 1, 2]), ([1, 1, 1, 0], 0.3, [0, 1, 2, 4, 3]), ([1, 1, 1, 0], 0.0, [0, 1, 2, 3, 4]),
])
def test_writes_go_first_above_the_high_mark_and_until_fewer_than_the_low_mark_wait(writes, low_mark, order):
    """5 entries: two writes, not above 2.5, wait for the reads; three do not, until one, less than 1.5, is left, or none."""
    config = config_of(write_queue=5, write_high_mark=0.5, write_low_mark=low_mark)
    places = [place(column=number) for number in range(5)]
    result = replayed(places, writes=[0, *writes], at_ns=[1, 17, 17, 17, 17], config=config)
    assert result.request.tolist() == order


def test_half_clocks_are_counted_as_such():
    """HBM3, whose tick is 312.5 ps: ACT 1, RD 64 but on a full clock 65, last beat 65 + 44."""
    result = replayed([0], config=config_of(standard=standard_named("HBM3_6400")))
    assert result.elapsed_s == pytest.approx(109 * 312.5e-12)
    assert result.time_s_by_cause["busy"] == pytest.approx(4 * 312.5e-12)


@pytest.mark.parametrize(("scheduler", "order"), [("rowhit", [0, 2, 1]), ("frfcfs", [0, 1, 2])])
def test_row_hit_protection_keeps_a_row_open_for_a_hit_as_old_as_the_miss(scheduler, order):
    """RD 16; the next burst of the row could go at 26 (tCCD_L 10), the bank be closed at 21 for another row."""
    standard = replace(HBM2, ras_cycles=10, rc_cycles=20, ccd_long_cycles=10)
    config = config_of(standard=standard, scheduler=scheduler)
    assert replayed([place(), place(row=1), place(column=1)], config=config).request.tolist() == order


def test_places_in_the_queue_that_were_used_before_serve_again():
    """Two reads leave places 0 and 1; three of another bank take 1, 0 and 2 at 50: ACT 50, RD 65, 69, 73."""
    result = replayed([place(), place(column=1), *(place(group=1, column=column) for column in range(3))],
                      at_ns=[1, 1, 50, 50, 50])
    assert done_ns(result) == {0: 32, 1: 36, 2: 81, 3: 85, 4: 89}


def test_two_pseudo_channels_wait_for_one_row_bus_and_are_averaged():
    """ACT 1 and 3, RD 16 and 18 on two data buses: the second one's 2 are the command's, 1 a bus."""
    config = config_of(standard=standard_named("HBM2_2000"), driven_pseudo_channels=2)
    result = replayed([0, 1024], config=config)
    assert done_ns(result) == {0: 32, 1: 34}
    assert waits_ns(result) == {"row_miss": 15, "activation_limit": 1, "busy": 2, "pipeline": 34 - 18}


def test_one_read_on_its_way_at_most_sends_the_next_when_the_last_beat_has_come():
    """The first ends at 32: the second, a hit, goes at 33."""
    result = replayed([place(), place(column=1)], most_outstanding=1)
    assert done_ns(result) == {0: 32, 1: 33 + 16}
    assert result.mean_read_latency_s == pytest.approx((32 + 17) / 2 * 1e-9)
    assert waits_ns(result)["no_request"] == 33 - 18


def test_a_write_does_not_count_among_the_reads_on_their_way():
    """The write enters at 17 and goes at 29; the read behind it enters after the first one's last beat, and goes at 44."""
    result = replayed([place(), place(column=1), place(column=2)], writes=[0, 1, 0], at_ns=[1, 17, 17], most_outstanding=1)
    assert done_ns(result) == {0: 32, 1: 29 + 7, 2: 44 + 16}
    assert result.mean_read_latency_s == pytest.approx((32 + 60 - 33 + 1) / 2 * 1e-9)


def test_a_result_s_shares_follow_from_its_counts():
    result = replayed([place(), place(column=1), place(row=1), place(row=1, column=1)])
    assert result.bytes_moved == 4 * 32
    assert result.row_hit_fraction == 0.5
    assert result.bandwidth_bytes_per_s == pytest.approx(128 / result.elapsed_s)
    assert result.achieved_fraction_of_peak == pytest.approx(4 * 2e-9 / result.elapsed_s)


def test_no_requests_take_no_time():
    result = replayed([])
    assert (result.elapsed_s, result.bandwidth_bytes_per_s, result.row_hit_fraction, result.mean_read_latency_s) == (0, 0, 0, 0)
    assert waits_ns(result) == {}


def test_without_completions_only_the_list_is_missing():
    places = [place(), place(column=1), place(row=1)]
    full, short = (replay_requests(config_of(), places, completions=kept) for kept in (True, False))
    assert short.request.size == short.completion_s.size == 0
    assert (short.requests, short.elapsed_s, short.time_s_by_cause) == (full.requests, full.elapsed_s, full.time_s_by_cause)


def test_an_empty_batch_finishes_what_an_earlier_one_left():
    """Requests are numbered over all batches; a batch that does not drain ends with the last one accepted."""
    channel = DramChannel(config_of())
    assert channel.submit([place(), place(column=1)], drain=False).requests == 0
    assert channel.submit([place(column=2)], drain=False).requests == 0
    result = channel.submit([])
    assert done_ns(result) == {0: 32, 1: 36, 2: 40}
    assert result.requests == 3


def test_four_requests_enter_in_a_tick():
    """Ten reads of a row: RD 16, 20, ... 52, last beats 32 ... 68. Their latencies count from acceptance."""
    result = replayed([place(column=number) for number in range(10)])
    accepted = [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    latencies = [32 + 4 * number - tick + 1 for number, tick in enumerate(accepted)]
    assert result.mean_read_latency_s == pytest.approx(np.mean(latencies) * 1e-9)


def test_a_full_queue_admits_the_next_one_after_a_command_has_freed_an_entry():
    """One entry: ACT 1 frees it, so the second enters at 2 and leaves with RD 20; the third enters at 21, RD 24."""
    result = replayed([place(column=number) for number in range(3)], config=config_of(read_queue=1))
    assert done_ns(result) == {0: 32, 1: 36, 2: 40}
    assert result.mean_read_latency_s == pytest.approx(np.mean([32, 36 - 1, 40 - 20]) * 1e-9)


def test_a_memory_of_one_bank_holds_a_row_s_opener_and_its_hits():
    """ACT 1 for the read, the write 14, the read 14 + 15."""
    one = config_of(standard=replace(HBM2, bank_groups=1, banks_per_group=1))
    assert done_ns(replayed([0, 32], writes=[0, 1], config=one)) == {1: 14 + 7, 0: 29 + 16}


def test_a_read_that_waits_for_an_entry_enters_the_tick_after_the_read_that_frees_it():
    """One read entry, writes drained to the last: R0's ACT 1 lets R1 enter at 2; R1 leaves with RD 20, so at 20 only the write is
    queued and the channel turns: WR 20 + 13, and R2, which enters at 21, goes at 33 + 15.
    """
    config = config_of(read_queue=1, write_low_mark=0.0)
    result = replayed([place(column=number) for number in range(4)], writes=[0, 1, 0, 0], config=config)
    assert done_ns(result) == {0: 32, 2: 36, 1: 33 + 7, 3: 48 + 16}


def test_a_refresh_within_a_time_without_requests_is_not_counted_twice():
    """Refresh holds 1000 to 1378; the request comes at 1500: ACT 1500, RD 1515, so 15 are for the row."""
    config = config_of(standard=replace(HBM2, refi_cycles=1000), refresh="ab")
    result = replayed([place(), place(column=1)], at_ns=[1, 1500], config=config)
    assert waits_ns(result) == {"row_miss": 15 + 15, "refresh": 378, "no_request": 1500 - 18 - 378, "busy": 4, "pipeline": 15}


def test_a_write_waits_for_its_row_only_as_long_as_writes_must():
    """tRCDRD 40, one command bus: WR 14 and 18; at 30 another bank's ACT for two ticks, then the hit of tick 30, WR 32."""
    single = config_of(standard=replace(HBM2, command_bus="single", rcd_read_cycles=40))
    result = replayed([place(), place(group=1), place(group=2), place(column=1)], at_ns=[1, 1, 30, 30], writes=[1] * 4,
                      config=single)
    assert waits_ns(result)["command_bus"] == 2


def test_the_first_burst_waits_for_its_row_whatever_its_direction():
    """ACT 1, WR 14: nothing was there to turn round from."""
    assert waits_ns(replayed([place()], writes=[1])) == {"row_miss": 13, "busy": 2, "pipeline": 14 - 15}


def test_a_request_in_a_place_that_was_used_before_stays_the_last_of_its_bank():
    """The fourth takes the place of the first, whose read left at 16; then its two elders' row is opened, and a fifth comes behind it."""
    result = replayed([place(row=0), place(row=1), place(row=1, column=1), place(row=2), place(row=3)], at_ns=[1, 1, 1, 20, 70])
    assert list(done_ns(result)) == [0, 1, 2, 3, 4]
