"""The report says what the files say, claims nothing that they do not show, and stands alone."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import shutil
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from markupsafe import Markup

from orchestrate.config.base import BaseConfig
from orchestrate.config.loader import load_config, to_plain, validate
from orchestrate.config.train import TrainConfig
from orchestrate.document import figures as plots
from orchestrate.document import formats, heat
from orchestrate.document.record import read_record
from orchestrate.document.svg import BLUE, new_figure, styled, to_svg
from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.attack.sentences import beyond
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.run import write_pictures
from orchestrate.jobs.search import view
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.jobs.search.findings import searched_of
from orchestrate.jobs.search.references import references
from orchestrate.jobs.search.view import outside
from orchestrate.jobs.sensitivity.config import SensitivityConfig
from orchestrate.jobs.shared.compare import cheapest_within, is_shown
from orchestrate.jobs.shared.findings import scored_of
from orchestrate.jobs.shared.scores import per_example, rows
from orchestrate.jobs.shared.view import _series
from orchestrate.jobs.train.curves import LossCurve, read_losses
from orchestrate.jobs.train.loss_plot import logarithmic, loss_blocks, smoothed, smoothing_window
from orchestrate.report import write_report, write_reports
from orchestrate.report.facts import PLANTED
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import FILES
from qalof.attacks.rates import Rate
from qalof.attacks.result import AttackResult, AttackStatus
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.robustness.report import robustness_of
from qalof.attacks.robustness.transfer import DrawTable, PredictionTable
from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name
from qalof.cost import Cost
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.files import write_json
from qalof.site import KvLayout, Site
from qalof.statistics import Interval, paired_difference
from search import BitmapSpace, Point
from search import run as run_search

SHAPES = {"attn.c_attn": (1, 3, 2), "attn.c_proj": (1, 1, 0), "mlp.c_fc": (1, 4, 0), "mlp.c_proj": (4, 1, 0)}
ADDRESS = "http://127.0.0.1:5000"
JOB_CONFIGS = {"train": TrainConfig, "sensitivity": SensitivityConfig, "search": SearchConfig, "attack": AttackConfig}


def make_sites(blocks: int, width: int) -> tuple[Site, ...]:
    layout = KvLayout(1, width, ((width, 2 * width), (2 * width, 3 * width)))
    return tuple(
        Site(f"h.{block}.{kind}", width * i, width * o, True, layout if kv else None)
        for block in range(blocks)
        for kind, (i, o, kv) in SHAPES.items()
    )


class Model:
    """F1 of each example falls with rounding errors, site by site; examples differ in difficulty, bitmaps share it."""

    at_once, limit = 2, None

    def __init__(self, sites: tuple[Site, ...], examples: int, seed: int = 0, harm: float = 1.0, shift: float = 0.0):
        rng = np.random.default_rng(seed)
        self.sites, self.examples, self.harm, self.shift, self.seed = sites, examples, harm, shift, seed
        self.weights = {site.name: float(w) for site, w in zip(sites, rng.gamma(1.0, 1.0, len(sites)), strict=True)}
        self.difficulty = np.random.default_rng(7).uniform(0, 1, examples)

    def fingerprint(self) -> str:
        return f"model {self.seed}"

    def evaluate(self, bitmaps: Any, limit: int | None = None) -> list[Evaluation]:
        return [self.score(bitmap, limit or self.limit or self.examples) for bitmap in bitmaps]

    def score(self, bitmap: Bitmap, count: int) -> Evaluation:
        error = sum(self.weights[site] * 4.0**-bits.weight for site, bits in bitmap.items()) / len(bitmap)
        quality = 0.78 + self.shift - 9.0 * self.harm * error
        noise = np.random.default_rng(zlib.crc32(str(bitmap).encode())).normal(0, 0.03, self.examples)
        margin = quality - self.difficulty + noise
        f1 = np.where(margin > 0, 100.0, np.clip(60 + 200 * margin, 0, 60)).round(2)[:count].tolist()
        exact = [100.0 if value == 100 else 0.0 for value in f1]
        metrics = {"exact_match": float(np.mean(exact)), "f1": float(np.mean(f1))}
        return Evaluation(metrics, count, {"exact_match": exact, "f1": f1})


def start(folder: Path, command: str, config: BaseConfig, run: str | None = None) -> RunDirectory:
    directory = RunDirectory.open(folder, command, to_plain(config))
    if run is not None:
        root = folder.parents[1] / "mlflow.db"
        write_json(folder / "tracking.json", {"run": run, "uri": f"sqlite:///{root}", "experiment": "qalof"})
    return directory


def train_config(objective: dict[str, Any], **more: Any) -> TrainConfig:
    task = {"name": "squad-span", "settings": {"data": "tiny", "max_length": 128, "stride": 32}}
    return validate(TrainConfig, {"task": task, "objective": objective, **more}, "test")


def write_train(folder: Path, config: TrainConfig, evaluations: dict[Any, Evaluation], sites: Any, run: str) -> None:
    directory = start(folder, "train", config, run)
    bitmaps = [Bitmap.parse(spec, [site.name for site in sites]) for spec in evaluations]
    scored = list(evaluations.values())
    write_json(folder / "evaluations.json", per_example(bitmaps, scored))
    directory.finish(
        {
            "checkpoint": str(folder / "checkpoint"),
            "task": config.task.name,
            "objective": config.objective.name,
            "steps": config.training.steps,
            "rows": rows(bitmaps, scored, sites),
            "seconds": 93.4,
        }
    )


def write_model(folder: Path, config: TrainConfig, model: Model, widths: tuple[int, ...], run: str) -> None:
    names = [site.name for site in model.sites]
    found = model.evaluate([Bitmap.uniform(names, width) for width in widths])
    write_train(folder, config, dict(zip(widths, found, strict=True)), model.sites, run)


def write_sensitivity(folder: Path, model: Model, checkpoint: Path, run: str) -> None:
    config = SensitivityConfig(checkpoint=str(checkpoint), limit=model.limit)
    directory = start(folder, "sensitivity", config, run)
    space = BitmapSpace.of(model, weight=[4, 8])
    found = run_search(
        space, model, ["max:f1"], "one_at_a_time", max_evaluations=None,
        storage=folder / "evaluations.jsonl", options={"reference": 8},
    )  # fmt: skip
    level = found.points[0].metrics["f1"]
    reference = {"bits": 8, "f1": [level.estimate, level.low, level.high]}
    ranking = [dict(row) for row in found.trace]
    directory.finish({"metric": "f1", "reference": reference, "ranking": ranking, "seconds": 41.0})


def write_search(folder: Path, model: Model, checkpoint: Path, run: str, evaluations: int = 12) -> None:
    limits = {"average_bits": 6.0}
    config = SearchConfig(
        checkpoint=str(checkpoint), limit=model.limit, strategy="nsga2", max_evaluations=evaluations, limits=limits,
        objectives=["max:f1", "min:weight_bytes"],
    )  # fmt: skip
    directory = start(folder, "search", config, run)
    space = BitmapSpace.of(model, weight=[2, 4, 8], limits=limits)
    found = run_search(
        space, model, config.objectives, "nsga2", max_evaluations=evaluations, storage=folder / "search.jsonl"
    )
    found.save(folder)
    front = found.front.to_dict("records")
    directory.finish({"evaluations": len(found.points), "front": front, "strategy": "nsga2", "seconds": 75.2})


def write_attack(
    folder: Path, sites: Any, checkpoint: Path, run: str, examples: int = 20, strength: float = 0.8
) -> Any:
    bitmaps = ("32", "8", "4")
    config = AttackConfig(checkpoint=str(checkpoint), limit=examples, bitmaps=[32, 8, 4])
    directory = start(folder, "attack", config, run)
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, examples)
    hard = rng.uniform(0, 1, examples)

    def flip(wrong: Any) -> Any:
        truth = labels.reshape(-1, *[1] * (wrong.ndim - 1))
        return np.where(wrong, 1 - truth, truth)

    clean = flip(np.stack([hard > 0.93, hard > 0.93, hard > 0.85], axis=1))
    adversarial = np.stack(
        [
            flip(rng.uniform(0, 1, (examples, 3)) < strength - 0.15 * np.abs(np.arange(3) - source))
            for source in range(3)
        ]
    )
    draws = DrawTable(
        flip((hard > 0.87)[:, None] & (rng.uniform(0, 1, (examples, 20)) < 0.9)),
        np.stack([flip(rng.uniform(0, 1, (examples, 20)) < strength * 0.7) for _ in range(3)]),
    )
    defense = RandomPrecision.of([site.name for site in sites], [8, 4], granularity="layer")
    report = robustness_of(PredictionTable(bitmaps, labels, clean, adversarial), [(defense, draws)])
    lines = [
        AttackResult(
            i, "gbda", bitmap, AttackStatus.SKIPPED if clean[i, j] != labels[i]
            else AttackStatus.SUCCESS if adversarial[j, i, j] != labels[i] else AttackStatus.FAILED,
            int(labels[i]), f"the {i}-th film was <b>good</b> & warm", f"the {i}-th film was <i>fine</i> & warm",
            1 + i % 2, 7, 401, 50, 12, (1.0, 0.5), 0,
        )
        for j, bitmap in enumerate(bitmaps) for i in range(examples)
    ]  # fmt: skip
    (folder / "attacks.jsonl").write_text("".join(json.dumps(line.to_json()) + "\n" for line in lines))
    write_json(folder / "robustness.json", report.to_json())
    directory.finish({"robustness": report.to_json(), "examples": examples, "seconds": 64.0})
    return report


STEPS = {"sp": "train", "cpt": "train", "sens": "sensitivity", "search": "search", "classes": "train", "hit": "attack"}


def write_pipeline(folder: Path, steps: dict[str, str], title: str = "A pipeline", seconds: float = 400.5) -> None:
    entries = [{"name": name, "command": command, "seconds": 60.0} for name, command in steps.items()]
    write_json(folder / "pipeline.json", {"title": title, "steps": entries, "seconds": seconds})


def class_config() -> TrainConfig:
    task = {"name": "classification", "settings": {"data": "tiny", "max_length": 64}}
    return validate(TrainConfig, {"task": task, "objective": {"name": "spnet", "bitmaps": [8, 4]}}, "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pipeline at START/runs/demo."""
    place = tmp_path_factory.mktemp("start") / "runs" / "demo"
    sites = make_sites(2, 16)
    sp, cpt = Model(sites, 80, seed=1), Model(sites, 80, seed=1, harm=3.0, shift=-0.08)
    write_model(place / "sp", train_config({"name": "spnet", "bitmaps": [8, 4]}), sp, (32, 8, 4, 3), "a1")
    write_model(place / "cpt", train_config({"name": "cpt", "cycles": 8}), cpt, (32, 8, 6, 4), "b2")
    sp.limit = 50
    write_sensitivity(place / "sens", sp, place / "sp" / "checkpoint", "c3")
    write_search(place / "search", sp, place / "sp" / "checkpoint", "d4")
    right = Evaluation({"accuracy": 75.0, "loss": 0.5}, 4, {"accuracy": [100.0, 100.0, 100.0, 0.0], "loss": [0.5] * 4})
    write_train(place / "classes", class_config(), {32: right, 8: right}, sites, "e5")
    write_attack(place / "hit", sites, place / "classes" / "checkpoint", "f6")
    write_pipeline(place, STEPS)
    return place


