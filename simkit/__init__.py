"""simkit: a hardware-target simulator and roofline modeler for LLM decode.

Everything that the command line does is here too::

    import simkit
    result = simkit.simulate("h100-sxm", "llama-2-70b", attention=["mha", "gqa-8"], batch=[1, 32], kv_len=4096)
    result.to_dataframe()

``dir(simkit)`` lists what there is, and docs/howto.md which command calls what.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
RECORDS_VERSION = 4
"""Version of the records that ``--format json`` prints: docs/records.schema.json has their keys and types."""

if TYPE_CHECKING:
    from simkit.errors import UserError
    from simkit.hardware.catalog import load_hardware
    from simkit.model.catalog import load_model
    from simkit.study.point import decode_step
    from simkit.study.simulate import simulate

_HOMES = {
    # describe
    "UserError": "simkit.errors",
    "load_hardware": "simkit.hardware.catalog",
    "list_hardware": "simkit.hardware.catalog",
    "load_model": "simkit.model.catalog",
    "list_models": "simkit.model.catalog",
    "profile_summaries": "simkit.hardware.summary:summaries",
    "profile_parameters": "simkit.hardware.summary:parameter_records",
    "profile_json_schema": "simkit.hardware.json_schema",
    "check_profile": "simkit.hardware.lint",
    "compare_profiles": "simkit.study.compare_profiles",
    "copy_profile": "simkit.hardware.authoring",
    "ask_profile": "simkit.hardware.questions",
    "model_summaries": "simkit.study.model_summary:summaries",
    "model_parameters": "simkit.study.model_summary:parameter_records",
    "import_config": "simkit.model.import_config",
    "convert_checkpoint": "simkit.model.convert",
    "uptrain": "simkit.study.model_summary",
    "calibrate": "simkit.evidence.silicon.calibrate",
    "calibrated_text": "simkit.evidence.silicon.calibrated_profile",
    "measure_host": "simkit.evidence.host.measure",
    # ask
    "decode_step": "simkit.study.point",
    "simulate": "simkit.study.simulate",
    "time_attention": "simkit.study.single_kernel",
    "capacities": "simkit.study.capacity",
    "crossover": "simkit.study.crossover",
    "stack": "simkit.study.stacking",
    "split_records": "simkit.study.split",
    "Load": "simkit.serving.ask",
    "load_of": "simkit.serving.words",
    "policy_of": "simkit.serving.words",
    "ask": "simkit.serving.ask",
    "PrefillPool": "simkit.serving.ask",
    "Question": "simkit.serving.plan",
    "plan": "simkit.serving.plan",
    "plan_apart": "simkit.serving.plan_apart",
    "FeedForwardPool": "simkit.serving.plan_pooled",
    "plan_pooled": "simkit.serving.plan_pooled",
    "plan_records": "simkit.serving.plan_record",
    "front": "simkit.serving.front",
    "DesignSpace": "simkit.study.designs",
    "Grid": "simkit.study.grid",
    "best_designs": "simkit.study.design_answers",
    "elasticities": "simkit.study.design_answers",
    "nearest_chips": "simkit.study.design_answers",
    "checked_dies": "simkit.hardware.silicon",
    "load_study": "simkit.study.study_file",
    "run_sweep": "simkit.sweep.sweep_run",
    # draw
    "build_report": "simkit.report.build",
    "draw": "simkit.report.figures.registry",
    "drawn_figure": "simkit.report.figures.registry",
    "draw_hierarchy": "simkit.report.figures.memory_hierarchy",
    "draw_designs": "simkit.report.figures.design_map",
    "draw_front": "simkit.report.figures.plan_front",
    "residual_figure": "simkit.report.figures.residuals",
    "step_timeline": "simkit.study.step_timeline",
    # check
    "read_claims": "simkit.claims.tested_claims",
    "judge_claims": "simkit.claims.tested_claims",
    "compare_accelerators": "simkit.evidence.accelerators.compare:compare_rows",
    "compare_dram": "simkit.evidence.dram:compare",
    "compare_host": "simkit.evidence.host.compare:compare",
    "compare_published": "simkit.evidence.published:compare",
    "compare_serving": "simkit.evidence.served_models:compare",
    "compare_silicon": "simkit.evidence.silicon.compare:compare_systems",
    "score_forecasts": "simkit.evidence.accelerators.forecasts:score",
    "transfer": "simkit.evidence.silicon.transfer",
}
"""Where each public name is at home, as ``module`` or ``module:name``; loaded on first use."""

__all__ = ["RECORDS_VERSION", "UserError", "__version__", "decode_step", "load_hardware", "load_model", "simulate"]


def __getattr__(name: str) -> Any:
    """Load public functions on first use: ``import simkit`` alone stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'simkit' has no attribute '{name}'")
    module, _, function = _HOMES[name].partition(":")
    return getattr(import_module(module), function or name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_HOMES})
