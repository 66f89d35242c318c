"""What a terminal of 80 columns shows of any command's result, at any size of model."""

import io
import math
import re

import pytest
from rich.console import Console

from orchestrate.cli.app import app
from orchestrate.cli.terminal import show, show_table
from orchestrate.document.sheet import MOST_ROWS, Sheet
from orchestrate.document.terminal import size
from orchestrate.jobs.export.terminal import describe
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.shared.terminal import score_parts
from qalof.attacks.robustness.report import FORMAT_VERSION
from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name, summary
from qalof.layer_bits import LayerBits
from qalof.metrics import described

WIDTH = 80
SITES = {"tiny": 16, "SmolLM2": 210, "large": 2000}
METRICS = ("exact_match", "f1", "loss", "perplexity", "word_perplexity", "accuracy", "a_metric_of_ones_own_with_a_name")
FORMS = ("w4a8kv8", "w6a8kv8", "8", "w3a16kv4", "w16a16")
FOLDER = "runs/a_folder_with_a_long_name_such_as_people_give_to_their_experiments/and_another_below_it"


def names(count):
    return [f"model.layers.{at // 7}.self_attn.some_projection_{at % 7}" for at in range(count)]


def bitmaps(count):
    sites = names(count)
    mixed = [Bitmap({s: LayerBits.parse(FORMS[(at * 7 + k) % 5]) for at, s in enumerate(sites)}) for k in range(6)]
    return [Bitmap.uniform(sites, 4), Bitmap.uniform(sites, "w4a8kv8"), *mixed]


def cost(seed):
    sizes = {"weight_bytes": 123_456_789 + seed, "stored_weight_bytes": 2**31 + seed, "kv_bytes_per_token": 5120}
    return {"average_bits": 4.5 + seed, **sizes, "activation_bytes_per_token": 1000, "bit_operations_per_token": 10**12}


def row(bitmap, seed):
    metrics = {name: [12345.678 + seed, 12340.1, 12350.9] for name in METRICS}
    if seed == 1:
        metrics["perplexity"] = [None, None, None]
    named = {"bitmap": str(bitmap), "id": bitmap.id, "summary": summary(bitmap)}
    return {**named, "metrics": metrics, "cost": cost(seed), "examples": 500, "counts": {"truncated": 12_345}}


def rate(x):
    return {"estimate": x, "low": x - 0.1, "high": x + 0.1}


def results(count):
    """A synthetic result of each command, for a model of ``count`` sites."""
    maps = bitmaps(count)
    rows = [row(bitmap, at) for at, bitmap in enumerate(maps)]
    flat = [
        {"id": r["id"], "bitmap": r["bitmap"], "summary": r["summary"], **r["cost"]}
        | {f"{name}{end}": 1234.5 for name in METRICS for end in ("", "_low", "_high")}
        for r in rows
    ]
    scored = {"rows": rows, "seconds": 12.0, "training_data": {"truncated": 12_345, "no_answer": 1, "rest_tokens": 99}}
    ranking = [
        {"unit": name, "bits": "w4a8kv8", "f1_drop": 12.34, "f1_drop_low": -1.0, "f1_drop_high": 20.0, **cost(at)}
        for at, name in enumerate(names(count))
    ]
    differences = {name: [-12345.678, -13000.5, 100.25] for name in METRICS}
    methods = [{**r, "method": f"a-long-method-name-{at}", "difference": differences} for at, r in enumerate(rows)]
    report = {
        "version": FORMAT_VERSION,
        "bitmaps": [str(bitmap) for bitmap in maps],
        "clean_accuracy": [rate(0.9)] * len(maps),
        "transfer": [[rate(0.5)] * len(maps)] * len(maps),
        "random_precision": [
            {"defense": {"probability": 0.5}, "success_mean": rate(0.4), "clean_accuracy": rate(0.8)}
        ] * 3,
    }  # fmt: skip
    trial = {
        "trial": 1,
        "value": 12.5,
        "state": "finished",
        "step": 1000,
        "params": {
            "training.learning_rate": 0.000123456,
            "objective.distillation.beta": 0.5,
            "adapters.rank_by_width": {4: 16},
        },
    }
    return {
        "train": {**scored, "checkpoint": "x"},
        "evaluate": scored,
        "sensitivity": {"metric": "f1", "ranking": ranking, "seconds": 3600.0},
        "search": {"front": flat, "evaluations": 1000, "seconds": 1.0},
        "range-test": {"widths": [{"bits": b, "loss": 1.5, "improvement": 0.01} for b in range(2, 17)],
                       "lowest": 3, "highest": 8, "seconds": 1.0},
        "attack": {"robustness": report, "seconds": 1.0},
        "ptq": {"rows": methods, "reference": "full-precision-model", "seconds": 1.0},
        "profile": {**scored, "rows": [
            {**r, "metrics": {f"{n}_bytes": [1e9] * 3 for n in ("predicted", "packed", "packed_zlib", "memory")}
             | {"prefill_tokens_per_second": [123.4] * 3}} for r in rows]},
        "generate-data": {"texts": 123_456, "kind": "completions", "mean_tokens": 99.5, "ended": 12_345,
                          "data": FOLDER + "/data", "seconds": 1.0},
        "sweep": {"trials": [trial] * 12, "metric": "f1", "seconds": 1.0},
        "export": {**exported("gguf", maps[4]), "seconds": 1.0},
    }  # fmt: skip


