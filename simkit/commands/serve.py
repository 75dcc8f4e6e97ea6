"""``simkit serve``: a request stream through replicas, and what users and owners get."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from simkit.commands import options, serving_options
from simkit.commands.options import Destination, Profiles
from simkit.commands.pools import loaded_pools, pools
from simkit.foundation.errors import Location, UserError, shorten

if TYPE_CHECKING:
    from simkit.hardware.profile import HardwareProfile
    from simkit.serving.ask import Answer, PrefillPool

KEPT_FOR_TIMELINE: Final = 20_000
_TABLE: Final = {
    "hardware": 0, "ffn_hardware": 0, "chips": 3, "ffn_chips": 3, "replicas": 6, "kv_dtype": 2, "attention": 0,
    "offered_requests_per_s": 0,
    "tokens_per_s": 0, "goodput_requests_per_s": 1, "slo_attainment": 1, "ttft_p50_s": 2, "ttft_p99_s": 0,
    "tpot_p50_s": 2, "tpot_p99_s": 0, "latency_p50_s": 5, "mean_batch": 1, "max_batch": 6, "mean_kv_occupancy": 1,
    "preemptions": 2, "prefix_hit_rate": 1, "prefill_replicas": 1, "refused": 6, "tokens_per_j": 7,
    "cost_usd_per_mtok": 3,
}
_LIFTABLE: Final = ("hardware", "chips", "replicas", "kv_dtype", "attention", "offered_requests_per_s", "refused")


@click.command()
@options.hardware()
@options.model()
@options.attention("as-trained")
@options.names("--kv-dtype", default="bf16", help="KV cache formats: bf16, fp8, int8, int4 ...")
@options.weight_dtype
@options.chips_list
@click.option("--replicas", default="1", show_default=True, metavar="N|fit",
              help="Copies that share the requests; fit: the fewest that meet the objective.")
@click.option("--find-max-rate", is_flag=True, help="Search the largest rate that meets the objective.")
@click.option("--concurrency", type=options.Whole(min=1, max=65536), default=None,
              help="Closed loop with N clients of each copy (of all, with --replicas fit), instead of --rate.")
@click.option("--ep", type=options.Whole(min=1), default=1, show_default=True,
              help="Chips that hold different experts.")
@click.option("--expert-load", default="uniform", show_default=True, metavar="TEXT",
              help="How often rows choose each expert: uniform, zipf:S, or a file of counts.")
@serving_options.apart_options
@pools
@serving_options.load_options
@serving_options.scheduler_options
@options.engine
@options.profiles
@options.form
@click.option("-o", "--output", metavar="DIR", default=None, help="Also write records and figures to a new folder.")
@click.option("--trace-out", "--timeline-out", "trace_out", cls=options.Renamed, default=None, metavar="FILE",
              help="A timeline for Perfetto, of the first result.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
def serve(*, hardware: list[str], model: list[str], attention: list[str], kv_dtype: list[str], weight_dtype: str,
          chips: list[str | int], tp: int | None, pp: int | None, replicas: str, engine: str, profiles: Profiles,
          form: str | None, output: str | None, trace_out: str | None, force: bool, page: int, find_max_rate: bool,
          attainment_fraction: float, requests: int | None, prefill: str | None, **words: Any) -> None:
    """Play requests through a model on its chips: continuous batching over a paged KV cache.

    Requests wait first come, first served for free blocks; prompts are cut into chunks that run beside decoding;
    when blocks run out the youngest sequence gives its own back. Times come from the engine, through a grid whose
    error is printed. --runtime adds what measured serving software adds. With --prefill, prompts run on other chips
    and their caches are moved.

    \b
    simkit serve -H h100-sxm -M llama-3.1-70b -A mha,gqa-8 --chips 8 --rate 1..16*2 --slo-ttft 2 --slo-tpot 0.05
    simkit serve -H h100-sxm,groq-lpu -M llama-2-70b -A mha,gqa-8,mqa --slo-tpot 50ms --slo-ttft 2s --find-max-rate
    simkit serve -H h100-sxm -M llama-3.1-70b -A gqa-8 --chips 8 --rate 50 --replicas fit --slo-ttft 1s --slo-tpot 30ms
    simkit serve -H h100-sxm:8 --prefill b200-sxm:8 --kv-link 400GB/s,5us -M llama-3.1-70b -A mha,gqa-8 --rate 4
    simkit serve -H h100-sxm:8 --ffn groq-3-lpu:160 --between 400GB/s,2us -M llama-2-70b -A mha,mqa --rate 1
    """
    from simkit.commands.emit import emit, from_fields
    from simkit.foundation.output import check_target

    if len(model) != 1:
        raise UserError(f"-M: serving takes one model, and {len(model)} are named", hint="name one")
    if trace_out:
        check_target(trace_out, force=force)
    folder = _folder(output, force=force)
    load = serving_options.load_of(
        words, requests=requests, without_rate=None if find_max_rate else ", --concurrency N or --find-max-rate")
    policy = serving_options.policy_of(words)
    from simkit.model.catalog import load_model
    from simkit.serving.ask import ask
    from simkit.serving.record import APART_FIELDS, SERVING_FIELDS, serving_record

    for one in chips:
        options.refuse_fit_each(one)
    hardware, second, chips = loaded_pools(profiles, hardware, words["ffn"], chips)
    hardware, pool, chips = _prompts(profiles, hardware, prefill, chips, words)
    chips_of = profiles.every(hardware)
    answers = ask(
        chips_of, load_model(model[0]), attention, kv_dtype, load=load,
        policy=policy, page_tokens=page, chips=chips, tp=tp, pp=pp,
        scenario={"weight_dtype": weight_dtype, "ffn": second, **{name: words[name] for name in (
            "speculation", "ep", "expert_load", "attention_sharding", "between", "with_attention", "micro_batches")}},
        replicas=_replicas(replicas, "--replicas"), engine=engine, attainment_fraction=attainment_fraction,
        max_rate=find_max_rate, keep_events=KEPT_FOR_TIMELINE if trace_out else 0, requests=requests or 2000,
        prefill=pool)
    _warn(answers, searched=find_max_rate)
    _tell_assumed_prompts([*chips_of, *([pool.hardware] if pool else [])])
    records = [serving_record(answer.record) for answer in answers]
    emit(records, Destination(form=form or "table", output=None, force=force),
         from_fields(_TABLE, _LIFTABLE, records, {**SERVING_FIELDS, **APART_FIELDS}), footer=_footer(records))
    if folder is not None:
        _write(folder, answers, records)
    if trace_out:
        _write_timeline(trace_out, answers[0], force=force)


def _prompts(profiles: Profiles, hardware: list[str], prefill: str | None, chips: list[str | int],
             words: dict[str, Any]) -> tuple[list[str], PrefillPool | None, list[str | int]]:
    """Names of ``-H``, the pool of ``--prefill``, and the chips of a replica of ``-H``."""
    from simkit.serving.ask import PrefillPool, parse_losses

    serving_options.check_link(prefill, words["kv_link"])
    lost = parse_losses(words["losses"]).get("prefill")
    if prefill is None:
        if lost is not None:
            raise UserError("--lose prefill goes with --prefill, a pool of chips for prompts")
        return hardware, None, chips
    names, (chip, count), own = loaded_pools(profiles, hardware, prefill, chips)
    return names, PrefillPool(hardware=chip, chips=count or "fit", link=words["kv_link"], moved=words["kv_move"],
                              **({} if lost is None else {"lost": lost}),
                              replicas=_replicas(words["prefill_replicas"], "--prefill-replicas")), own


def _replicas(text: str, what: str) -> int | None:
    """A number from 1 to 10,000, or None for ``fit``."""
    if text == "fit":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 10_000):
        raise UserError(f"{what} '{text[:20]}': expected a whole number from 1 to 10,000, or fit")
    return int(text)


def _warn(answers: list[Answer], *, searched: bool) -> None:
    from simkit.commands.console import warn

    for answer in answers:
        record = answer.served.record
        what = f"{record['hardware']}, {record['attention']}, {record['kv_dtype']} cache"
        if answer.served.first_refused is not None:
            place, tokens = answer.served.first_refused
            warn(f"{what}: {record['refused']:,} of {record['requests']:,} requests refused: their cache never fits in "
                 f"{record['kv_blocks']:,} blocks of {record['block_tokens']} tokens a layer{_other_pool(record)}; the "
                 f"first is request "
                 f"{place + 1:,} of its replica, with {tokens:,} tokens")
        if record["lost"]:
            warn(f"{what}: {record['lost']:,} of {record['requests']:,} requests were lost with replicas that "
                 "held them, or for which they waited (--lose)")
        if record["grid_max_error"] > 0.02:
            warn(f"{what}: an iteration read from the grid is up to {record['grid_max_error']:.1%} off "
                 f"({record['grid_mean_error']:.2%} on average)")
        if searched and answer.offered_requests_per_s is None:
            warn(f"{what}: no rate meets the objective")


def _tell_assumed_prompts(chips: list[HardwareProfile]) -> None:
    """Of which chips nobody measured how they run a prompt's attention, and what is taken."""
    from simkit.commands.console import warn
    from simkit.hardware.priors import OF_PROMPTS

    for chip in {chip.name: chip for chip in chips}.values():
        stated = chip.provenance.get(OF_PROMPTS)
        if stated and stated.confidence == "assumed" and not chip.kernel:
            warn(f"{chip.name}: nobody measured a prompt's attention on it: it is taken at "
                 f"{chip.compute.prompt_fraction:.2g} of its highest roof, {stated.note} (--set {OF_PROMPTS}=0.5)")


