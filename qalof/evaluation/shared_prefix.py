"""Forward passes that begin where a bitmap first differs from a reference, bit for bit those of the whole model.

A site that alone is rounded anew changes nothing before it.  A :class:`SharedPrefix` is called in a model's place. At
the reference it records the output of every block, call by call; afterwards it runs the model with the blocks before
the changed one replaced by what they gave, and within that block the modules that had finished before the changed site.
The model itself still does all the rest (embeddings, masks, norms, the head), so no family needs code of its own and
the result is exactly that of the full forward.  Over all sites of a chain of blocks this halves the work.

``generate`` and a call with other inputs than the recorded ones run in full.  The price is memory: one hidden state per
token and block, and the inner outputs of one block at a time (:func:`prefix_bytes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.model.blocks import block_places, blocks_of, noting, run_by
from qalof.model.switchable import SwitchableModel


class _BlockDone(Exception):
    """Ends a pass at the end of the block whose modules were to be recorded."""


@dataclass
class _Call:
    """What one forward pass at the reference left: its inputs, and the output of each block that has been run once."""

    inputs: dict[str, Any]
    blocks: list[Any] = field(default_factory=list)
    inner: dict[nn.Module, Any] = field(default_factory=dict)
    inner_of: int | None = None


@dataclass(frozen=True)
class _Change:
    """Where a pass must begin: the first block to run, and the modules whose numbers change."""

    block: int
    modules: frozenset[nn.Module]


class SharedPrefix:
    """A model to call while its bitmap differs from the reference at a few sites.

        shared = SharedPrefix(model, "8")
        with shared.recording():
            reference = task.evaluate(shared)
        with shared.changing(["h.3.mlp.c_fc"]), model.at(bitmap):
            lowered = task.evaluate(shared)

    Args:
        model: a model, whose weights must not change while this is in use.
        reference: the bitmap that others are compared with.
    """

    def __init__(self, model: SwitchableModel, reference: Bitmap | str | int) -> None:
        self.model, self.reference = model, reference
        self._blocks = blocks_of(model)
        self._place = block_places(self._blocks)
        outer = [switch.lora or switch.linear for switch in model.switches]
        self._inside = {part for layer in outer for part in layer.modules() if part is not layer}
        self._calls: list[_Call] = []
        self._next = 0
        self._recording = False
        self._change: _Change | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the calls within the block, at the reference, in place of those recorded before."""
        self._calls, self._next, self._recording = [], 0, True
        try:
            with self.model.at(self.reference, eval=True), torch.no_grad():
                yield
        finally:
            self._recording = False

    @contextmanager
    def changing(self, sites: Sequence[str]) -> Iterator[None]:
        """Share what stands before ``sites`` within the block; the model differs from the reference there alone."""
        self._change, self._next = self._change_of(sites), 0
        try:
            yield
        finally:
            self._change = None

    def __call__(self, **inputs: Any) -> Any:
        """Run the model on ``inputs``, as it is called itself."""
        if self._recording:
            return self._record(inputs)
        call = self._calls[self._next] if self._next < len(self._calls) else None
        self._next += 1
        if self._change is None or call is None or not call.blocks or not _equal(call.inputs, inputs):
            return self.model(**inputs)
        with ExitStack() as stack:
            self._skip(stack, call, self._change.block, self._shared_modules(call, inputs))
            return self.model(**inputs)

    def _record(self, inputs: dict[str, Any]) -> Any:
        call = _Call(dict(inputs))
        self._calls.append(call)
        order: list[tuple[nn.Module, Any]] = []
        with ExitStack() as stack:
            for block in self._blocks:
                stack.enter_context(run_by(block, noting(block, order)))
            outputs = self.model(**inputs)
        if [block for block, _ in order] == self._blocks:  # a family that repeats its blocks shares nothing
            call.blocks = [output for _, output in order]
        return outputs

    def _skip(self, stack: ExitStack, call: _Call, first: int, inner: dict[nn.Module, Any]) -> None:
        given = dict(zip(self._blocks[:first], call.blocks, strict=False)) | inner
        for module, output in given.items():
            stack.enter_context(run_by(module, lambda *a, _output=output, **k: _output))

    def _shared_modules(self, call: _Call, inputs: dict[str, Any]) -> dict[nn.Module, Any]:
        """Return the outputs of the modules of the first block to run that finish before any that changes begins."""
        assert self._change is not None
        if self._change.block >= len(self._blocks):
            return {}
        if call.inner_of != self._change.block:
            self._record_inner(call, inputs, self._change.block)
        shared: dict[nn.Module, Any] = {}
        for module, output in call.inner.items():
            if module in self._change.modules:
                break
            shared[module] = output
        return shared

    def _record_inner(self, call: _Call, inputs: dict[str, Any], index: int) -> None:
        """Run one block at the reference and keep the outputs of its modules, in the order in which they finish."""
        block = self._blocks[index]
        order: list[tuple[nn.Module, Any]] = []

        def ended(*args: Any, **kwargs: Any) -> Any:
            run(*args, **kwargs)
            raise _BlockDone

        run = block.forward
        with ExitStack() as stack:
            stack.enter_context(self.model.at(self.reference))
            self._skip(stack, call, index, {})
            for module in block.modules():
                if module is not block and module not in self._inside:
                    stack.enter_context(run_by(module, noting(module, order)))
            stack.enter_context(run_by(block, ended))
            with suppress(_BlockDone):
                self.model(**inputs)
        call.inner, call.inner_of = _once(order), index

    def _change_of(self, sites: Sequence[str]) -> _Change | None:
        """Return where passes begin; None where nothing can be shared."""
        switches = [switch for switch in self.model.switches if switch.site.name in sites]
        if len(switches) != len(set(sites)):
            raise BadInputError(f"changed sites must be those of the model: got {list(sites)}")
        modules: set[nn.Module] = set()
        for switch in switches:
            outer = switch.lora or switch.linear
            if not switch.site.is_head and outer not in self._place:
                return None  # an embedding, or a layer before the blocks
            modules |= {outer, *(switch.norms if switch.lora is not None else [])}
        tied = self.model.settings.head_mode == "tied_both" and any(switch.site.is_head for switch in switches)
        if tied or any(module not in self._place for switch in switches for module in switch.norms):
            return None
        first = min((self._place[module] for module in modules if module in self._place), default=len(self._blocks))
        return _Change(first, frozenset(part for module in modules for part in module.modules()))


def prefix_bytes(model: SwitchableModel, tokens: int) -> int:
    """Return the bytes that a shared prefix keeps for ``tokens`` tokens, without the inner outputs of one block."""
    config = model.model.config.get_text_config()
    hidden = int(getattr(config, "hidden_size", 0) or getattr(config, "n_embd", 0))
    return tokens * hidden * len(blocks_of(model)) * next(model.parameters()).element_size()


def _once(order: list[tuple[nn.Module, Any]]) -> dict[nn.Module, Any]:
    """Return what was run once, in order; another module's output is never that of one call alone."""
    times: dict[nn.Module, int] = {}
    for module, _ in order:
        times[module] = times.get(module, 0) + 1
    return {module: output for module, output in order if times[module] == 1}


def _equal(kept: dict[str, Any], given: dict[str, Any]) -> bool:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
            return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
        return bool(a == b)

    return kept.keys() == given.keys() and all(same(value, given[name]) for name, value in kept.items())
