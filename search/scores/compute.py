"""Computing a table of scores: what is measured, of which data, and how an interrupted table goes on.

A table that is given a path writes each part as soon as it is done, next to the path (``scores.partial.jsonl``), and
goes on from there when it is computed again of the same model, data, scheme and settings; the parts of anything else
are dropped. A finished table of the same is not computed again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from qalof.batching import Progress
from qalof.bitmap import Bitmap
from qalof.digests import content_digest
from qalof.errors import BadInputError, nearest_hint
from qalof.evaluation.label_rows import Windows
from qalof.evaluation.shared_prefix import prefix_bytes
from qalof.evaluation.site_damage import layer_bits_at
from qalof.files import append_lines, read_whole_lines
from qalof.layer_bits import FULL_PRECISION, LayerBits, read_kv
from qalof.metrics import metric_of
from qalof.model.fingerprint import tensors_digest
from qalof.model.switchable import SwitchableModel
from qalof.tasks.base import Task
from qalof.writing import check_file
from search.scores.data import scoring_data
from search.scores.formulas import ONE_PASS
from search.scores.measures import Hessian, Measure, OneAtATime, OnePass, Part, check_weights_alone, takes_part
from search.scores.table import FULL, ROLES, ScoreTable, fingerprint_of

_log = logging.getLogger(__name__)

SCORES = (*ONE_PASS, "hessian", "kl", "metric")
"""Every score by name; the first is the default."""

WEIGHTS = {"weight": ("3", "4", "5", "6", "7", "8")}
"""The choices that are scored unless others are given."""

LARGE = 2**30
"""The fewest bytes of which the log says beforehand that they will be held."""


def compute(
    model: SwitchableModel,
    source: Task | Windows,
    score: str = "fisher",
    choices: Mapping[str, Sequence[str | int]] = WEIGHTS,
    *,
    reference: Bitmap | LayerBits | str | int = FULL_PRECISION,
    metric: str | None = None,
    examples: int | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    progress: Progress | None = None,
) -> ScoreTable:
    """Return the table of a score, for every site of ``model`` and every choice.

    Each width of a model with adapters is scored with the adapter that serves it, so what is scored is the model that a
    bitmap will run.

    Args:
        model: a model on any device, which returns to its bitmap and mode; its weights must not change meanwhile.
        source: windows of token ids, or a task: its training examples, or its validation split for ``metric``.
        score: a name of :data:`SCORES`.
        choices: role -> widths with an optional group size, such as ``{"weight": ("4", "4g32")}``, and of the cache
            with other bits for keys than for values, such as ``{"kv": (8, "k8v4")}``.
        reference: the bitmap at which all other sites are, and whose damage is zero.
        metric: for the score ``metric``, a metric of the task; None takes the task's own.
        examples: how many examples of a task are seen; None takes as many as have 2,048 tokens, and for ``metric`` the
            whole validation split.
        seed: draws examples, labels and probes.
        path: where the table is written, and found if it was computed before; None keeps it in memory alone.
        progress: a function that is called with (items done, all items).

    Raises:
        BadInputError: The score, a choice or the metric does not exist, there is nothing to score, or the task has no
            likelihood where the score needs one, or ``path`` cannot be written.
    """
    if path is not None:
        check_file(Path(path), "the path of a table of scores")
    wanted = check_choices(model, score, choices)
    bitmap = _bitmap(model, reference)
    measure, digest, details = _measure(model, source, score, wanted, bitmap, metric, examples, seed)
    settings = content_digest(score, wanted, bitmap.to_json(), metric, seed)
    fingerprint = fingerprint_of(
        model=tensors_digest(model),
        data=digest,
        scheme=content_digest(model.settings.to_json()),
        settings=settings,
    )
    found = _finished(path, fingerprint)
    if found is not None:
        return found
    started = time.perf_counter()
    parts, before = _parts_of(measure, _partial(path), fingerprint, progress)
    seconds = before + time.perf_counter() - started
    details |= {"reference": str(bitmap), "seed": seed, "seconds": round(seconds, 3), "passes": len(parts)}
    table = ScoreTable(score, measure.unit, fingerprint, measure.values(parts), details)
    if path is not None:
        table.save(path)
        _partial_of(Path(path)).unlink(missing_ok=True)
    return table


def check_choices(
    model: SwitchableModel, score: str, choices: Mapping[str, Sequence[str | int]]
) -> dict[str, tuple[str, ...]]:
    """Return the choices of a score as text, without full precision, whose damage is zero.

    Raises:
        BadInputError: The score or a choice does not exist, the model has nothing to round in some role, or the score
            does not weigh that role.
    """
    check_score(score)
    wanted = _checked(model, choices)
    if score == "hessian":
        check_weights_alone(wanted)
    return wanted


def check_score(score: str) -> str:
    """Return the name of a score.

    Raises:
        BadInputError: There is no such score.
    """
    if score not in SCORES:
        raise BadInputError(f"a score must be one of {', '.join(SCORES)}: got {score!r}; {nearest_hint(score, SCORES)}")
    return score


def _measure(
    model: SwitchableModel,
    source: Task | Windows,
    score: str,
    choices: dict[str, tuple[str, ...]],
    reference: Bitmap,
    metric: str | None,
    examples: int | None,
    seed: int,
) -> tuple[Measure, str, dict[str, Any]]:
    """Return what is measured, a digest of its data, and what the table tells of it."""
    if metric is not None and score != "metric":
        raise BadInputError(f"a metric belongs to the score metric: got metric {metric!r} with score {score}")
    if score == "metric":
        if isinstance(source, torch.Tensor | Sequence):
            raise BadInputError("score metric needs a task to evaluate: got windows of tokens; take kl")
        name = metric or source.primary_metric
        if name not in source.metrics:
            raise BadInputError(f"metric must be one of {', '.join(source.metrics)}: got {name!r}")
        metric_of(name)
        digest = content_digest(source.fingerprint(), name, examples)
        task = OneAtATime(model, choices, reference, task=source, metric=name, limit=examples)
        return task, digest, {"metric": name, "examples": examples}
    device = model.device
    data = scoring_data(source, score, examples=examples, seed=seed, device=device)
    details = {"examples": data.examples, "tokens": data.tokens}
    if score == "kl":
        held = prefix_bytes(model, data.tokens)
        if held > LARGE:
            _log.warning("score kl keeps %.1f GB of states for %d tokens", held / 2**30, data.tokens)
        return OneAtATime(model, choices, reference, data), data.digest, details | {"held_bytes": held}
    if score == "hessian":
        held = 12 * sum(site.weights for site in model.sites)
        if held > LARGE:
            _log.warning("score hessian keeps %.1f GB of gradients beside the weights", held / 2**30)
        return Hessian(model, data, choices, reference, seed), data.digest, details | {"held_bytes": held}
    return OnePass(model, data, choices, ONE_PASS[score], reference, seed), data.digest, details


def _checked(model: SwitchableModel, choices: Mapping[str, Sequence[str | int]]) -> dict[str, tuple[str, ...]]:
    """Return the choices as text, without full precision, whose damage is zero."""
    found: dict[str, tuple[str, ...]] = {}
    for role, given in choices.items():
        if role not in ROLES:
            raise BadInputError(f"choices have the roles {', '.join(ROLES)}: got {role!r}; {nearest_hint(role, ROLES)}")
        named = [str(read_kv(choice)) if role == "kv" else str(choice).strip() for choice in given]
        texts = tuple(text for text in named if text != FULL)
        if len(set(texts)) != len(texts):
            raise BadInputError(f"choices of role {role} must be different: got {list(given)}")
        for text in texts:
            layer_bits_at(LayerBits.of(FULL_PRECISION), role, text)
        if texts and not any(takes_part(switch, role) for switch in model.switches):
            raise BadInputError(f"no site of the model has a {role} to round: leave this role out of the choices")
        if texts:
            found[role] = texts
    if not found:
        raise BadInputError(f"scores need at least one choice below {FULL} bits: got {dict(choices)}")
    return found


def _bitmap(model: SwitchableModel, reference: Bitmap | LayerBits | str | int) -> Bitmap:
    if isinstance(reference, LayerBits):
        return Bitmap.uniform(model.site_names, reference)
    if isinstance(reference, Bitmap):
        return reference
    if str(reference).strip() == FULL:
        return Bitmap.uniform(model.site_names, FULL_PRECISION)
    return Bitmap.parse(reference, model.site_names)


def _finished(path: str | Path | None, fingerprint: str) -> ScoreTable | None:
    """Return the table at ``path`` if it is this one already; the table of something else is computed over."""
    if path is None or not Path(path).is_file():
        return None
    try:
        found = ScoreTable.load(path)
    except BadInputError as error:
        _log.warning("%s", error)
        return None
    return found if found.fingerprint == fingerprint else None


def _partial_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial.jsonl")


def _partial(path: str | Path | None) -> Path | None:
    return None if path is None else _partial_of(Path(path))


def _parts_of(
    measure: Measure, record: Path | None, fingerprint: str, progress: Progress | None
) -> tuple[list[Part], float]:
    """Do the items that are not recorded yet; return all parts, and the seconds that recorded ones took."""
    parts, seconds = _recorded(record, fingerprint)
    write: Callable[[dict[str, Any]], None] = lambda line: None  # noqa: E731 - without a path nothing is written
    if record is not None:
        write = lambda line: append_lines(record, [json.dumps(line)])  # noqa: E731
        if not parts:
            record.unlink(missing_ok=True)
            write({"fingerprint": fingerprint})
    while len(parts) < measure.items and not measure.enough(parts):
        started = time.perf_counter()
        parts.append(measure.do(len(parts)))
        write({"item": len(parts) - 1, "part": parts[-1], "seconds": time.perf_counter() - started})
        if progress:
            progress(len(parts), measure.items)
    return parts, seconds


def _recorded(record: Path | None, fingerprint: str) -> tuple[list[Part], float]:
    """Return the parts of this table that stand in the record, in order, and the seconds that they took."""
    if record is None:
        return [], 0.0
    try:
        lines = [json.loads(line) for line in read_whole_lines(record)]
        if not lines or lines[0]["fingerprint"] != fingerprint:
            return [], 0.0
        return [line["part"] for line in lines[1:]], float(sum(line["seconds"] for line in lines[1:]))
    except (KeyError, TypeError, ValueError):
        _log.warning("score record %s is damaged: its parts are computed anew", record)
        return [], 0.0