def _other_pool(record: dict[str, Any]) -> str:
    blocks = record.get("prefill_kv_blocks")
    return "" if blocks is None else f" of the decode pool, or {blocks:,} of the prefill pool"


def _footer(records: list[dict[str, Any]]) -> str:
    """Grid error, runtime, and where the time went."""
    from simkit.serving.record import SHARES

    worst = max(record["grid_max_error"] for record in records)
    mean = max(record["grid_mean_error"] for record in records)
    lines = [f"runtime {records[0]['runtime']}; step times read from a grid, off by {mean:.2%} on average and "
             f"{worst:.2%} at most; quantiles to 0.5 %"]
    for record in records[:12]:
        parts = ", ".join(f"{name.removesuffix('_share').replace('_', ' ')} {record[name]:.0%}"
                          for name in SHARES if (record[name] or 0) >= 0.005)
        lines.append(f"{record['hardware']} {record['attention']} {record['kv_dtype']}: {parts}")
        if "between" in record:
            lines.append(f"  {record['attention_pool_does']} on {record['chips'] // record['replicas']} "
                         f"{record['hardware']}, the rest on {record['ffn_chips'] // record['replicas']} "
                         f"{record['ffn_hardware']} a replica, joined by {record['between']}")
        if "kv_link" in record:
            lines.append(
                f"  prefill on {record['prefill_replicas']} x {record['prefill_chips'] // record['prefill_replicas']} "
                f"{record['prefill_hardware']}, busy {record['prefill_busy_share'] or 0:.0%}; decode busy "
                f"{record['decode_busy_share'] or 0:.0%}; {record['n_kv_heads']} KV heads: "
                f"{record['kv_bytes_per_token'] / 1e3:,.6g} kB of a token move over {record['kv_link']} "
                f"({record['kv_moved']}), {record['handover_mean_s'] or 0:.3g} s from a prompt's end to its place")
        if "prefix_hit_rate" in record:
            lines.append(f"  {record['prefix_hit_rate']:.1%} of prompt tokens met in cache, "
                         f"{record['prefix_loaded_share']:.1%} loaded from {record['kv_tiers'] or 'no tier'}; memory "
                         f"has room for {record['prefix_room_tokens']:,} tokens")
    return "\n".join(lines)


