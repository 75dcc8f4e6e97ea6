"""Every shipped architecture: loads, says where it comes from, and agrees with the reference and the papers."""

from pathlib import Path

import pytest
import yaml

from simkit.foundation.errors import UserError
from simkit.foundation.yaml_source import parse_yaml
from simkit.model.attention import parse_layout
from simkit.model.catalog import list_models, load_model
from simkit.model.schema import model_from_yaml
from tests.reference_data import REPOSITORY, reference_path

FOLDER = REPOSITORY / "workloads" / "models"
FILES = sorted(FOLDER.glob("*.yaml"))
# Names that other parts of simkit, its studies and its documentation rely on.
PROMISED = {
    "llama-2-7b", "llama-2-13b", "llama-2-70b", "llama-3-8b", "llama-3-70b", "llama-3.1-405b", "mistral-7b",
    "falcon-7b", "gpt-3-175b", "palm-540b", "qwen3-32b",
}
# The reference's names where ours differ by more than a dash.
REFERENCE_NAMES = {
    "mistral-7b-v0.1": "mistral-7b", "phi3-mini-4k": "phi-3-mini-4k", "phi3-medium": "phi-3-medium-4k",
    "t5.1.1-large": "t5-v1.1-large", "t5.1.1-xxl": "t5-v1.1-xxl", "shazeer-wmt14": "shazeer-2019-wmt14",
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_model_loads_and_is_named_as_its_file(file: Path) -> None:
    assert load_model(file).name == file.stem


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_model_names_a_source_that_a_reader_can_open(file: Path) -> None:
    source = load_model(file).source or ""
    assert "arXiv" in source or "odel card" in source or "announcement" in source


def test_the_promised_names_are_there() -> None:
    assert {model.name for model in list_models()} >= PROMISED


def ours(name: str) -> str:
    if name in REFERENCE_NAMES:
        return REFERENCE_NAMES[name]
    for family in ("llama", "gemma", "gpt", "phi"):
        if name.startswith(family) and name[len(family)].isdigit():
            return f"{family}-{name[len(family):]}"
    return name


def test_every_architecture_of_the_reference_is_in_the_catalogue_with_the_same_dimensions() -> None:
    reference = yaml.safe_load(reference_path("models.yaml").read_text(encoding="utf-8"))
    differing = []
    for name, entry in reference.items():
        model = load_model(ours(name))
        seen = {
            "layers": model.n_layers, "hidden": model.hidden_size, "q_heads": model.n_q_heads,
            "kv_heads": model.n_kv_heads, "head_dim": model.head_dim, "vocab": model.vocab_size,
            "layers_dec": model.n_layers, "layers_enc": model.encoder_layers,
            "global_layers": sum(group.count for group in model.layer_groups if group.window is None),
        }
        expected = {key: entry[key] for key in seen if key in entry}
        differing += [
            f"{name}: {key} is {seen[key]}, reference {value}" for key, value in expected.items() if seen[key] != value
        ]
        # The reference lists Phi-3 medium without the window that its 4K config.json has.
        if "sliding_window" in entry:
            windows = {group.window for group in model.layer_groups} - {None}
            assert windows == {entry["sliding_window"]}, name
    assert not differing, "\n".join(differing)


def test_cached_elements_per_token_agree_with_the_reference() -> None:
    reference = yaml.safe_load(reference_path("models.yaml").read_text(encoding="utf-8"))
    for name, entry in reference.items():
        if "kv_elems_per_token" in entry:
            model = load_model(ours(name))
            layout = parse_layout("as-trained", model)
            elements = model.n_layers * layout.elements_per_token
            assert elements == entry["kv_elems_per_token"], name


def test_opt_13b_caches_800_kib_a_token() -> None:
    """Kwon et al. 2023 (vLLM, arXiv 2309.06180), section 3: 2 x 5120 x 40 x 2 bytes = 800 KB a token in fp16."""
    model = load_model("opt-13b")
    layout = parse_layout("as-trained", model)
    assert model.n_layers * layout.elements_per_token * 2 == 800 * 1024


def test_deepseek_v2_caches_93_3_percent_less_than_deepseek_67b() -> None:
    """DeepSeek-V2 (arXiv 2405.04434), abstract and section 3.2.3: its cache is quantised to 6 bits on average."""
    elements = {}
    for name in ("deepseek-v2", "deepseek-67b"):
        model = load_model(name)
        layout = parse_layout("as-trained", model)
        elements[name] = model.n_layers * layout.elements_per_token
    reduction = 1 - elements["deepseek-v2"] * 6 / (elements["deepseek-67b"] * 16)
    assert reduction == pytest.approx(0.933, abs=0.0005)
    assert 1 - elements["deepseek-v2"] / elements["deepseek-67b"] == pytest.approx(0.822, abs=0.0005)


@pytest.mark.parametrize(
    ("name", "kv_heads"),
    [("llama-2-70b", 8), ("llama-3-8b", 8), ("mistral-7b", 8), ("palm-540b", 1), ("falcon-7b", 1), ("falcon-40b", 8),
     ("falcon-180b", 8), ("llama-2-7b", 32), ("gpt-3-175b", 96)],
)
def test_who_adopted_what(name: str, kv_heads: int) -> None:
    """Llama 2 70B, Llama 3, Mistral and the larger Falcons are GQA-8; of the Falcons only 7B is MQA, as is PaLM."""
    assert load_model(name).n_kv_heads == kv_heads


def document(**changes: object) -> str:
    base: dict[str, object] = {
        "schema_version": 1, "name": "t", "title": "T", "layers": 2, "hidden_size": 64, "vocab_size": 100,
        "attention": {"n_q_heads": 4, "n_kv_heads": 4, "head_dim": 16, "cross_attention": True},
        "mlp": {"size": 128, "gated": True}, "encoder_layers": 2,
    }
    return yaml.safe_dump({key: value for key, value in (base | changes).items() if value is not None})


def test_an_encoder_that_nothing_reads_is_refused() -> None:
    text = document(attention={"n_q_heads": 4, "n_kv_heads": 4, "head_dim": 16})
    with pytest.raises(UserError, match=r"encoder_layers needs attention\.cross_attention: true"):
        model_from_yaml(parse_yaml(text, file="t.yaml"))


def test_an_encoder_beside_experts_alone_is_refused() -> None:
    text = document(mlp=None, moe={"experts": 4, "top_k": 2, "expert_size": 32})
    with pytest.raises(UserError, match="expected mlp and no mla"):
        model_from_yaml(parse_yaml(text, file="t.yaml"))


def test_an_encoder_decoder_document_is_read() -> None:
    model = model_from_yaml(parse_yaml(document(), file="t.yaml"))
    assert (model.encoder_layers, model.cross_attention) == (2, True)