def exported(kind, bitmap):
    """The result of an export."""
    sizes = dict.fromkeys(("weight_bytes", "adapter_bytes", "unquantized_bytes", "quantizer_bytes", "total_bytes",
                           "predicted_total_bytes", "header_bytes"), 10**10)  # fmt: skip
    result = {"format": kind, "bitmap": str(bitmap), "summary": summary(bitmap), "output": FOLDER, **sizes}
    result["embedding"] = {"bits": 8, "sites": ["embed_tokens", "lm_head"], "largest_difference": 0.01}
    if kind == "compressed-tensors":
        result |= {"tensor_bytes": 10**10, "file_bytes": 10**10,
                   "groups": {"4 bits in groups of 32": 900, "3 bits per row": 9},
                   "exact_weights": False, "differing_sites": list(bitmap), "largest_difference": 0.1,
                   "oldest_reader": "0.18"}  # fmt: skip
    if kind == "gguf":
        result |= dict.fromkeys(("tensor_bytes", "predicted_tensor_bytes"), 10**10)
        result |= {"files": {"a_model_with_a_long_name.gguf": 10**10}, "types": {"Q4_0": 200, "F32": 61},
                   "exact_weights": False, "differing_sites": list(bitmap), "largest_difference": 0.1,
                   "unquantized_inputs": False}  # fmt: skip
    return result


def reference(count):
    cell = {"value": 83.21, "low": 80.0, "high": 86.0, "reference": 76.15, "difference": 7.06, "reason": None}
    missing = {**cell, "value": None, "reason": "not run: the data of this benchmark is not on this machine"}
    columns = [{"name": f"a column with some words {n}"} for n in range(8)]
    table = {"title": "Sensitivity of components", "source": "S3, table 4", "scale": "tiny", "columns": columns,
             "notes": ["A note of some length on what was cut. " * 3]}  # fmt: skip
    return {**table, "rows": [{"name": short_name(b), "cells": [cell, missing] * 4} for b in bitmaps(count)]}


def printed(print_it, width=WIDTH):
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, color_system=None)
    print_it(console)
    return console.file.getvalue().rstrip("\n").split("\n")


def assert_readable(lines, most):
    assert max(map(len, lines)) <= WIDTH, max(lines, key=len)
    assert not [line for line in lines if "…" in line or "..." in line]
    assert len(lines) <= most, f"{len(lines)} lines"


def test_every_command_is_tried():
    assert results(16).keys() == JOBS.keys()