def _folder(output: str | None, *, force: bool) -> Path | None:
    if output is None:
        return None
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{output}: exists and is not a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise UserError(f"{output}: exists already; give --force to write into it")
    return folder


def _write(folder: Path, answers: list[Answer], records: list[dict[str, Any]]) -> None:
    """Records and figures of a served question."""
    from simkit.foundation.output import csv_text, json_text
    from simkit.foundation.output_folder import move_files, settled, staged_folder
    from simkit.report.drawing.export import save_figure
    from simkit.report.drawing.style import house_style
    from simkit.report.figures.serving_figures import draw_serving

    try:
        with staged_folder(folder) as staging:
            texts = {"serving.csv": csv_text(records), "serving.json": json_text(records)}
            with house_style():
                for name, figure, rows in draw_serving(answers):
                    save_figure(figure, staging, name)
                    texts[f"{name}.csv"] = csv_text(rows)
            for name, text in texts.items():
                (staging / name).write_text(text, encoding="utf-8", newline="\n")
            if not settled(staging, folder):
                move_files(staging, folder, sorted(path.name for path in staging.iterdir()))
    except OSError as error:
        where = Location(file=shorten(str(folder), 200))
        raise UserError(f"cannot write: {error.strerror or error}", where=where) from None
    click.echo(f"{folder}: records and figures", err=True)


def _write_timeline(path: str, answer: Answer, *, force: bool) -> None:
    import json

    from simkit.foundation.output import write_text
    from simkit.serving.timeline import serving_timeline

    made = serving_timeline(answer.served)
    write_text(path, json.dumps(made, allow_nan=False) + "\n", force=force)
    click.echo(f"{path}: {len(made['traceEvents']):,} events; open it at https://ui.perfetto.dev", err=True)
