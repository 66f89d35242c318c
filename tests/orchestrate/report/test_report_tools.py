"""The report's sections of sweeps, range tests, ptq, profiles, generated data and zero-shot scores."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrate.config.loader import to_plain, validate
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.shared.scores import per_example, rows
from orchestrate.report import write_report
from orchestrate.runs.directory import RunDirectory
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.files import write_json
from qalof.site import Site

TASK = {"name": "squad-span", "settings": {"data": "tiny", "max_length": 96, "stride": 16}}
COST = {"average_bits": 4.0, "weight_bytes": 10, "kv_bytes_per_token": 1, "bit_operations_per_token": 1}
CONFIGS: dict[str, Any] = {
    "sweep": {"train": {"task": TASK, "objective": {"name": "spnet"}}, "space": {"training.learning_rate": [0.1, 0.2]}},
    "range-test": {"task": TASK, "lowest": 3, "highest": 5},
    "ptq": {"task": TASK, "methods": [{"name": "rtn"}, {"name": "gptq", "kind": "gptq"}], "bitmaps": [4]},
    "profile": {"checkpoint": "sp/checkpoint", "bitmaps": [32, 4]},
    "generate-data": {"model": {"source": "tiny"}},
    "export": {"checkpoint": "sp/checkpoint", "bitmap": "w4a32", "format": "gguf"},
    "evaluate": {"checkpoint": "sp/checkpoint", "bitmaps": [8], "task": {"name": "zero-shot"}},
}


def trial(number: int, rate: float, state: str, value: float | None) -> dict[str, Any]:
    params = {"training.learning_rate": rate}
    return {"trial": number, "params": params, "state": state, "step": 40, "value": value, "by_bitmap": {}}


def score(method: str, f1: list[float | None], difference: dict[str, list[float]]) -> dict[str, Any]:
    cost = {**COST, "stored_weight_bytes": 2048}
    return {
        "method": method, "kind": method, "bitmap": "4", "metrics": {"loss": [2.0, 1.9, 2.1], "f1": f1}, "cost": cost,
        "examples": 50, "counts": {}, "difference": difference,
    }  # fmt: skip


def measured(bitmap: str, packed: float, decode: float) -> dict[str, Any]:
    sizes = {"packed_bytes": packed, "packed_percent": packed / 100, "memory_bytes": 3e6}
    metrics = {**sizes, "prefill_tokens_per_second": 1234.0, "decode_tokens_per_second": decode}
    return {"bitmap": bitmap, "metrics": {name: [v, v, v] for name, v in metrics.items()}, "cost": COST}


RESULTS: dict[str, Any] = {
    "sweep": {
        "metric": "max:f1", "strategy": "grid",
        "trials": [trial(1, 0.2, "finished", 78.25), trial(0, 0.1, "stopped", None)], "best": trial(1, 0.2, "x", 78.25),
    },
    "range-test": {
        "widths": [
            {"bits": bits, "loss": loss, "improvement": fall}
            for bits, loss, fall in ((3, 4.0, 0.001), (4, 3.5, 0.125), (5, 3.4, 0.0286))
        ],
        "lowest": 4, "highest": 5, "threshold": 0.01,
    },
    "ptq": {
        "task": "squad-span", "reference": "rtn",
        "rows": [score("rtn", [60.0, 50.5, 70.0], {}), score("gptq", [66.0, 57.0, 75.0], {"f1": [6.0, 1.25, 9.5]})],
    },
    "profile": {"task": "x", "device": "cpu", "rows": [measured("32", 10000, 99.0), measured("4", 1500, 77.0)]},
    "generate-data": {
        "data": "d", "start": "bos", "kind": "texts", "texts": 200, "tokens": 5000, "ended": 150, "empty": 3,
        "shards": 1, "mean_tokens": 25.0,
    },
    "export": {
        "format": "gguf", "bitmap": "w4a32", "summary": "4 bits", "file_bytes": 2**21, "differing_sites": ["h.0.attn"],
        "largest_difference": 0.125,
    },
}  # fmt: skip


def write_step(folder: Path, command: str, result: Any) -> RunDirectory:
    config = validate(JOBS[command].config, CONFIGS[command], "test")
    directory = RunDirectory.open(folder, command, to_plain(config))
    directory.finish({**result, "seconds": 12.0})
    return directory


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a pipeline with a step of each command."""
    place = tmp_path_factory.mktemp("start") / "runs" / "all"
    for command, result in RESULTS.items():
        write_step(place / command, command, result)
    sites = (Site("h.0.attn", 8, 8, True, None),)
    scored = [Evaluation({"acc": 50.0, "acc_norm": 75.0}, 4, {"acc": [0, 100.0] * 2, "acc_norm": [0] + [100.0] * 3})]
    bitmaps = [Bitmap.uniform(["h.0.attn"], 8)]
    write_step(place / "evaluate", "evaluate", {"task": "zero-shot", "rows": rows(bitmaps, scored, sites)})
    write_json(place / "evaluate" / "evaluations.json", per_example(bitmaps, scored))
    steps = [{"name": command, "command": command, "seconds": 12.0} for command in (*RESULTS, "evaluate")]
    write_json(place / "pipeline.json", {"title": "All", "steps": steps, "seconds": 80.0})
    return write_report(place).read_text()


