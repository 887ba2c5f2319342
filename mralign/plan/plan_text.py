"""The plan of a run as text, for `--dry-run`: what runs, what is skipped, and what can be known of its size and cost.

A configuration and its planned stages enter; lines for a terminal leave. Nothing is started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mralign.chat.model_files import weight_files
from mralign.config import RunConfig, resolve_path
from mralign.plan.pipeline import Planned, lacking, runs_anew
from mralign.rows.subjects import Way
from mralign.run.placement import describe as describe_workers
from mralign.run.stage import Context
from mralign.run.store import absolute


def describe(config: RunConfig, planned: Sequence[Planned]) -> str:
    """The plan as text: what runs, what is skipped, and the sizes that can be known before anything starts."""
    head = f"run directory: {absolute(config.run.dir)}"
    lines = [f"  {item.stage.name:<25} {item.out.fingerprint}  {_status(item)}" for item in planned]
    lacks = [f"lacking on this machine: {line}" for line in lacking(config, planned)]
    return "\n".join([head, "", *lines, "", *runs_anew(planned), *_sizes(config, planned), *lacks])


def _status(item: Planned) -> str:
    if item.manifest is not None:
        return f"skip: done, {item.manifest.rows_out} rows in {item.manifest.seconds:.0f} s"
    parts = len(item.out.parts())
    return f"run: goes on from {parts} committed parts" if parts else "run"


def _sizes(config: RunConfig, planned: Sequence[Planned]) -> list[str]:
    """Rows, token bounds, memory; a size that cannot be known yet is said to be unknown."""
    done = {item.stage.name: item.manifest for item in planned if item.manifest is not None}
    questions = done["questions"].figures if "questions" in done else None
    lines = []
    if questions is None:
        lines.append("requests: known after the questions are read (--until questions)")
    elif not config.rollouts.import_on:
        rows = questions["train"] * 2 * config.rollouts.n
        lines.append(f"rollouts: {rows} requests, at most {rows * config.rollouts.decoding.max_tokens:,} tokens")
    if questions is not None and (config.questions.test or config.questions.dev):
        rows = questions[config.evaluation.split] * config.evaluation.draws * _asked_of_a_question(config)
        lines.append(f"evaluation: {rows} requests, at most {rows * config.evaluation.decoding.max_tokens:,} tokens")
    size = model_bytes(resolve_path(config.model.path))
    if size is None:
        lines.append("model: not a local directory, size unknown")
    else:
        lines.append(
            f"model: {size / 2**20:,.1f} MiB of weights; an engine needs that and its key-value cache on each replica, "
            f"a training worker that, its LoRA gradients and optimizer, and the activations of "
            f"{max(config.training.micro_batch_tokens, config.examples.max_length)} tokens"
        )
    seconds = sum(manifest.seconds for manifest in done.values())
    lines.append(f"time: {seconds:.0f} s spent on finished stages; the rest is unknown before it is measured")
    lines.append(_money(config, questions))
    for item in planned:
        if item.stage.tell is not None and item.manifest is None:
            lines += item.stage.tell(config)
    for item in planned:
        lines += _forecast(config, item)
    todo = [item for item in planned if item.manifest is None]
    wanted = {item.stage.name: describe_workers(item.stage.workers(config)) for item in todo}
    lines += [f"GPUs: {name} takes {text}" for name, text in wanted.items() if text]
    lines += [f"warning: {text}" for text in _by_stage(todo)]
    return lines


def _by_stage(planned: Sequence[Planned]) -> list[str]:
    """Each warning once, with the stages that it is of."""
    stages: dict[str, list[str]] = {}
    for item in planned:
        for text in item.warnings:
            stages.setdefault(text, []).append(item.stage.name)
    return [f"{', '.join(names)}: {text} (only the machines that run this need it)" for text, names in stages.items()]


def _asked_of_a_question(config: RunConfig) -> int:
    """Requests of all methods, base and trained, for one question and draw; Self-Refine begins with think-on's."""
    settings, total = config.evaluation, 0
    for methods in (settings.methods, settings.trained_methods if config.trains else ()):
        total += len({Way.THINK_ON if way is Way.SELF_REFINE else way for way in methods})
        total += 2 * settings.self_refine.rounds if Way.SELF_REFINE in methods else 0
    return total


def _forecast(config: RunConfig, item: Planned) -> list[str]:
    """What a stage says of its cost; it can say so when all that it stands on is there."""
    if item.stage.forecast is None or item.manifest is not None:
        return []
    if any(out.manifest() is None for out in item.upstream.values()):
        return [f"{item.stage.name}: cost known when {', '.join(item.upstream)} is finished; `--until` runs so far"]
    return [f"{item.stage.name} will take", item.stage.forecast(Context(config, item.out, item.upstream))]


def _money(config: RunConfig, questions: Mapping[str, int] | None) -> str:
    """The most that the endpoint can cost: every completion as long as it may be. Prompts are not counted yet."""
    http = config.http
    if config.rollouts.engine != "http" or config.rollouts.import_on:
        return "money: the rollouts call no paid endpoint"
    limit = "no budget" if http.budget is None else f"stops at http.budget={http.budget:g}"
    if questions is None:
        return f"money: known after the questions are read; {limit}"
    tokens = questions["train"] * 2 * config.rollouts.n * config.rollouts.decoding.max_tokens
    return f"money: at most {tokens * http.price_completion / 1e6:,.2f} for completions, prompts beside it; {limit}"


def model_bytes(path: str) -> int | None:
    """Bytes of the weights in a local directory, None where there are none."""
    return sum(file.stat().st_size for file in weight_files(path)) or None