@pytest.fixture
def copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to change, without figures: they take most of the time, and are tested on the whole page."""
    for module in (plots, heat, view):
        monkeypatch.setattr(module, "to_svg", lambda figure, name, alt: Markup("<svg></svg>"))
    monkeypatch.setattr(view, "draw_bitmaps", lambda bitmaps: None)
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return write_report(folder).read_text()


def seen(page: str) -> str:
    """The page's words as they are read: no tags, no style, plain spaces."""
    text = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).replace("\u00a0", " ").split())


def steps_of(page: str) -> str:
    """The part of the page that shows the steps, after the answers, which quote what others published."""
    return page[page.index('<section id="summary"') :]


def summary_of(page: str, name: str) -> str:
    """What the summary says of a step."""
    return seen(re.search(rf"<dt><a href=\"#step-\d+\">{name}</a></dt>(.*?)</dd>", page, re.DOTALL)[1])


def change(path: Path, changed: Callable[[Any], Any]) -> None:
    write_json(path, changed(json.loads(path.read_text())))


def result_of(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())["result"]


def minus(text: str) -> str:
    return text.replace("-", "−")


def level(values: list[float]) -> str:
    value, low, high = values
    return minus(f"{value:.1f} [{low:.1f}, {high:.1f}]")


class Reader(HTMLParser):
    """Collects what a page consists of; ``open``: elements that were not closed."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_score_and_cost_on_the_page_is_the_files(folder: Path, page: str):
    text = seen(page)
    for name in ("sp", "cpt"):
        for row in result_of(folder / name)["rows"]:
            for values in row["metrics"].values():
                assert level(values) in text
            assert f'title="{row["cost"]["weight_bytes"]:,} bytes"' in page
            assert f"{row['cost']['average_bits']:.2f}" in text


def test_every_loss_of_the_ranking_is_the_files(folder: Path, page: str):
    text = seen(page)
    ranking = result_of(folder / "sens")["ranking"]
    assert len(ranking) == 8
    for row in ranking:
        drop = [row["f1_drop"], row["f1_drop_low"], row["f1_drop_high"]]
        told = formats.difference(Interval(*drop)).replace("\u00a0", " ")
        assert f"{row['unit']} 4 {told}" in text


def test_every_bitmap_of_the_front_is_shown_with_its_interval(folder: Path, page: str):
    text = seen(page)
    front = result_of(folder / "search")["front"]
    assert len(front) > 1
    for row in front:
        assert level([row["f1"], row["f1_low"], row["f1_high"]]) in text
        named = f'title="{html.escape(row["summary"])}">{short_name(row["bitmap"])}</td>'
        assert named in re.sub(r"\s+</td>", "</td>", re.sub(r">\s+", ">", page))


def test_every_rate_of_the_attack_is_the_files(folder: Path, page: str):
    text = seen(page)
    report = result_of(folder / "hit")["robustness"]
    rates = [rate for row in report["transfer"] for rate in row] + report["clean_accuracy"] + report["attack_success"]
    for source in report["random_precision"][0]["sources"]:
        rates += [source[name] for name in ("success_mean", "success_any", "control_mean", "recovered", "accuracy")]
    assert len(rates) == 30
    for rate in rates:
        shown = f"{100 * rate['estimate']:.0f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"
        assert shown in text
        assert f'title="{rate["hits"]} of {rate["trials"]}, from {rate["clusters"]} text' in page


def test_an_attacked_language_model_is_not_said_to_misread_and_has_next_tokens(copy: Path):
    path = copy / "hit" / "attacks.jsonl"
    measures = {"nll_before": 4.0, "nll_after": 5.0, "accuracy_before": 0.31, "accuracy_after": 0.23}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert "misread" in seen(write_report(copy).read_text())
    path.write_text(
        "".join(json.dumps(line | {"measures": measures, "substitutes": {"mask": "left out"}}) + "\n" for line in lines)
    )
    text = seen(steps_of(write_report(copy).read_text()))
    assert "misread" not in text.lower()
    assert "read rightly" not in text
    assert "Next tokens right" in text
    assert "31 %" in text
    assert "23 %" in text
    assert "mask: left out" in text
    assert "Success is a rise of the mean NLL" in text


def test_searched_prompts_are_told_with_what_they_elicit_and_not_as_texts_that_are_misread(copy: Path):
    path = copy / "hit" / "attacks.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line | {"target": " green tea"}) + "\n" for line in lines))
    text = seen(steps_of(write_report(copy).read_text()))
    assert "misread" not in text.lower()
    assert "read rightly" not in text
    assert "words changed" not in text.lower()
    assert "to be followed by “green tea”" in text
    assert "Random prompt held" in text


def test_models_are_compared_pair_by_pair_over_the_same_examples(folder: Path, page: str):
    scores = {}
    for name in ("sp", "cpt"):
        entries = json.loads((folder / name / "evaluations.json").read_text())
        scores[name] = [entry["evaluation"]["per_example"]["f1"] for entry in entries]
    for index, width in ((0, "32 bits (full precision)"), (1, "8 bits")):
        told = formats.difference(paired_difference(scores["cpt"][index], scores["sp"][index]))
        levels = " ".join(level(result_of(folder / name)["rows"][index]["metrics"]["f1"]) for name in ("cpt", "sp"))
        assert f"{width} {levels} {told} sp higher".replace("\u00a0", " ") in seen(page)
    assert "cpt against classes" not in seen(page)
    assert "classes against" not in seen(page)


def test_reference_bitmaps_of_a_search_are_cut_to_its_examples(folder: Path):
    record = read_record(folder, JOBS)
    model = Model(make_sites(2, 16), 80, seed=1)
    known = references(record, record.steps[3])
    assert {str(bitmap) for bitmap in known} == {"32", "8", "4", "3"}
    for bitmap, evaluation in known.items():
        direct = model.score(bitmap, 50)
        assert evaluation.per_example == direct.per_example
        assert evaluation.metrics == pytest.approx(direct.metrics, rel=1e-12)


def test_a_difference_is_claimed_only_where_its_interval_excludes_zero(tmp_path: Path):
    def of(values: list[float]) -> Evaluation:
        return Evaluation({"f1": float(np.mean(values))}, len(values), {"f1": values})

    rng = np.random.default_rng(0)
    base = rng.uniform(40, 90, 100)
    near, far = base + rng.normal(0.5, 10, 100), base - 5 + rng.normal(0, 1, 100)
    found = {32: of(base.tolist()), 8: of(near.tolist()), 4: of(far.tolist())}
    write_train(tmp_path / "runs" / "one", train_config({"name": "spnet"}), found, make_sites(2, 16), "a1")
    text = summary_of(write_report(tmp_path / "runs" / "one").read_text(), "one")
    unshown, shown = (paired_difference(values.tolist(), base.tolist()) for values in (near, far))
    assert unshown.low < 0 < unshown.high
    assert shown.high < 0
    assert f"{-shown.estimate:.2f} points [{-shown.high:.2f}, {-shown.low:.2f}] lower at 4 bits" in text
    assert f"no difference from full precision is shown at 8 bits ({minus(f'{unshown.estimate:.2f}')}" in text
    assert "at 8 bits than" not in text
    assert not re.search(r"(higher|lower) at 8 bits", text)


def test_rates_are_told_apart_only_where_their_intervals_do_not_meet():
    def of(low: float, high: float) -> Rate:
        return Rate(1, 2, 2, (low + high) / 2, low, high)

    assert beyond(of(0.1, 0.4), of(0.4, 0.8)) == ""
    assert beyond(of(0.1, 0.3), of(0.4, 0.8)) == "lower"
    assert beyond(of(0.9, 1.0), of(0.4, 0.8)) == "higher"
    assert beyond(Rate(0, 0, 0, None, 0.0, 1.0), of(0.4, 0.8)) == ""


@pytest.mark.parametrize(
    ("low", "high", "shown"), [(-1, 1, False), (0, 1, False), (-1, 0, False), (0.1, 1, True), (-1, -0.1, True)]
)  # fmt: skip
def test_an_interval_that_touches_zero_shows_nothing(low: float, high: float, shown: bool):
    assert is_shown(Interval((low + high) / 2, low, high)) is shown


def test_the_cheapest_good_bitmap_is_the_one_with_the_fewest_bits_within_a_point():
    def point(f1: float, bits: float) -> Point:
        return Point(
            Bitmap.uniform(["a"], 8), Cost(bits, int(100 * bits), 0, 0, 0), {"f1": Interval(f1, f1, f1)}, (), 4
        )

    points = [point(80.0, 8), point(79.0, 6), point(79.2, 5), point(78.9, 4), point(float("nan"), 2)]
    assert cheapest_within(points, "f1") == (0, 2)
    assert cheapest_within(points, "loss_of_no_unit") is None


def test_the_page_stands_alone(page: str):
    addresses = re.findall(r"https?://[^\s\"'<)]*", page)
    assert addresses
    assert all(address.startswith(ADDRESS) for address in addresses)
    reader = Reader(page)
    assert {tag for tag, _ in reader.elements}.isdisjoint(
        {"script", "link", "img", "iframe", "object", "embed", "base"}
    )
    assert not re.findall(r"(?i)@import|\bsrc=|url\((?!#)", page)


def test_the_page_is_well_formed_and_its_references_lead_somewhere(folder: Path, page: str):
    reader = Reader(page)
    assert reader.open == []
    names = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(names) == len(set(names))
    for tag, attrs in reader.elements:
        target = attrs.get("href") or ""
        if target.startswith("#"):
            assert target[1:] in names
        elif tag == "a" and not target.startswith(ADDRESS):
            assert (folder / target).exists()
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(names)


def test_every_figure_has_a_text_alternative_with_its_numbers(folder: Path, page: str):
    figures = [attrs for tag, attrs in Reader(page).elements if tag == "svg"]
    assert len(figures) == 10
    assert all(attrs["role"] == "img" and len(attrs["aria-label"] or "") > 40 for attrs in figures)
    value = result_of(folder / "sp")["rows"][0]["metrics"]["f1"][0]
    assert any(f"{value:.1f}\u00a0%" in (attrs["aria-label"] or "") for attrs in figures)


def test_the_same_files_give_the_same_page(folder: Path, page: str):
    assert write_report(folder).read_text() == page


def test_hostile_text_is_escaped(copy: Path):
    evil = '<script>alert("x")</script><img src=x onerror=y>'
    write_pipeline(copy, STEPS, title=evil)
    config = yaml.safe_load((copy / "sp" / "config.yaml").read_text())
    config["model"]["source"] = evil
    (copy / "sp" / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(copy / "sp" / "tracking.json", {"run": evil, "uri": f"sqlite:///{evil}", "experiment": evil})
    environment = json.loads((copy / "sp" / "environment.json").read_text()) | {"processor": evil}
    write_json(copy / "sp" / "environment.json", environment)
    page = write_report(copy).read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert html.escape(evil, quote=False).replace('"', "&#34;") in page
    assert "<b>good</b>" not in page  # of an attacked text
    assert Reader(page).open == []


def test_step_names_that_lead_out_of_the_folder_are_refused(copy: Path):
    write_pipeline(copy, {"../demo": "train"})
    with pytest.raises(BadInputError, match="step names"):
        write_report(copy)


def test_secrets_and_folders_of_the_user_are_left_out(copy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/someone")
    uri = "postgresql://me:hunter2@db.example/runs?sslpassword=hunter3"
    write_json(copy / "sp" / "tracking.json", {"run": "1", "uri": uri, "experiment": "qalof"})
    config = yaml.safe_load((copy / "sp" / "config.yaml").read_text())
    config["tracking"]["uri"], config["model"]["source"] = uri, "/home/someone/models/gpt2"
    (copy / "sp" / "config.yaml").write_text(yaml.safe_dump(config))
    page = write_report(copy).read_text()
    assert "hunter" not in page
    assert "postgresql://db.example/runs" in page
    assert "/home/someone" not in page
    assert "~/models/gpt2" in page


def test_commands_name_files_that_are_there_from_where_the_run_was_started(folder: Path, page: str):
    started = folder.parents[1]
    commands = [
        shlex.split(html.unescape(found)) for found in re.findall(r"<code>(qalof [^<]*)</code>", steps_of(page))
    ]
    steps = [words for words in commands if words[1] in JOB_CONFIGS]
    assert [words[1] for words in steps] == list(STEPS.values())
    for words in steps:
        load_config(JOB_CONFIGS[words[1]], started / words[words.index("--config") + 1])
        assert not (started / words[words.index("--output") + 1]).exists()
    assert ["qalof", "ui", "--root", "runs"] in commands


def test_commands_of_a_folder_that_was_moved_start_at_the_page(copy: Path):
    text = seen(write_report(copy).read_text())
    assert "qalof train --config sp/config.yaml --output sp-again" in text
    assert "from the folder of this page" in text


def test_runs_in_mlflow_are_linked(page: str):
    for run in ("a1", "b2", "c3", "d4", "e5", "f6"):
        assert f'href="{ADDRESS}/#/runs/{run}"' in page


def test_unfinished_and_missing_steps_are_shown_and_nothing_is_said_of_them(copy: Path):
    (copy / "search" / "result.json").unlink()
    shutil.rmtree(copy / "hit")
    page = write_report(copy).read_text()
    text = seen(page)
    assert "Without a result: search and hit." in text
    assert summary_of(page, "search") == "Not finished: there is no result to report."
    assert summary_of(page, "hit") == "Not there: there is no result to report."
    assert "Its record holds 12 evaluations so far." in text
    assert "qalof search --config search/config.yaml --output search " in text
    assert "Finished 2" not in text
    assert "attack succeeds" not in text


def test_a_pipeline_under_way_shows_the_steps_that_have_begun(copy: Path):
    (copy / "pipeline.json").unlink()
    (copy / "cpt" / "result.json").unlink()
    shutil.copytree(copy / "sp", copy / "sp.1")
    text = seen(write_report(copy).read_text())
    assert "This pipeline has not finished" in text
    assert "Without a result: cpt." in text
    assert "sp.1" not in text
    assert "in finished steps so far" in text


def test_runs_that_the_pipeline_does_not_name_are_mentioned(copy: Path):
    write_pipeline(copy, {name: command for name, command in STEPS.items() if name != "cpt"})
    assert "1 run that the pipeline's last run did not name, not shown here: cpt." in seen(
        write_report(copy).read_text()
    )


@pytest.mark.parametrize(("source", "said"), [("tiny", True), ("openai-community/gpt2", False)])
def test_runs_of_the_tiny_model_are_said_to_prove_nothing_about_real_ones(copy: Path, source: str, said: bool):
    for name in ("sp", "cpt", "classes"):
        path = copy / name / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config["model"]["source"] = source
        path.write_text(yaml.safe_dump(config))
    assert (PLANTED in seen(write_report(copy).read_text())) == said


def test_a_single_run_has_a_report_of_its_own(copy: Path):
    for name, command in STEPS.items():
        target = write_report(copy / name)
        assert target == copy / name / "report.html"
        text = seen(target.read_text())
        assert f"qalof {command} --config config.yaml --output ../{name}-again" in text
        assert "not finished" not in text


def test_runs_given_one_by_one_are_gathered_into_one_report_and_compared(copy: Path, tmp_path: Path):
    runs = [copy / name for name in ("sp", "cpt", "sens", "search")]
    page, document = write_reports(runs, output=tmp_path / "all")
    assert (page, document) == (tmp_path / "all" / "report.html", tmp_path / "all" / "report.pdf")
    text = seen(page.read_text())
    assert "4 runs: sp, cpt, sens and search" in text
    assert "Does cyclic precision training help" in text
    assert "cpt against sp, F1 on the same examples" in text
    assert "cpt against sp (spnet) 8 bits" in text
    assert "of step sp" in text  # the search's checkpoint is known to be that run's
    for href in re.findall(r'<li><a href="([^"#]+)"', page.read_text()):
        assert (page.parent / href).exists()
    assert write_reports(runs[:2], ["html"]) == [copy / "report.html"]
    with pytest.raises(BadInputError, match="each run once"):
        write_reports([copy / "sp", copy / "cpt", copy / "cpt" / "."])
    with pytest.raises(BadInputError, match="--format must be html or pdf: got 'pfd'"):
        write_reports(runs, ["pfd"])


def test_each_question_shows_the_references_numbers_beside_ours_and_the_commands_of_both(page: str):
    asked = re.findall(r'<section id="question-\d" class="answer".*?</section>', page, re.DOTALL)
    assert len(asked) == 6
    told = list(map(seen, asked))
    assert all("As published: " in one and "Makes ours" in one and "Made by" in one for one in told[:-1])
    assert "qalof run --config configs/s1/cpt.yaml" in told[3]
    assert "Full precision 63.83 75.08" in told[3]  # S1's
    assert "Of 3 paired comparisons with other models, CPT is worse in 3" in told[3]
    assert "Double-Win Quant" in told[4]
    assert 'aria-label="F1 over packed weights' in asked[1]


def test_wall_time_is_that_of_the_steps_where_a_rerun_skipped_them(copy: Path):
    total = sum(result_of(copy / name)["seconds"] for name in STEPS)
    write_pipeline(copy, STEPS, seconds=12.0)
    expected = f"Wall time {formats.duration(total)}; the last run took 12 s, as finished steps were skipped"
    assert expected in seen(write_report(copy).read_text())


def test_environments_that_differ_are_told_by_step(copy: Path):
    path = copy / "hit" / "environment.json"
    changed = json.loads(path.read_text()) | {"git": {"commit": "f" * 40, "dirty": False}, "accelerators": ["A100"]}
    write_json(path, changed)
    text = seen(write_report(copy).read_text())
    assert f"{'f' * 12} (hit)" in text
    assert re.search(r"A100 \(hit\)", text)


@pytest.mark.parametrize(
    ("step", "file", "content"),
    [
        ("sp", "result.json", "{"),
        ("sp", "result.json", "[]"),
        ("sp", "result.json", '{"format_version": 1}'),
        ("sp", "result.json", '{"format_version": 9, "result": {}}'),
        ("sp", "result.json", '{"format_version": 1, "result": {"seconds": 1}}'),
        ("sp", "result.json", '{"format_version": 1, "result": {"seconds": 1, "task": "", "rows": [{"bitmap": 8}]}}'),
        ("sp", "evaluations.json", "[]"),
        ("sp", "evaluations.json", '[{"bitmap": 3}]'),
        ("sp", "environment.json", "[]"),
        ("sp", "config.yaml", "a: [1"),
        ("sp", "run.json", "{}"),
        ("sens", "result.json", '{"format_version": 1, "result": {"seconds": 1, "metric": "f1", "ranking": []}}'),
        ("search", "front.json", "{}"),
        ("search", "search.jsonl", "no json\n"),
        ("hit", "attacks.jsonl", '{"example_id": 1}\n'),
        ("sp", "losses.jsonl", '{"step": 1}\n'),
        ("sp", "losses.jsonl", "no json\n"),
    ],
)  # fmt: skip
def test_damaged_files_are_bad_input_that_names_the_file(copy: Path, step: str, file: str, content: str):
    (copy / step / file).write_text(content)
    with pytest.raises(BadInputError, match=re.escape(str(copy / step))):
        write_report(copy)


def test_a_front_that_does_not_fit_the_result_is_refused(copy: Path):
    result = result_of(copy / "search")
    write_json(copy / "search" / "result.json", {"format_version": 1, "result": {**result, "evaluations": 99}})
    with pytest.raises(BadInputError, match="99 evaluations"):
        write_report(copy)


def test_a_search_without_a_finite_score_is_reported_as_such(tmp_path: Path):
    collapsed = Model(make_sites(1, 8), 10, harm=float("nan"))
    write_search(tmp_path / "runs" / "one", collapsed, tmp_path / "checkpoint", "a1", 4)
    text = summary_of(write_report(tmp_path / "runs" / "one").read_text(), "one")
    assert text == (
        "nsga2 evaluated 4 bitmaps; none has a finite score, so there is no front. "
        "4 bitmaps could not be evaluated, the first, 2, because of: f1 is nan."
    )


def losses_line(step: int, losses: dict[str, float]) -> str:
    return json.dumps({"step": step, "learning_rate": 0.1, "losses": losses}) + "\n"


def test_the_last_line_of_a_repeated_step_counts_and_torn_lines_are_no_lines(tmp_path: Path):
    lines = [losses_line(step, {"8": 3.0 - step, "4": 5.0}) for step in (0, 1, 2)]
    again = losses_line(1, {"8": 2.5, "4": 6.0})
    whole = (LossCurve("8", (1, 2, 3), (3.0, 2.5, 1.0)), LossCurve("4", (1, 2, 3), (5.0, 6.0, 5.0)))
    (tmp_path / "losses.jsonl").write_text("".join(lines) + again)
    assert read_losses(tmp_path) == whole
    (tmp_path / "losses.jsonl").write_text("".join(lines) + again[:20])
    assert read_losses(tmp_path)[0].values == (3.0, 2.0, 1.0)
    (tmp_path / "losses.jsonl").write_text("".join(lines) + losses_line(3, {"8": 1.0})[:31] + again)
    assert read_losses(tmp_path) == whole
    (tmp_path / "losses.jsonl").write_text("")
    assert read_losses(tmp_path) == ()


def test_each_width_of_cyclic_training_is_a_curve_of_its_own_steps(tmp_path: Path):
    text = "".join(losses_line(step, {str(4 + step % 2): float(step)}) for step in range(4))
    (tmp_path / "losses.jsonl").write_text(text)
    assert read_losses(tmp_path) == (LossCurve("5", (2, 4), (1.0, 3.0)), LossCurve("4", (1, 3), (0.0, 2.0)))


def test_smoothing_keeps_constants_and_length_and_is_a_mean_over_the_window():
    assert smoothing_window(10) == 1
    assert smoothing_window(200) == 11
    for logs in (False, True):
        assert smoothed([2.0] * 9, 5, logs) == pytest.approx([2.0] * 9, rel=1e-12)
    assert smoothed([1.0, 2.0, 6.0, 3.0], 3) == pytest.approx([1.5, 3.0, 11 / 3, 4.5])
    assert smoothed([1.0, 4.0], 3, True) == pytest.approx([2.0, 2.0])
    assert smoothed([1.0, 4.0], 1) == [1.0, 4.0]


def test_the_loss_axis_is_logarithmic_only_where_losses_range_over_a_decade():
    assert logarithmic([LossCurve("8", (1, 2), (5.0, 0.5))])
    assert not logarithmic([LossCurve("8", (1, 2), (5.0, 0.6))])
    assert not logarithmic([LossCurve("8", (1, 2), (5.0, 0.0))])


def test_pictures_that_a_run_keeps_stand_alone_and_the_report_says_what_they_are(folder: Path, tmp_path: Path):
    kept = {"sens": "sensitivity.svg", "hit": "transfer.svg", "classes": "loss.svg"}
    for name, file in kept.items():
        place = Path(shutil.copytree(folder / name, tmp_path / name))
        (place / "losses.jsonl").write_text(losses_line(0, {"8": 4.0}) + losses_line(1, {"8": 2.0}))
        (written,) = write_pictures(JOBS[STEPS[name]], place, result_of(place))
        assert written == place / file
        assert ElementTree.parse(written).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in written.read_text()
        assert any(fnmatch(file, pattern) for pattern in FILES)
    assert write_pictures(JOBS["search"], folder / "search", result_of(folder / "search")) == []


def test_losses_are_drawn_with_their_numbers_as_text(folder: Path, tmp_path: Path):
    place = Path(shutil.copytree(folder / "classes", tmp_path / "classes"))
    text = "".join(losses_line(step, {"8": 4.0 / (step + 1), "4": 8.0 / (step + 1)}) for step in range(20))
    (place / "losses.jsonl").write_text(text)
    page = write_report(place).read_text()
    figures = [attrs["aria-label"] or "" for tag, attrs in Reader(page).elements if tag == "svg"]
    told = "8 bits: 4 at step 1, lowest 0.2, 0.2 at step 20; 4 bits: 8 at step 1, lowest 0.4, 0.4 at step 20"
    assert any(told in figure for figure in figures)
    assert "training loss of every step" in page
    (place / "result.json").unlink()
    page = write_report(place).read_text()
    assert "so far, up to step 20" in page
    assert "Nothing is concluded from what is not finished" in page
    assert loss_blocks((), "p", True) == []


def test_a_pipeline_that_has_begun_shows_the_steps_it_plans(copy: Path):
    shutil.rmtree(copy / "hit")
    (copy / "classes" / "result.json").unlink()
    entries = [{"name": name, "command": command} for name, command in STEPS.items()]
    for entry in entries[:4]:
        entry["seconds"] = 60.0  # type: ignore[assignment]
    write_json(copy / "pipeline.json", {"title": "Under way", "steps": entries})
    page = write_report(copy).read_text()
    text = seen(page)
    assert "<h1>Under way</h1>" in page
    assert "This pipeline has not finished: it is under way or was broken off." in text
    assert "Without a result: classes and hit." in text
    assert summary_of(page, "hit") == "Not begun: there is no result to report."
    assert summary_of(page, "classes") == "Not finished: there is no result to report."
    assert "This step has not begun." in text
    assert "in finished steps so far" in text
    assert "not come to" not in text


def test_results_that_a_rerun_has_not_come_to_are_said_to_be_of_an_earlier_run(copy: Path):
    entries = [{"name": name, "command": command} for name, command in STEPS.items()]
    write_json(copy / "pipeline.json", {"title": "Again", "steps": [{**entries[0], "seconds": 1.0}, *entries[1:]]})
    text = seen(write_report(copy).read_text())
    assert "has not come to cpt, sens, search, classes and hit yet" in text


def test_scores_that_are_not_finite_are_shown_as_such_and_claim_nothing(copy: Path):
    path = copy / "sp" / "result.json"
    data = json.loads(path.read_text())
    scores = json.loads((copy / "sp" / "evaluations.json").read_text())
    for index in (0, 3):
        for name in data["result"]["rows"][index]["metrics"]:
            data["result"]["rows"][index]["metrics"][name] = [None, None, None]
            scores[index]["evaluation"]["metrics"][name] = None
            scores[index]["evaluation"]["per_example"][name][0] = None
    write_json(path, data)
    write_json(copy / "sp" / "evaluations.json", scores)
    page = write_report(copy).read_text()
    text = summary_of(page, "sp")
    assert re.search(r"not finite at full precision(,| and 3 bits;)", text)
    assert "not finite %" not in text
    assert "nan" not in seen(page).lower().split()
    assert "Paired over the same examples" not in text  # the reference has no score
    assert "full precision" not in summary_of(page, "cpt").split("Paired over the same examples, ")[-1]
    record = read_record(copy, JOBS)
    assert [len(one.x) for one in (_series("sp", scored_of(record.steps[0])),)] == [2]  # type: ignore[arg-type]


def test_units_without_a_finite_score_are_counted_and_not_ranked(copy: Path):
    path = copy / "sens" / "result.json"
    data = json.loads(path.read_text())
    for bound in ("", "_low", "_high"):
        data["result"]["ranking"][0][f"f1_drop{bound}"] = None
    write_json(path, data)
    page = write_report(copy).read_text()
    assert "1 change had no finite score." in summary_of(page, "sens")
    assert "4 not finite – " in seen(page)


def test_uniform_bitmaps_outside_a_search_that_beat_its_front_are_named(copy: Path):
    config = yaml.safe_load((copy / "search" / "config.yaml").read_text())
    sites = make_sites(2, 16)
    weak = Model(sites, 80, seed=1, shift=-0.4)  # what the search found is worse than what training found
    weak.limit = 50
    shutil.rmtree(copy / "search")
    write_search(copy / "search", weak, Path(config["checkpoint"]), "d4")
    text = summary_of(write_report(copy).read_text(), "search")
    assert re.search(r"Uniform 3 bits \([^)]*as training scored it\) was not tried here; it costs no more than №", text)
    record = read_record(copy, JOBS)
    found = outside(record, record.steps[3], searched_of(record.steps[3]))  # type: ignore[arg-type]
    assert {str(bitmap) for bitmap in found} <= {"3", "4", "8"}


def test_rivals_of_a_uniform_bitmap_are_all_mixed_ones_that_cost_no_more(copy: Path):
    record = read_record(copy, JOBS)
    step = record.steps[3]
    points = searched_of(step).result.points  # type: ignore[union-attr]
    text = summary_of(write_report(copy).read_text(), "search")
    for point in points:
        if len(set(point.bitmap.values())) > 1:
            continue
        cheaper = [
            p for p in points if len(set(p.bitmap.values())) > 1 and p.cost.weight_bytes <= point.cost.weight_bytes
        ]
        assert (f"Against uniform {point.bitmap} bits, the best mixed bitmap" in text) is bool(cheaper)


def test_the_times_that_a_run_wrote_are_shown_whatever_became_of_its_files(copy: Path):
    for name in STEPS:
        seconds = result_of(copy / name)["seconds"]
        begun = datetime(2026, 3, 1, 12, tzinfo=UTC)
        change(copy / name / "run.json", lambda head, begun=begun: head | {"started": begun.isoformat()})
        ended = (begun + timedelta(seconds=seconds)).isoformat()
        change(copy / name / "result.json", lambda result, ended=ended: result | {"finished": ended})
    text = seen(write_report(copy).read_text())
    assert "Started 2026-03-01 12:00 UTC" in text
    assert "Finished 2026-03-01 12:" in text


def test_times_of_runs_that_wrote_none_are_shown_only_where_the_files_can_have_them(copy: Path):
    for name in STEPS:
        for file, key in (("run.json", "started"), ("result.json", "finished")):
            change(copy / name / file, lambda data, key=key: {k: v for k, v in data.items() if k != key})
    assert "Started" not in seen(write_report(copy).read_text())
    for name in STEPS:
        begun = (copy / name / "run.json").stat().st_mtime
        ended = begun + result_of(copy / name)["seconds"]
        os.utime(copy / name / "result.json", (ended, ended))
    text = seen(write_report(copy).read_text())
    assert "Started 20" in text
    assert "Finished 20" in text


@pytest.mark.parametrize(
    ("names", "told"),
    [(["32", "8", "7"], "full precision, 8 and 7 bits"), (["8"], "8 bits"), (["8", "4x3,2"], "8 bits and 4x3,2")],
)
def test_widths_that_follow_each_other_share_their_unit(names: list[str], told: str):
    assert formats.bitmap_names(names) == told


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(BadInputError, match="folder of a run"):
        write_report(tmp_path)
    with pytest.raises(BadInputError, match="folder of a run"):
        write_report(tmp_path / "nowhere")


def test_labels_may_hold_what_means_something_to_the_drawing(tmp_path: Path):
    text = '$a_b$ id="q" <tspan> #0072b2 url(#x)'
    with styled():
        figure, (axes,) = new_figure(3, 2)
        axes.plot([0, 1], [0, 1], color=BLUE, label=text)
        axes.legend()
        drawn = to_svg(figure, "p", text)
    assert html.escape(text, quote=False) in drawn
    assert "var(--blue)" in drawn
    assert 'id="q"' not in re.sub(r">[^<]*<", "><", drawn)


def drawn_figure(name: str) -> str:
    with styled():
        figure, (axes,) = new_figure(3, 2)
        axes.errorbar([0, 1], [0, 1], yerr=[0.1, 0.2], fmt="o", color=BLUE)
        axes.bar([0, 1], [1, 2], hatch="////")
        axes.imshow([[1, 2], [3, 4]])
        return str(to_svg(figure, name, "a figure"))


def test_figures_of_one_page_share_no_identifier_and_refer_to_their_own():
    seen: set[str] = set()
    for name in ("first", "second"):
        drawn = drawn_figure(name)
        assert drawn_figure(name) == drawn, "a report is the same whenever it is written"
        ids = re.findall(r'\bid="([^"]*)"', drawn)
        assert len(ids) == len(set(ids)) > 0
        assert not seen & set(ids)
        seen |= set(ids)
        assert {*re.findall(r'href="#([^"]*)"', drawn), *re.findall(r"url\(#([^)]*)\)", drawn)} <= set(ids)
        assert not re.search(r"xmlns|http|metadata|<style", drawn), "a page that stands alone names no address"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 bytes"), (528, "528 bytes"), (1044, "1.02 KiB"), (402_000, "0.383 MiB"), (3 << 20, "3.00 MiB")],
)
def test_bytes_have_three_digits_and_a_unit(value: int, text: str):
    assert formats.size(value).replace("\u00a0", " ") == text


@pytest.mark.parametrize(("value", "text"), [(-0.04, "0.0"), (-0.05001, "−0.1"), (78.25, "78.2"), (0.0, "0.0")])
def test_numbers_have_a_true_minus_and_no_negative_zero(value: float, text: str):
    assert formats.signed(value, 1) == text