def words(page: str) -> str:
    text = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).replace("\u00a0", " ").split())


@pytest.mark.parametrize(
    "told",
    [
        "Of 2 trials, 1 finished and 1 stopped. The best finished one is trial 1 (training.learning_rate 0.2): "
        "F1 78.2 % after 40 steps.",
        "1 0.2 78.2 finished 40 0 0.1 not finite stopped 40",
        "Of 3 to 5 bits, widths from 4 to 5 bits are recommended",
        "3 4.000 0.10 % no 4 3.500 12.50 % yes 5 3.400 2.86 % yes",
        "F1 at 4 bits: 60.0 % [50.5, 70.0] by rtn and 66.0 % [57.0, 75.0] by gptq.",
        "Paired over the same examples with rtn: F1 is 6.00 points [1.25, 9.50] higher by gptq at 4 bits.",
        "gptq 4 bits 2.000 [1.900, 2.100] 66.0 [57.0, 75.0] 6.00 [1.25, 9.50] 4.00 2.00 KiB",
        "Packed, in percent of the fp32 model: 100.0 % at full precision and 15.0 % at 4 bits.",
        "4 bits 1.46 KiB (15.0 %) 2.86 MiB 1,234 77",
        "The model wrote 200 texts of 25.0 tokens on average (5,000 tokens), 150 to their own end, 3 of them empty.",
        "200 5,000 25.0 150 (75 %) 3",
        "The checkpoint at w4a32 takes 2.00 MiB as gguf. The weights of 1 site are not "
        "those that the model computes with: they differ by up to 0.125.",
        "gguf w4a32 4 bits 2.00 MiB",
        "Zero-shot accuracy on 4 examples: 50.0 % [0.0, 100.0] at 8 bits.",
    ],
)
def test_what_each_step_found_is_on_the_page_as_in_its_file(page: str, told: str):
    assert told in words(page)


def test_losses_by_width_and_scores_by_method_are_drawn_with_their_numbers_as_text(page: str):
    figures = re.findall(r'<svg[^>]*aria-label="([^"]*)"', page)
    assert any("4 at 3 bits, 3.5" in html.unescape(f).replace("4.000", "4").replace("3.500", "3.5") for f in figures)
    assert any("gptq: 66.0" in html.unescape(figure) for figure in figures)


def test_what_found_nothing_is_said_so(tmp_path: Path):
    none = {**RESULTS["range-test"], "lowest": None, "highest": None}
    write_step(tmp_path / "range", "range-test", none)
    said = words(write_report(tmp_path / "range").read_text())
    assert "No width from 3 to 5 bits reduces the loss by more than 1 %: no bounds are recommended." in said
    write_step(tmp_path / "sweep", "sweep", {**RESULTS["sweep"], "best": None})
    said = words(write_report(tmp_path / "sweep").read_text())
    assert "No finished trial has a finite score, so none is the best." in said
    level = [None, None, None]
    write_step(tmp_path / "methods", "ptq", {**RESULTS["ptq"], "rows": [score("rtn", level, {})]})
    assert "F1 at 4 bits: not finite by rtn." in words(write_report(tmp_path / "methods").read_text())


@pytest.mark.parametrize(("command", "key"), [(c, next(iter(r))) for c, r in RESULTS.items()])
def test_a_damaged_result_is_bad_input_that_names_the_file(tmp_path: Path, command: str, key: str):
    known = {"profile": "rows", "ptq": "rows", "generate-data": "texts"}.get(command, key)
    write_step(tmp_path / "run", command, {k: v for k, v in RESULTS[command].items() if k != known})
    with pytest.raises(BadInputError, match=re.escape(str(tmp_path / "run" / "result.json"))):
        write_report(tmp_path / "run")
