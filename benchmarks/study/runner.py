"""Runs the stages that are not done, one after another or several processes side by side."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qalof.files import json_ready, read_json, write_json
from study.clock import OutOfTimeError
from study.data import data_digest
from study.place import Place
from study.plan import Stage, key, place_key, stages


def finished(place: Place) -> dict[str, dict[str, Any]]:
    """The records (key, seconds, result) of the stages whose inputs are unchanged, by name."""
    keys = keys_of(place)
    found = {}
    for name, digest in keys.items():
        file = _file(place, name)
        if file.exists() and (record := read_json(file, "stage's result"))["key"] == digest:
            found[name] = record
    return found


def run(place: Place, jobs: int = 1, only: str | None = None) -> dict[str, dict[str, Any]]:
    """Run until all is done or the time is over; returns :func:`finished`.

    Args:
        place: where and of what.
        jobs: processes that work side by side; 1 works in this one.
        only: what :func:`chosen` takes.
    """
    wanted = chosen(only)
    failed: set[str] = set()
    for name in [name for name, stage in wanted.items() if stage.alone or jobs == 1]:
        if not _ready(wanted[name], finished(place)):
            continue
        _say(place, wanted)
        if not _outcome(place, name, failed):
            break
    if jobs > 1 and not place.clock.out:
        _side_by_side(place, jobs, {name: stage for name, stage in wanted.items() if not stage.alone}, failed)
    _say(place, wanted)
    if failed:
        print(f"failed: {', '.join(sorted(failed))}", file=sys.stderr)
    return finished(place)


def chosen(only: str | None) -> dict[str, Stage]:
    """Return the stages named in ``only``, with commas between: each by its whole name, or several by the beginning of
    theirs; None names all.
    """
    known = stages()
    if only is None:
        return known
    asked = only.split(",")
    beginnings = tuple(one for one in asked if one not in known)
    return {name: stage for name, stage in known.items() if name in asked or name.startswith(beginnings)}


def _outcome(place: Place, name: str, failed: set[str]) -> bool:
    """Run one stage in this process; returns whether there is time left."""
    try:
        work(place, name)
    except OutOfTimeError:
        return False
    except Exception:  # one stage's failure must not cost the others their result; it is named at the end
        traceback.print_exc()
        failed.add(name)
    return not place.clock.out


def work(place: Place, name: str) -> None:
    """Run one stage and write its result."""
    stage = stages()[name]
    done = {needed: record["result"] for needed, record in finished(place).items()}
    began = time.monotonic()
    keys = keys_of(place)
    result = stage.work(replace(place, done=done, keys=keys))
    record = {"key": keys[name], "seconds": round(time.monotonic() - began, 1), "result": json_ready(result)}
    write_json(_file(place, name), record)


def work_apart(place: Place, name: str, threads: int) -> None:
    """The same in a process of its own."""
    torch.set_num_threads(threads)
    if place.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    work(place, name)


def _side_by_side(place: Place, jobs: int, wanted: Mapping[str, Stage], failed: set[str]) -> None:
    running: dict[Future[None], str] = {}
    given: set[str] = set()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        while True:
            done = finished(place)
            ready = [
                name for name, stage in wanted.items()
                if name not in given and _ready(stage, done)
            ]  # fmt: skip
            for name in ready[: jobs - len(running)] if not place.clock.out else []:
                running[pool.submit(work_apart, place, name, 1)] = name
                given.add(name)
            if not running:
                return
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                name = running.pop(future)
                error = future.exception()
                if error is not None and not isinstance(error, OutOfTimeError):
                    traceback.print_exception(error)
                    failed.add(name)
            _say(place, wanted)


def _ready(stage: Stage, done: Mapping[str, Any]) -> bool:
    return stage.name not in done and all(name in done for name in stage.needs)


def _say(place: Place, wanted: Mapping[str, Stage]) -> None:
    """What is left, and about how long that takes, from the stages of the same kind that are done."""
    done = finished(place)
    left = [stage for stage in wanted.values() if stage.name not in done]
    known: dict[str, list[float]] = {}
    for name, record in done.items():
        known.setdefault(stages()[name].kind, []).append(record["seconds"])
    guess = [statistics.mean(known[stage.kind]) for stage in left if stage.kind in known]
    about = f", {sum(guess) / 60:.0f} minutes of work for {len(guess)} of them" if guess else ""
    print(f"{len(wanted) - len(left)} of {len(wanted)} stages done{about}", file=sys.stderr, flush=True)


def keys_of(place: Place) -> dict[str, str]:
    """The digests of the inputs of all stages."""
    base = place_key(place, data_digest(place.data))
    keys: dict[str, str] = {}
    for name, stage in stages().items():
        keys[name] = key(stage, base, keys)
    return keys


def _file(place: Place, name: str) -> Path:
    return place.state / "results" / f"{name}.json"
