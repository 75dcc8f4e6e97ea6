r"""The operators of one decode step, with exact flops and exact bytes per tensor, as one chip executes them.

Symbols: ``B`` sequences of a microbatch, ``q`` query tokens a sequence, ``D`` hidden size, ``n_q``/``n_kv`` heads,
``d`` head dim, ``N`` cached tokens read, ``F`` MLP width, ``V`` vocabulary, ``p`` chips that share a layer. Every
field may be an array; all arrays of a step broadcast together. Engines read operators and never redo this algebra.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from simkit.model.architecture import LayerGroup
from simkit.step.workload import DecodeWorkload

# What stands in the place of attention in a layer, in the order in which it runs.
ATTENTION_PARTS: Final = ("index_scores", "top_k", "attention", "convolution", "state_update")
# Work of the vector unit, in flops an element, counted from the formulas of each function.
NORM_FLOPS: Final = 5  # residual add, square, sum, scale, weight (RMSNorm)
GATE_FLOPS: Final = 4  # SiLU's division and product, gate product; its exponential is small beside the GEMMs
COPY_UNITS: Final = 20  # of the chip that exchange experts' rows: DeepEP's Buffer.num_sms, which SGLang and vLLM keep
SOFTMAX_FLOPS: Final = 4  # scale, running maximum, subtract, running sum; the exponential is counted apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather:
    """Rows that an index has chosen of each array: ``row_tokens`` entries in ``row_bytes``, ``stride_rows`` apart on
    average. ``share`` of what attention reads are such rows, the rest (the newest tokens) lies in a row.
    """

    row_tokens: int
    row_bytes: Any
    stride_rows: Any
    share: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTask:
    """What the attention operator reads, for engines that replay its access pattern. All parameters of one chip.

    ``tokens`` is the mean over the batch's lengths, ``length_factors`` the spread around it. Of a token and KV head
    ``cached_elements`` lie in ``arrays`` arrays; ``latent``: libraries have kernels of their own for such a cache. In
    memory the vectors of ``interleaved_heads`` heads lie side by side, and consecutive kept tokens ``stride_tokens``
    tokens apart. ``shared_reread_bytes`` of the operator's ``kv_reread_bytes`` are of arrays that KV heads share: each
    head's work items read them, beside the range that is theirs alone.
    """

    sequences: Any
    kv_heads: Any
    query_rows: Any
    tokens: Any
    key_dim: int
    value_dim: int
    latent: bool
    arrays: int
    cached_elements: Any
    bytes_per_token_head: Any
    kernel: str
    page: int
    length_factors: tuple[Any, ...]
    interleaved_heads: Any = 1
    stride_tokens: Any = 1.0
    shared_reread_bytes: Any = 0.0
    gather: Gather | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductTask:
    """``y[m, n] = x[m, k] w[k, n]``, ``batches`` of them in one launch, for chips whose products were measured.

    All of one chip; widths are fractions where a compiled machine cuts them so. ``weight_bytes`` and ``input_bytes``
    are those of one element as the matrix unit reads them. In a ``grouped`` product, of a mixture, ``m`` is the mean
    of rows that an expert gets, and ``routed_bytes`` are one copy of the hidden state for every choice of an expert.
    """

    m: Any
    n: Any
    k: Any
    batches: Any
    weight_bytes: float
    input_bytes: float
    grouped: bool = False
    routed_bytes: Any = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTask:
    """Causal attention of ``new_tokens`` after ``earlier_tokens`` a sequence, for chips whose kernels were measured.

    Each query sees at most ``window_tokens``; ``element_bytes`` are of queries, new keys, values and outputs.
    """

    sequences: Any
    query_heads: Any
    kv_heads: Any
    new_tokens: Any
    earlier_tokens: Any
    window_tokens: float
    key_dim: int
    value_dim: int
    element_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator as one chip runs it once; ``count`` is how often a step runs it.

    ``query_rows`` is the number of rows that share one streamed operand (matrix units pad it to their tile).
    Flops count a multiply-add as 2. Bytes are those that must move at least once, per tensor; ``kv_reread_bytes`` are
    further reads of cache bytes that this operator has already read, which a chip's cache may serve. ``unpack_flops``
    widen a quantised cache on the vector unit, unless the matrix unit multiplies ``cache_dtype`` as it is;
    ``widened_read_bytes`` and ``.._reread_..`` would be read if it were kept in 16 bits. ``sums`` are totals over the
    whole operand that the operator needs besides (a norm's square sums): messages where the operand is dealt out.
    ``layers``: the layers that it belongs to, where their attention is not that of the workload.
    """

    name: str
    count: int
    matrix_flops: Any = 0.0
    vector_flops: Any = 0.0
    unpack_flops: Any = 0.0
    widened_read_bytes: Any = 0.0
    widened_reread_bytes: Any = 0.0
    exponentials: Any = 0.0
    weight_bytes: Any = 0.0
    kv_read_bytes: Any = 0.0
    kv_reread_bytes: Any = 0.0
    kv_write_bytes: Any = 0.0
    activation_bytes: Any = 0.0
    query_rows: Any = 1
    sums: Any = 0
    dtype: str = "bf16"
    cache_dtype: str = ""
    launches: int = 1
    attention: AttentionTask | None = None
    product: ProductTask | None = None
    prompt: PromptTask | None = None
    layers: LayerGroup | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """One exchange between the chips of a layer (or the hop to the next stage), ``count`` times a step.

    ``bytes`` is what one chip contributes (all_reduce, all_gather) or sends away in all (all_to_all, send). Rows go to
    their experts and back by ``dispatch`` and ``combine``: ``bytes`` the busiest chip gets where each choice of a row
    travels by itself, ``merged_bytes`` where a row goes once to a chip, copied by ``copy_units`` units.
    ``within``: chips of the slice of which those that exchange are one group; None where they are all of them.
    """

    name: str
    kind: Literal["all_reduce", "all_gather", "all_to_all", "send", "dispatch", "combine"]
    count: Any
    bytes: Any
    chips: Any
    within: Any = None
    merged_bytes: Any = 0.0
    copy_units: Any = COPY_UNITS


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStep:
    """All operators of a step. ``layer_operators`` recur in each layer; ``end_operators`` run once."""

    workload: DecodeWorkload
    layer_operators: tuple[Operator, ...]
    end_operators: tuple[Operator, ...]
    collectives: tuple[Collective, ...]

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Every operator, layers first."""
        return self.layer_operators + self.end_operators

    @property
    def attention_operators(self) -> tuple[Operator, ...]:
        """The attention cores, one for each kind of layer."""
        return tuple(operator for operator in self.layer_operators if operator.attention is not None)


def gemm(workload: DecodeWorkload, name: str, count: int, width_in: Any, width_out: Any, *, batches: Any = 1,
         vector_flops: Any = 0.0) -> Operator:
    """``y[rows, out] = x[rows, in] w[in, out]``, ``batches`` of them in one launch.

    ``2 rows in out`` flops; weights once, activations in and out.
    """
    rows = workload.rows
    return Operator(
        name=name, count=count, matrix_flops=2.0 * rows * batches * width_in * width_out, vector_flops=vector_flops,
        weight_bytes=1.0 * batches * width_in * width_out * workload.weight_format.bytes_per_element,
        activation_bytes=rows * batches * (width_in + width_out) * workload.activation_bytes_per_element,
        query_rows=rows, dtype=workload.gemm_dtype,
        product=ProductTask(m=rows, n=width_out, k=width_in, batches=batches, input_bytes=workload.gemm_input_bytes,
                            weight_bytes=workload.weight_format.bytes_per_element))


def norm(workload: DecodeWorkload, count: int) -> Operator:
    """Residual add and RMSNorm: reads and writes the hidden state and the residual."""
    elements = workload.rows * workload.model.hidden_size
    return Operator(name="norm", count=count, vector_flops=1.0 * NORM_FLOPS * elements, sums=workload.rows,
                    activation_bytes=workload.model.residual_passes * elements * workload.activation_bytes_per_element)
