"""What a table of measurements leaves open, and the words of its columns in simkit's own: formats, software, lengths.

Nothing is guessed in silence: what stands here for an empty cell is named with every row that uses it, and where
nothing stands the row is not predicted.
"""

from __future__ import annotations

from functools import cache
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
# Weights and cache of software where a row states none: tt_transformers' performance mode, and what alone fits
# (gaudi-intel's batches); other tables print no precision, and 16 bits fit.
UNSTATED: Final = {"tt-": ("mixed bfp4/bfp8", "bfp8"), "Intel Gaudi software": ("fp8", "fp8"), "": ("bf16", "bf16")}
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
    """The element format of a cell; 16 bits where it is empty. Raises :class:`UserError` for words that are none."""
    word = name.strip().lower() or "bf16"
    if word.startswith(FP8_SCALES):
        return FORMATS["fp8"]
    if word in _BITS:
        return ElementFormat(name=word, bits=_BITS[word])
    if word in FORMATS:
        return FORMATS[word]
    raise UserError(f"no element format is called '{name[:40]}'")


def formats_of(row: MeasuredRow, model: ModelArchitecture) -> tuple[ElementFormat, ElementFormat, str]:
    """Formats of a row's weights and cache, and what of them is assumed. Raises :class:`UserError`."""
    weights, cache = next(words for software, words in UNSTATED.items() if row.software.startswith(software))
    assumed = [f"{what} in {word}" for what, stated, word in (
        ("weights", row.weight_dtype, weights), ("cache", row.kv_dtype, cache)) if not stated]
    return (weight_format(row.weight_dtype or weights, model), format_of(row.kv_dtype or cache), ", ".join(assumed))


def weight_format(name: str, model: ModelArchitecture) -> ElementFormat:
    """The format of a model's weights; of a mix of formats the one with the mean bits of what a step reads.

    ``bfp4 MLP + bfp8 attention weights``: the up and gate projections are bfp4, everything else bfp8;
    ``bfp8 MLP + bf16 attention weights`` likewise, with the down projection among the MLP's.
    """
    word = name.lower()
    if "mlp +" not in word and word != "mixed bfp4/bfp8":
        return format_of(name)
    narrow, wide = ("bfp8", "bf16") if word.startswith("bfp8") else ("bfp4", "bfp8")
    attention, mlp, ends = read_parameters(model)
    first = mlp * (2.0 / 3.0 if narrow == "bfp4" else 1.0)
    bits = {**_BITS, "bf16": 16.0}
    mean = (first * bits[narrow] + (mlp - first + ends) * bits["bfp8"] + attention * bits[wide]) / (
        attention + mlp + ends)
    return ElementFormat(name=word.replace(" ", "-"), bits=mean)


@cache
def read_parameters(model: ModelArchitecture) -> tuple[float, float, float]:
    """Weights that a step of one sequence multiplies: attention's, the MLPs', the output's."""
    layout = parse_layout("as-trained", model)
    return (sum(group.count * float(attention_parameters(model, layout)) for group in model.layer_groups),
            sum(group.count * float(mlp_parameters(model, group).active) for group in model.layer_groups),
            float(model.vocab_size * model.hidden_size))


# Prompt and output tokens of a request where a row gives none, from what its software's benchmark is known to ask.
LENGTHS: Final = {
    "llama.cpp": (0.0, 512.0, "generation starts from an empty cache: ggml-org/llama.cpp tools/llama-bench"),
    "JetStream": (161.0, 338.0, "ShareGPT's means: Kwon et al. 2023, arXiv 2309.06180, figure 11"),
    "optimum-habana": (16.0, 100.0, "a sentence: huggingface/optimum-habana examples/text-generation, default prompts"),
    "TGI, optimum-neuron": (1500.0, 245.0,
                            "huggingface/optimum-neuron benchmark/text-generation-inference/performance: its means"),
}


def lengths_assumed(row: MeasuredRow) -> bool:
    """Whether a row's lengths are what its software's benchmark is known to ask (:data:`LENGTHS`)."""
    return row.prompt_tokens is None and row.kv_len is None and row.software.startswith(tuple(LENGTHS))


def lengths_of(row: MeasuredRow) -> tuple[float, float | None, str]:
    """Prompt and output tokens of a row, and what of them is assumed. Raises :class:`UserError` where nothing says."""
    if row.prompt_tokens is not None:
        return row.prompt_tokens, row.output_tokens, ""
    known = next((one for software, one in LENGTHS.items() if row.software.startswith(software)), None)
    if known is None:
        raise UserError("neither prompt nor context is stated")
    prompt, output, source = known
    return prompt, row.output_tokens or output, f"prompt of {prompt:g} tokens ({source})"
