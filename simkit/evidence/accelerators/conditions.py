"""What a table of measurements leaves open, and the words of its columns in simkit's own: formats, software, lengths.

Nothing is guessed in silence: what stands here for an empty cell is named with every row that uses it, and where
nothing stands the row is not predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simkit.evidence.accelerators.table import MeasuredRow
from simkit.foundation.errors import UserError
from simkit.model.architecture import ModelArchitecture, attention_parameters, mlp_parameters
from simkit.model.attention import parse_layout
from simkit.model.catalog import load_model
from simkit.model.kv_cache import FORMATS, ElementFormat

# Bits of a stored element with its scales. Tenstorrent's block formats share 8 bits of exponent among 16 elements
# (tenstorrent/tt-metal tech_reports/data_formats); llama.cpp's q4_0 and Q4_K_M by its own table (examples/quantize).
_BITS: Final = {"bfp8": 8.5, "bfp4": 4.5, "q8_0": 8.5, "q4_0": 4.5, "q4_k_m": 4.85}
FP8_SCALES: Final = "fp8 blockscale"
# Precision by software that states none: argonne and others print none and 16 bits fit, tt-metal caches in bfp8.
_UNSTATED: Final = "bf16"


# Published names of models whose dimensions the catalogue has under another: chat versions, later training.
SAME_DIMENSIONS: Final = {
    "baichuan2-7b-chat": "baichuan2-7b", "baichuan2-13b-chat": "baichuan2-13b", "bloomz": "bloom-176b",
    "bloomz-7b1": "bloom-7b1", "chatglm3-6b": "chatglm2-6b", "codellama-13b-hf": "llama-2-13b",
    "persimmon-8b-base": "persimmon-8b", "phi-3.5-mini": "phi-3-mini-128k", "qwen2.5-coder-32b": "qwen2.5-32b",
    "qwq-32b": "qwen2.5-32b"}


def model_of(name: str) -> ModelArchitecture:
    """The catalogue's model that a table calls so. Raises :class:`UserError`."""
    return load_model(SAME_DIMENSIONS.get(name, name))


def format_of(name: str) -> ElementFormat:
    """The element format of a cell. Raises :class:`UserError` for words that are none."""
    word = name.strip().lower() or _UNSTATED
    if word.startswith(FP8_SCALES):
        return FORMATS["fp8"]
    if word in _BITS:
        return ElementFormat(name=word, bits=_BITS[word])
    if word in FORMATS:
        return FORMATS[word]
    raise UserError(f"no element format is called '{name[:40]}'")


def weight_format(name: str, model: ModelArchitecture) -> ElementFormat:
    """The format of a model's weights; of a mix of formats the one with the mean bits of what a step reads.

    ``bfp4 MLP + bfp8 attention weights``: the up and gate projections are bfp4, everything else bfp8;
    ``bfp8 MLP + bf16 attention weights`` likewise, with the down projection among the MLP's.
    """
    word = name.lower()
    if "mlp +" not in word and word != "mixed bfp4/bfp8":
        return format_of(name)
    narrow, wide = ("bfp8", "bf16") if word.startswith("bfp8") else ("bfp4", "bfp8")
    layout = parse_layout("as-trained", model)
    attention = mlp = 0.0
    for group in model.layer_groups:
        attention += group.count * attention_parameters(model, layout)
        mlp += group.count * mlp_parameters(model, group).active
    ends = model.vocab_size * model.hidden_size
    first = mlp * (2.0 / 3.0 if narrow == "bfp4" else 1.0)
    bits = {**_BITS, "bf16": 16.0}
    mean = (first * bits[narrow] + (mlp - first + ends) * bits["bfp8"] + attention * bits[wide]) / (
        attention + mlp + ends)
    return ElementFormat(name=word.replace(" ", "-"), bits=mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of a request where a row gives none, from what its software's benchmark is known to ask."""

    software: str
    prompt_tokens: float
    output_tokens: float
    source: str


LENGTHS: Final = (
    Lengths(software="llama.cpp", prompt_tokens=0.0, output_tokens=512.0,
            source="generation starts from an empty cache: ggml-org/llama.cpp tools/llama-bench"),
    Lengths(software="JetStream", prompt_tokens=161.0, output_tokens=338.0,
            source="ShareGPT's means: Kwon et al. 2023, arXiv 2309.06180, figure 11"),
    Lengths(software="optimum-habana", prompt_tokens=16.0, output_tokens=100.0,
            source="a sentence: huggingface/optimum-habana examples/text-generation, its default prompts"),
    Lengths(software="TGI, optimum-neuron", prompt_tokens=1500.0, output_tokens=245.0,
            source="huggingface/optimum-neuron benchmark/text-generation-inference/performance: its means"),
)


def lengths_of(row: MeasuredRow) -> tuple[float, float | None, str]:
    """Prompt and output tokens of a row, and what of them is assumed. Raises :class:`UserError` where nothing says."""
    if row.prompt_tokens is not None:
        return row.prompt_tokens, row.output_tokens, ""
    known = next((one for one in LENGTHS if row.software.startswith(one.software)), None)
    if known is None:
        raise UserError("neither prompt nor context is stated")
    return (known.prompt_tokens, row.output_tokens or known.output_tokens,
            f"prompt of {known.prompt_tokens:g} tokens ({known.source})")
