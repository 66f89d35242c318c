"""The section ``method``: an attack, by its name, and its settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrate.config.base import BaseConfig
from qalof.attacks.methods.arca import ArcaSettings
from qalof.attacks.methods.bert_attack import BertAttackSettings
from qalof.attacks.methods.gbda import GbdaSettings
from qalof.attacks.methods.textfooler import TextFoolerSettings


class GbdaConfig(BaseConfig):
    """The gradient-based distributional attack, on a classifier."""

    name: Literal["gbda"] = "gbda"
    """The name by which a config picks this attack."""
    settings: GbdaSettings = GbdaSettings()
    """The settings of the attack."""


class ArcaConfig(BaseConfig):
    """A search for prompts that make a causal language model say a fixed output; also AutoPrompt, HotFlip and GCG."""

    name: Literal["arca"] = "arca"
    """The name by which a config picks this attack."""
    settings: ArcaSettings = ArcaSettings()
    """The settings of the attack."""


class TextFoolerConfig(BaseConfig):
    """Synonyms replace the words that matter most, on a classifier or a language model."""

    name: Literal["textfooler"]
    """The name by which a config picks this attack."""
    settings: TextFoolerSettings = TextFoolerSettings()
    """The settings of the attack."""


class BertAttackConfig(BaseConfig):
    """A language model proposes words in place of those that matter most, on a classifier or a language model."""

    name: Literal["bert-attack"]
    """The name by which a config picks this attack."""
    settings: BertAttackSettings = BertAttackSettings()
    """The settings of the attack."""


MethodConfig = Annotated[GbdaConfig | TextFoolerConfig | BertAttackConfig | ArcaConfig, Field(discriminator="name")]
