"""The step of two pools in closed form, beside an event simulation of micro-batches, layers, pools and link."""

import heapq
import random

import pytest

from simkit.timing.pools import Side, pipelined_step_s


def simulated(pool, other, there, back, latency, micro_batches, layers, *, ends=0.0, stages=(1, 1), steps=1):
    """When every micro-batch has done each of its steps; resources take what comes first.

    A pool of ``stages`` is as many resources, each for its run of layers; ``ends`` are the first pool's.
    """
    route = [visit for layer in range(layers) for visit in (
        (("pool", layer * stages[0] // layers), pool, 0.0), ("there", there, latency),
        (("other", layer * stages[1] // layers), other, 0.0), ("back", back, latency))]
    route += [(("pool", stages[0] - 1), ends, 0.0)] if ends else []
    free, done = {}, [0.0] * steps
    waiting = [(0.0, number, 0) for number in range(micro_batches)]
    while waiting:
        now, number, place = heapq.heappop(waiting)
        step, at = divmod(place, len(route))
        resource, takes, after = route[at]
        free[resource] = max(now, free.get(resource, 0.0)) + takes
        if at + 1 == len(route):
            done[step] = max(done[step], free[resource] + after)
        if place + 1 < steps * len(route):
            heapq.heappush(waiting, (free[resource] + after, number, place + 1))
    return done


def drawn(seed, count):
    """Random times of both pools and of the link, a latency, micro-batches and layers."""
    rng = random.Random(seed)
    for _ in range(count):
        yield [rng.random()**3 for _ in range(4)], rng.random() * rng.choice([0, 1]), rng.randint(1, 9), rng.randint(1, 20)


def closed(times, latency, micro_batches, layers, *, ends=0.0, stages=(1, 1)):
    """The closed form of the same schedule."""
    shares = (*(1.0 / one for one in stages), 1.0, 1.0)
    sides = tuple(Side(layers_s=one * layers, busiest_share=share, ends_s=ends if number == 0 else 0.0)
                  for number, (one, share) in enumerate(zip(times, shares, strict=True)))
    return float(pipelined_step_s(sides, 2 * latency * layers, micro_batches, layers))


def test_every_schedule_of_equal_layers_takes_what_the_closed_form_says():
    for times, latency, micro_batches, layers in drawn(1, 400):
        assert closed(times, latency, micro_batches, layers) == pytest.approx(
            simulated(*times, latency, micro_batches, layers)[0], rel=1e-12)


def test_ends_of_a_step_are_never_underrated_and_overrated_by_a_tenth_at_most():
    for times, latency, micro_batches, layers in drawn(2, 200):
        found = closed(times, latency, micro_batches, layers + 4, ends=0.7)
        assert 0.85 * found <= simulated(*times, latency, micro_batches, layers + 4, ends=0.7)[0] <= found * (1 + 1e-12)


def test_stages_of_a_pool_that_stay_full_take_what_the_busiest_of_them_does():
    # From step to step: what twelve steps take in the long run, without the first ones.
    for times, latency, micro_batches, layers in drawn(3, 40):
        many = layers + 10
        done = simulated(*times, latency, micro_batches, many, stages=(1, many), steps=12)
        period = (done[-1] - done[5]) / 6
        assert 0.9 <= period / closed(times, latency, micro_batches, many, stages=(1, many)) <= 1.06


def test_a_full_pipeline_is_that_of_megascale_infer():
    # (T_a + T_f + 2 T_c) + T_f (m L - 1), arXiv 2504.02263, where T_f is the longest and m enough to hide the rest.
    assert closed((2.0, 3.0, 0.5, 0.5), 0.0, 4, 32) == pytest.approx(2.0 + 3.0 + 2 * 0.5 + 3.0 * (4 * 32 - 1))


def test_one_micro_batch_takes_the_sum_of_all_that_it_passes():
    assert closed((2.0, 3.0, 0.25, 0.5), 0.125, 1, 10, ends=7.0) == pytest.approx(10 * (2 + 3 + 0.75 + 0.25) + 7)
