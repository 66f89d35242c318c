"""The settings that make a model switchable, apart from the model itself and its adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from transformers import PreTrainedModel

from qalof.errors import BadInputError, nearest_hint
from qalof.model.adapter_inits import takes_from_weight
from qalof.model.adapters import SHARED, AdapterPolicy, AdapterSpec
from qalof.model.layers.lora_linear import LoraInput, MergeOrder
from qalof.model.norms import NormMode
from qalof.model.sites import find_sites
from qalof.quantization.granularity import Granularity
from qalof.quantization.methods.lsq import Lsq
from qalof.quantization.scheme import QuantizationScheme, TensorScheme
from qalof.site import EmbeddingMode, HeadMode, KvGranularity, Site

TIED = (HeadMode.TIED_VIEW, HeadMode.TIED_BOTH)


@dataclass(frozen=True)
class SwitchSettings:
    """How a model is made switchable (docs/methods/adapters.md, docs/concepts.md); each type says what its values mean.

    Strings and objects are read as the types.

    Raises:
        BadInputError: A value does not exist.
    """

    policy: AdapterPolicy = AdapterPolicy.NEAREST_HIGHER
    """Which adapter serves a bit-width that has none of its own."""
    head_mode: HeadMode = HeadMode.NONE
    """Whether the language-modeling head is a site, and what becomes of a weight that it shares with the embedding."""
    include: tuple[str, ...] = ("*",)
    """The patterns of site names; a layer is a site where one of them matches."""
    exclude: tuple[str, ...] = ()
    """The patterns of what is left out; a layer that one of them matches is no site."""
    merge: MergeOrder = MergeOrder.BRANCH
    """Where a LoRA branch is added to the weight's output, and what is rounded."""
    lora_input: LoraInput = LoraInput.RAW
    """What a branch sees: the layer's input as it is (``raw``) or rounded (``quantized``)."""
    norms: NormMode = NormMode.FROZEN
    """Whether norms are trained, and whether each adapter has copies of its own."""
    kv_granularity: KvGranularity = KvGranularity.TOKEN
    """What shares a scale in the KV cache: all keys of a token, or those of one head."""
    quantization: QuantizationScheme = field(default_factory=QuantizationScheme)
    """The quantizers of weights, activations, KV cache and embedding."""
    full_finetune: bool = False
    """Whether the pretrained weights are trained too, and saved."""
    embedding: EmbeddingMode = EmbeddingMode.NONE
    """Whether the input embedding is a site: ``site`` gives it a bit-width of its own, rounded row by row, and with it
    a head that shares its weight."""

    def __post_init__(self) -> None:
        kinds: dict[str, type[StrEnum]] = {
            "policy": AdapterPolicy,
            "head_mode": HeadMode,
            "merge": MergeOrder,
            "lora_input": LoraInput,
            "norms": NormMode,
            "embedding": EmbeddingMode,
        }
        for name, kind in kinds.items():
            object.__setattr__(self, name, _member(kind, getattr(self, name), name))
        object.__setattr__(self, "kv_granularity", KvGranularity.parse(self.kv_granularity))
        object.__setattr__(self, "quantization", QuantizationScheme.from_json(self.quantization))
        self._check_quantizers()
        if self.embedding is EmbeddingMode.SITE and self.head_mode is HeadMode.TIED_BOTH:
            raise BadInputError(
                "head_mode tied_both makes embedding and head one site, at the head's width: got embedding site too; "
                "take embedding none, or head_mode none, under which a tied head follows the embedding"
            )
        for name in ("include", "exclude"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise BadInputError(f"{name} must be a list of patterns: got the string {value!r}; write [{value!r}]")
            object.__setattr__(self, name, tuple(value))

    def sites_of(self, model: PreTrainedModel) -> tuple[Site, ...]:
        """Return the sites of an unpatched ``model`` under these settings: the one place where settings become sites.

        Raises:
            BadInputError: See :func:`qalof.model.sites.find_sites`.
        """
        return find_sites(
            model,
            self.head_mode,
            self.include,
            self.exclude,
            self.kv_granularity,
            quantization=self.quantization,
            embedding=self.embedding,
        )

    def with_embedding(self, scheme: TensorScheme) -> SwitchSettings:
        """Return these settings with the embedding as a site, rounded by ``scheme``."""
        return replace(self, embedding=EmbeddingMode.SITE, quantization=replace(self.quantization, embedding=scheme))

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict; :meth:`from_json` reads it back."""
        own = ("quantization", "full_finetune", "embedding")
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in own}
        data = {name: list(value) if isinstance(value, tuple) else str(value) for name, value in plain.items()}
        # a key that is off is left out, so earlier files, which do not know it, are written alike
        trained: dict[str, Any] = {"full_finetune": True} if self.full_finetune else {}
        rounded = {} if self.embedding is EmbeddingMode.NONE else {"embedding": str(self.embedding)}
        return data | {"quantization": self.quantization.to_json()} | trained | rounded

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SwitchSettings:
        """Read the form of :meth:`to_json`.

        Raises:
            BadInputError: A key or value is unknown.
        """
        known = [field.name for field in fields(cls)]
        for name in data:
            if name not in known:
                raise BadInputError(f"no setting {name!r}; {nearest_hint(name, known)}")
        return cls(**data)

    def check_adapters(self, specs: Mapping[str, AdapterSpec]) -> None:
        """Refuse adapters that these settings cannot have.

        Raises:
            BadInputError: Two choices exclude each other; the message names them and a way out.
        """
        for name, spec in specs.items():
            if spec.dropout and self.merge.one_input:
                raise BadInputError(
                    f"merge {self.merge} has no branch input to drop from: adapter {name} has dropout {spec.dropout}; "
                    "set it to 0, or merge branch"
                )
            if spec.init == "loftq" and (name == SHARED or self.merge is MergeOrder.MERGE_THEN_QUANTIZE):
                why = "is shared by all widths" if name == SHARED else f"merges first ({self.merge})"
                raise BadInputError(
                    f"init loftq compensates for the rounding of one width: adapter {name} {why}; take kaiming"
                )
        if self.merge is MergeOrder.MERGE_THEN_QUANTIZE and self.head_mode is HeadMode.TIED_BOTH:
            raise BadInputError(
                "an adapter may be merged into a head only where the embedding does not change with it: "
                "got merge_then_quantize with head_mode tied_both; take tied_view or untied"
            )
        if self.norms.copies and not specs:
            raise BadInputError(f"norms {self.norms} makes one copy per adapter: there are none; take shared")
        self._check_starts(specs)

    def _check_quantizers(self) -> None:
        by_head = any(quantizer.granularity is Granularity.HEAD for quantizer in self.quantization.kv.all())
        if by_head and self.kv_granularity is not KvGranularity.HEAD:
            raise BadInputError(
                "a cache quantizer with granularity head needs kv_granularity head, by which the cache is priced: "
                f"got {self.kv_granularity}"
            )
        learned = any(isinstance(quantizer, Lsq) for quantizer in self.quantization.weight.all())
        if learned and self.merge in (MergeOrder.QUANTIZE_PRODUCT, MergeOrder.QUANTIZE_FACTORS):
            raise BadInputError(
                f"lsq learns the steps of one weight: it has none for a branch alone, which merge {self.merge} rounds; "
                "take branch or merge_then_quantize"
            )

    def _check_starts(self, specs: Mapping[str, AdapterSpec]) -> None:
        taking = {spec.init for spec in specs.values() if takes_from_weight(spec.init)}
        if not taking:
            return
        law = f"init {sorted(taking)[0]} takes one product out of the weight that all adapters share"
        if self.full_finetune:
            raise BadInputError(f"{law}, which full fine-tuning changes: take init kaiming, or full_finetune false")
        if len({(spec.rank, spec.alpha, spec.rslora, spec.init) for spec in specs.values()}) > 1:
            raise BadInputError(f"{law}, so all need the same init, rank and alpha: got {dict(specs)}")
        if self.policy is AdapterPolicy.NONE and SHARED not in specs:
            raise BadInputError(f"{law}, so no width may run without one: got policy none; take nearest_higher")
        if self.head_mode in TIED:
            raise BadInputError(f"{law}, which an embedding would share: got head_mode {self.head_mode}; take untied")


def _member(kind: type[StrEnum], value: str, name: str) -> StrEnum:
    if value not in set(kind):
        raise BadInputError(
            f"{name} must be one of {', '.join(kind)}: got {value!r}; {nearest_hint(value, map(str, kind))}"
        )
    return kind(value)
