"""Hypothesis strategies over what ships: profiles, models, layouts and workloads."""

from dataclasses import replace

from hypothesis import strategies as st

from simkit.hardware.profile import HardwareProfile
from simkit.model.catalog import list_models
from tests.reference_data import shipped_chips

PROFILES = shipped_chips()
# A profile whose main memory has no sourced bandwidth cannot be simulated, and says so; laws need a number.
SIMULATED = [p for p in PROFILES.values() if all(level.bandwidth_bytes_per_s for level in p.homes("kv"))]
MODELS = {model.name: model for model in list_models()}
HEAD_MODELS = [model for model in MODELS.values() if model.mla is None]

hardware = st.sampled_from(SIMULATED)
head_models = st.sampled_from(HEAD_MODELS)
any_model = st.sampled_from(list(MODELS.values()))
batches = st.integers(1, 512)
kv_lens = st.integers(1, 200_000)
kv_dtypes = st.sampled_from(["bf16", "fp8", "int8", "int4", "int2"])


def divisors(number: int) -> list[int]:
    return [k for k in range(1, number + 1) if number % k == 0]


def unbounded(profile: HardwareProfile) -> HardwareProfile:
    """The same chip with room for anything: laws about time need no excuse about capacity."""
    return replace(profile, memory=tuple(
        replace(level, capacity_bytes=1e18) if level.holds else level for level in profile.memory))
