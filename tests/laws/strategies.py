"""Hypothesis strategies over what ships: profiles, models, layouts and workloads, and small synthetic models."""

from dataclasses import replace

from hypothesis import strategies as st

from simkit.hardware.profile import HardwareProfile
from simkit.model.architecture import LayerGroup, Mlp, ModelArchitecture
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


@st.composite
def small_models(draw: st.DrawFn) -> ModelArchitecture:
    """A decoder of a few layers, so that a NumPy reference can execute it."""
    n_q_heads = draw(st.sampled_from([1, 2, 4, 6, 8, 12]))
    n_kv_heads = draw(st.sampled_from([k for k in range(1, n_q_heads + 1) if n_q_heads % k == 0]))
    windows = draw(st.lists(st.sampled_from([None, 3, 16]), min_size=1, max_size=3, unique=True))
    groups = tuple(LayerGroup(count=draw(st.integers(1, 3)), window=w, moe=False) for w in windows)
    return ModelArchitecture(
        name="small", title="small", hidden_size=draw(st.sampled_from([8, 24])), n_q_heads=n_q_heads,
        n_kv_heads=n_kv_heads, head_dim=draw(st.sampled_from([2, 4, 8])), layer_groups=groups,
        mlp=Mlp(size=16, gated=True), moe=None, mla=None, vocab_size=32, tied_embeddings=False)


def divisors(number: int) -> list[int]:
    return [k for k in range(1, number + 1) if number % k == 0]


def unbounded(profile: HardwareProfile) -> HardwareProfile:
    """The same chip with room for anything: laws about time need no excuse about capacity."""
    return replace(profile, memory=tuple(
        replace(level, capacity_bytes=1e18) if level.holds else level for level in profile.memory))
