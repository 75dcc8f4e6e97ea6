r"""Messages between tiles of one chip, in cycles of the fabric.

``m`` elements of ``b`` bytes, ``k`` tiles, ``w`` a link's bytes a cycle, ``h`` cycles a hop, ``a`` of an addition on
the way, ``s`` before each phase. A message takes :math:`m b / w` to pass a link, and passes links one behind the other
(wormhole), so its length counts once for each time that a tile takes it in whole.

A sum over a line of ``k`` tiles is made in two levels: chains from both ends to the middle of :math:`\lceil k/g \rceil`
groups of :math:`g = \lceil\sqrt{k}\,\rceil`, then a chain over the groups' middles; then it goes back to all. With
``D`` additions one after another, ``H`` hops there and back, and a message taken in whole three times:

.. math:: T_{sum} = s + h H + a D + 3 m b / w, \quad D = \lfloor g/2 \rfloor + \lfloor \lceil k/g \rceil / 2 \rfloor

(the two-phase reduce of Luczynski et al., arXiv 2404.15888, where an addition takes :math:`2 T_R + 1` cycles; WaferLLM,
arXiv 2502.04563, uses the same tree). ``H`` is near ``k``, ``D`` near :math:`\sqrt{k}`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from simkit.hardware.fabric import BY_NEIGHBOURS, Fabric

PASSES_OF_A_SUM: Final = 3  # along the chains, over the groups, and back


def sum_terms(tiles: Any, element_bytes: float, fabric: Fabric) -> tuple[Any, Any]:
    r"""Sum of ``m`` elements that each of ``k`` tiles has a part of, known to all of them afterwards: cycles before any
    element, and of each; 0 for one tile.

    - mesh: as above; on a ring or torus both ways round, so as a line of half the tiles
    - exchange: parts are scattered, added and gathered, each after a barrier:
      :math:`2 \left( s + h + \frac{k-1}{k} m b / w \right) + a`
    - noc: a binary tree and a message back: :math:`s + \lceil \log_2 k \rceil (h + a + m b / w) + h + m b / w`
    - stream: values pass all tiles of a row and are added in flight: :math:`s + h k + m b / w`
    """
    k, link, start = np.asarray(tiles, dtype=float), fabric.link, fabric.phase_cycles
    before: Any
    passes: Any
    if fabric.topology == "exchange":
        before, passes = 2 * (start + link.hop_cycles) + link.add_cycles, 2 * (k - 1) / k
    elif fabric.topology == "noc":
        levels = np.ceil(np.log2(np.maximum(k, 1)))
        before, passes = start + levels * (link.hop_cycles + link.add_cycles) + link.hop_cycles, levels + 1
    elif fabric.topology == "stream":
        before, passes = start + link.hop_cycles * k, 1.0
    else:
        hops, additions = line_sum(k if fabric.topology == "mesh" else np.floor(k / 2) + 1)
        before, passes = start + link.hop_cycles * hops + link.add_cycles * additions, PASSES_OF_A_SUM
    return np.where(k > 1, before, 0.0), np.where(k > 1, passes * _pass_cycles(element_bytes, fabric), 0.0)


def sum_cycles(elements: Any, tiles: Any, element_bytes: float, fabric: Fabric) -> Any:
    """Cycles of :func:`sum_terms` for so many elements."""
    before, each = sum_terms(tiles, element_bytes, fabric)
    return before + each * elements


def line_sum(tiles: Any) -> tuple[Any, Any]:
    """Hops and additions that a sum over a line waits for, one after another.

    >>> hops, additions = line_sum(16.0)  # four groups of four, all to the third tile of the third group
    >>> float(hops), float(additions)
    (20.0, 4.0)
    """
    k = np.asarray(tiles, dtype=float)
    group = np.ceil(np.sqrt(k))
    to_middle, groups_to_middle = np.floor(group / 2), np.floor(np.ceil(k / group) / 2)
    middle = np.minimum(groups_to_middle * group + to_middle, k - 1)
    there = to_middle + groups_to_middle * group
    return there + np.maximum(middle, k - 1 - middle), to_middle + groups_to_middle


def sum_hop_bytes(elements: Any, tiles: Any, element_bytes: float, fabric: Fabric) -> Any:
    r"""Bytes times links that :func:`sum_cycles` takes them over; 0 for one tile.

    - by neighbours: every tile's part once to the next in its chain, the groups' sums from middle to middle, and back:
      :math:`(k - \lceil k/g \rceil + g (\lceil k/g \rceil - 1) + k - 1) m b`
    - exchange, noc: all parts but one are sent, and all but one tile are told: :math:`2 (k - 1) m b`
    - stream: past all tiles of a row, :math:`k m b`
    """
    k = np.asarray(tiles, dtype=float)
    group = np.ceil(np.sqrt(k))
    groups = np.ceil(k / group)
    links = k - groups + group * (groups - 1) + k - 1 if fabric.topology in BY_NEIGHBOURS else 2 * (k - 1)
    return np.where(k > 1, k if fabric.topology == "stream" else links, 0.0) * elements * element_bytes


def multicast_hop_bytes(elements: Any, tiles: Any, element_bytes: float, fabric: Fabric) -> Any:
    """Bytes times links that :func:`multicast_terms` takes them over: all ``k`` of a line, without multicast each from
    its start; 0 for one tile.
    """
    k = np.asarray(tiles, dtype=float)
    links = k if fabric.link.multicast or fabric.topology not in BY_NEIGHBOURS else k * (k + 1) / 2
    return np.where(k > 1, links, 0.0) * elements * element_bytes


def multicast_terms(tiles: Any, element_bytes: float, fabric: Fabric) -> tuple[Any, Any]:
    r"""``m`` elements of one tile to ``k`` others, the farthest ``k`` hops away: :math:`h k + m b / w`, without
    multicast ``k`` times the length; 0 for one tile. As :func:`sum_terms`.
    """
    k = np.asarray(tiles, dtype=float)
    hops = k if fabric.topology in BY_NEIGHBOURS else np.minimum(k, 1.0)
    copies = 1.0 if fabric.link.multicast else k
    return (np.where(k > 1, fabric.link.hop_cycles * hops, 0.0),
            np.where(k > 1, copies * _pass_cycles(element_bytes, fabric), 0.0))


def shift_cycles(elements: Any, hops: Any, element_bytes: float, fabric: Fabric) -> Any:
    r"""``m`` elements of each tile of a line to the tile so many hops on across it: :math:`h k + m b / w`."""
    return fabric.link.hop_cycles * hops + elements * _pass_cycles(element_bytes, fabric)


def _pass_cycles(element_bytes: float, fabric: Fabric) -> Any:
    """Cycles in which an element passes one link."""
    rate = fabric.link.bytes_per_cycle
    return 0.0 if rate is None else element_bytes / rate
