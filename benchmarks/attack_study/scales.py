"""How large a study is, and what it attacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from attack_study.proposals import RememberingBertAttack
from qalof.attacks.methods.gbda import GbdaSettings
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.substitutes.masked_words import LEFT_CONTEXT
from qalof.errors import BadInputError

WIDTHS = {"sp": ("32", "w8a8kv8", "w4a8kv8"), "rpt": tuple(f"w{bits}a8kv8" for bits in (8, 7, 6, 5, 4))}
"""What each victim is trained at; activations and the KV cache stay at 8 bits, since 4 destroy this model."""

SOURCES = {"sp": WIDTHS["sp"], "rpt": ("w8a8kv8", "w6a8kv8", "w4a8kv8")}
"""Where each victim is attacked, and where every text is read."""

DRAWN = {"sp": ("w8a8kv8", "w4a8kv8"), "rpt": WIDTHS["rpt"]}
"""The set that random precision draws from, uniformly."""

FIXED_DRAWS = 4
"""Draws per step of the attacker who takes the mean under the granularity ``layer``."""


@dataclass(frozen=True)
class Group:
    """Texts of one data set, one victim and one method."""

    data: str
    victim: str
    method: str
    texts: int

    @property
    def name(self) -> str:
        """The name of the group, as it stands in records and results."""
        return f"{self.method}/{self.data}/{self.victim}"


@dataclass(frozen=True)
class Scale:
    """One size of the whole study; lengths in tokens, batches in texts."""

    groups: tuple[tuple[str, str, str, int], ...]
    """(method, data, victim, texts), the most important first."""
    steps: int
    batch: int
    train_texts: int | None
    test_texts: int
    max_length: int = 64
    learning_rate: float = 1e-3
    rank: int = 8
    request_draws: int = 20
    layer_draws: int = 6
    judge_texts: int = 10
    """Texts that are judged at once, the grain of a resume."""
    together: int = 1
    """Texts whose questions are answered in one forward pass, by the attacks on words."""
    gbda: dict[str, Any] = field(default_factory=dict)
    candidates: int = 48
    most_queries: int | None = None
    """The budget of an attack on words, per text."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """The precision of products on a CPU, in trainings and in attacks."""
    own_steps: dict[str, int] = field(default_factory=dict)
    """Steps on the data sets that do not take ``steps``."""

    def of_groups(self) -> Iterator[Group]:
        """Return the groups, the most important first."""
        for method, data, victim, texts in self.groups:
            yield Group(data, victim, method, texts)

    def trainings(self) -> list[tuple[str, str]]:
        """Return (data, victim) of every victim, in the order of the groups."""
        return list(dict.fromkeys((group.data, group.victim) for group in self.of_groups()))

    def only(self, named: Sequence[str] | None, texts: int | None) -> Scale:
        """Return this size with at most so many texts per group, and with the named methods and groups alone.

        Args:
            named: Methods, such as ``gbda``, and groups, such as ``gbda/sst2/sp``, in the order in which they are to be
                done; None takes every group, in the order of this size.
            texts: The most texts of a group, or None.

        Raises:
            BadInputError: A name is neither a method nor a group of this size.
        """
        groups = list(self.of_groups())
        kept = dict.fromkeys(groups) if named is None else {}
        for name in named or ():
            found = [group for group in groups if name in (group.method, group.name)]
            if not found:
                known = sorted({each for group in groups for each in (group.method, group.name)})
                raise BadInputError(f"attacks must be among {', '.join(known)} at this scale: got {name!r}")
            kept.update(dict.fromkeys(found))
        cut = tuple((group.method, group.data, group.victim, min(group.texts, texts or group.texts)) for group in kept)
        return replace(self, groups=cut)

    def settings(self, method: str, synonyms: str, encoder: str, masked_lm: str = LEFT_CONTEXT) -> Any:
        """Return the settings of an attack."""
        if method == "gbda":
            return GbdaSettings(max_length=self.max_length, **self.gbda)
        shared: dict[str, Any] = {"encoder": encoder, "max_length": self.max_length, "most_queries": self.most_queries}
        if method == "textfooler":
            return TextFoolerSettings(synonyms=synonyms, metric="cosine", least_similarity=0.8, **shared)
        return RememberingBertAttack(candidates=self.candidates, least_similarity=0.8, masked_lm=masked_lm, **shared)


_ALL = tuple((data, victim) for victim in ("sp", "rpt") for data in ("sst2", "ag_news"))
SCALES = {
    "gpu": Scale(
        (
            *(("textfooler", data, victim, 200) for data, victim in _ALL),
            ("gbda", "sst2", "sp", 100), ("bert-attack", "sst2", "sp", 200), ("bert-attack", "ag_news", "sp", 200),
            ("gbda", "ag_news", "sp", 100), ("bert-attack", "sst2", "rpt", 200), ("gbda", "sst2", "rpt", 100),
        ),
        steps=240, batch=48, train_texts=None, test_texts=800, judge_texts=32, together=32,
        gbda={"iterations": 60, "samples": 50},
    ),
    # what a few minutes of one GPU do beside other work
    "gpu-short": Scale(
        (
            ("textfooler", "sst2", "sp", 200), ("textfooler", "sst2", "rpt", 200), ("textfooler", "ag_news", "sp", 200),
            ("bert-attack", "sst2", "sp", 200), ("gbda", "sst2", "sp", 100),
        ),
        steps=100, batch=48, train_texts=None, test_texts=400, layer_draws=4, judge_texts=32, together=32,
        gbda={"iterations": 40, "samples": 20},
    ),
    # many hours of one core with bf16 instructions; a shorter run is cut to --attacks, --texts and --minutes
    "cpu": Scale(
        (
            ("textfooler", "sst2", "sp", 200), ("bert-attack", "sst2", "sp", 200), ("textfooler", "ag_news", "sp", 200),
            ("gbda", "sst2", "sp", 100), ("textfooler", "sst2", "rpt", 200), ("bert-attack", "ag_news", "sp", 200),
        ),
        steps=120, batch=16, train_texts=None, test_texts=400, layer_draws=4, judge_texts=20, together=20,
        gbda={"iterations": 30, "batch": 5, "samples": 20}, candidates=24, most_queries=200, precision="bf16",
        own_steps={"ag_news": 60},
    ),
    # every stage once, in minutes; nothing is learned and nothing follows from the numbers
    "mini": Scale(
        (("textfooler", "sst2", "sp", 2), ("gbda", "sst2", "sp", 1), ("bert-attack", "ag_news", "rpt", 1)),
        steps=2, batch=4, train_texts=16, test_texts=4, max_length=12, request_draws=3, layer_draws=1, judge_texts=2,
        gbda={"iterations": 1, "batch": 1, "samples": 2}, candidates=3,
    ),
}  # fmt: skip
