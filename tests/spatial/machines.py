"""Machines made of tiles for tests: shipped chips with a fabric put on them, and small even ones."""

from dataclasses import replace

from simkit.hardware.catalog import load_hardware
from simkit.hardware.fabric import Fabric, Tile, TileLink
from simkit.hardware.profile import HardwareProfile, Overheads
from simkit.model.architecture import LayerGroup, Mlp, ModelArchitecture
from simkit.spatial.messages import multicast_terms
from simkit.study.evaluate import Evaluated, evaluate_group

SLOW = {"start_cycles": 300.0, "tile": Tile(step_cycles=8.0, accumulates_in_memory=True, port_bytes_per_cycle=24.0),
        "link": TileLink(bytes_per_cycle=4.0, hop_cycles=1.0, add_cycles=10.0)}


def on_tiles(name: str, tiles: tuple[int, int], topology: str = "mesh", **fabric: object) -> HardwareProfile:
    """A shipped chip, ideal where its figures are unknown, without times that no roof explains, as tiles."""
    chip = load_hardware(name, assume="ideal")
    return replace(chip, overheads=Overheads(), kernel=None, sharding="tensor",
                   fabric=Fabric(tiles=tiles, topology=topology, clock_hz=1e9, **fabric))


def even_model(n_q_heads: int = 16, n_kv_heads: int = 4) -> ModelArchitecture:
    """Powers of two everywhere, so that its work deals out evenly over as many tiles."""
    return ModelArchitecture(
        name="even", title="even", hidden_size=2048, n_q_heads=n_q_heads, n_kv_heads=n_kv_heads, head_dim=128,
        layer_groups=(LayerGroup(count=4, window=None, moe=False),), mlp=Mlp(size=8192, gated=True), moe=None, mla=None,
        vocab_size=32768, tied_embeddings=True)


def timed(chip: HardwareProfile, model: ModelArchitecture, attention: str = "as-trained", *, engine: str = "spatial",
          batch: float = 1, kv_len: float = 4096, q_len: float = 1, **more: object) -> Evaluated:
    """One point, or several as lists, on one chip."""
    def column(value: object) -> list[float]:
        return list(value) if isinstance(value, (list, tuple)) else [value]

    columns = [column(value) for value in (batch, kv_len, q_len)]
    length = max(map(len, columns))
    batch_, kv_len_, q_len_ = (one * length if len(one) == 1 else one for one in columns)
    return evaluate_group(chip, model, attention, rivals=[attention], batch=batch_, kv_len=kv_len_, q_len=q_len_, chips=1,
                          engine=engine, baseline=False, **more)


def multicast_cycles(elements: float, tiles: float, element_bytes: float, fabric: Fabric) -> float:
    """Cycles of a message for many tiles."""
    before, each = multicast_terms(tiles, element_bytes, fabric)
    return float(before + each * elements)