@pytest.mark.parametrize("command", JOBS)
@pytest.mark.parametrize("model", SITES)
def test_80_columns_hold_every_result_whatever_the_size_of_the_model(command, model):
    from pathlib import Path

    result = results(SITES[model])[command]
    lines = printed(lambda console: show(command, result, Path(FOLDER), console))
    rows = next((len(result[k]) for k in ("rows", "front", "ranking", "trials", "widths") if k in result), 8)
    assert_readable(lines, 11 * min(rows, MOST_ROWS) + 12)
    text = " ".join(" ".join(lines).split())
    for name in METRICS if command in ("train", "evaluate", "search", "ptq") else ():
        assert described(name).label in text, name
    if command in ("train", "evaluate", "search", "ptq", "profile") and model != "tiny":
        mixed = [r for r in result.get("rows", result.get("front")) if len(r["bitmap"]) > 12]
        assert mixed
        assert all(f"#{r['id']}" in text and " ".join(r["summary"].split()) in text for r in mixed)
        assert "MiB" in text
        assert not re.search(r"\d{3},\d{3},\d{3}", text), "bytes are for files"


@pytest.mark.parametrize("model", SITES)
def test_80_columns_hold_a_references_table(model):
    assert_readable(printed(lambda console: show_table(reference(SITES[model]), console)), 120)


@pytest.mark.parametrize("kind", ["packed", "gguf", "compressed-tensors"])
def test_80_columns_hold_what_export_says(kind):
    result = exported(kind, bitmaps(2000)[4])
    lines = printed(lambda console: console.print(describe(result)))
    assert_readable(lines, 20)


def test_a_table_that_fits_stays_a_table():
    sheet = Sheet(
        ["bitmap", "F1 (%)"], [["8", "83.2 [80.1, 86.0]"], ["#abcdef", "70.0"]], notes={"#abcdef": "4.5 bits"}
    )
    lines = printed(lambda console: console.print(sheet))
    assert "┃" in lines[1]
    assert lines[-1] == "#abcdef: 4.5 bits"


def test_a_long_sheet_says_where_its_other_rows_are():
    sheet = Sheet(["unit", "loss"], [[f"layer {n}", str(n)] for n in range(1000)], whole="runs/x/result.json")
    lines = printed(lambda console: console.print(sheet))
    assert len(lines) < MOST_ROWS + 10
    assert "960 rows between them are not shown; all of them are in runs/x/result.json" in lines


def test_empty_values_are_left_out_of_a_row_by_itself():
    sheet = Sheet(["a", "b" * 50, "c" * 50], [["one", "", "2"]])
    assert not [line for line in printed(lambda console: console.print(sheet)) if "b" in line]


def test_sizes_are_in_mib_with_three_digits_and_small_ones_in_smaller_units():
    assert [size(n) for n in (2**20, 175e6, 2**31, 500_000)] == ["1.00 MiB", "167 MiB", "2,048 MiB", "0.477 MiB"]
    assert [size(n) for n in (10_000, 1023)] == ["9.77 KiB", "1,023 bytes"]
    assert math.isclose(float(size(123_456).split()[0]), 123_456 / 2**20, rel_tol=5e-3)


def test_nobody_prints_past_the_sheets():
    """Each command of the line is a job, which `show` prints, or one of those that are tried above, in
    ``test_runs_commands.py``, or say one line.
    """
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    said_in_a_line = {"ui", "report", "register", "submit", "sync"}
    assert commands - JOBS.keys() <= {"run", "demo", "export", "validate", "bitmap", "ls", "show"} | said_in_a_line


@pytest.mark.parametrize(
    ("objective", "shown"),
    [(3.662, "3.662 cross entropy"), (3.71, "3.710 optimized, 3.662 cross entropy"), (None, "3.662 cross entropy")],
)
def test_the_optimized_loss_is_shown_where_it_is_another_than_the_cross_entropy(objective, shown):
    ended = {"objective": objective, "cross_entropy": 3.662, "over": 1}
    result = {"rows": [row(bitmaps(16)[0], 0)], "training_loss": ended}
    assert f"training loss over the last step: {shown} (nats)" in score_parts(result)
