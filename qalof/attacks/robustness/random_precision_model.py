"""A model that serves every request at a precision of its own: random precision inference as a user runs it.

    served = RandomPrecisionModel(model, RandomPrecision.of(model.site_names, (4, 8), seed=7))
    served(input_ids=ids, attention_mask=mask).logits
    served.generate(ids, max_new_tokens=20)

Each row of a batch is a request.  Requests are numbered in the order in which they come, so what a request gets does
not depend on how it was batched (but for the last bits of floating-point sums); ``next_request`` may be set, to replay
one.  Rows that drew the same bitmap run in one pass.

Under the granularity ``token`` each position draws for itself.  A text is then read position by position through its
KV cache, which holds keys and values of mixed widths; a prompt is read in the same way before tokens are generated, so
a generated text and the same text read again meet the same widths.

Every draw is told to ``on_draw``, and those of the last call are kept in ``drawn``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from qalof.attacks.robustness.random_precision import DrawGranularity, RandomPrecision
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.model.pretrained import HeadKind
from qalof.model.switchable import SwitchableModel

_log = logging.getLogger(__name__)


class Drawn(NamedTuple):
    """What a request, or under ``token`` one of its positions, ran at."""

    request: int
    draw: int
    position: int | None
    bitmap: Bitmap


class RandomPrecisionModel:
    """See the module's docstring; what is not defined here is the model's own.

    Args:
        model: the model that is served; between calls it is at the bitmap that it had.
        defense: what is drawn.
        draw: which of a request's repetitions this is.
        on_draw: called with each draw.

    Raises:
        BadInputError: The defense has other sites than the model.
    """

    splits_rows = True
    """The rows of a batch run in several passes, so a head runs at all of their tokens."""

    def __init__(
        self, model: SwitchableModel, defense: RandomPrecision, draw: int = 0,
        on_draw: Callable[[Drawn], None] | None = None,
    ) -> None:  # fmt: skip
        if defense.choices[0].sites != model.site_names:
            raise BadInputError("a defense must have the sites of the model it serves: make it of model.site_names")
        self.model, self.defense, self.draw, self.on_draw = model, defense, draw, on_draw
        self.next_request = 0
        self.drawn: tuple[Drawn, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)

    def __call__(self, input_ids: torch.Tensor | None = None, **inputs: Any) -> Any:
        """Run the forward of the model, each row at its own bitmap.

        Args:
            input_ids: (B, T); ``inputs_embeds`` (B, T, features) may be given instead.
            inputs: further arguments; tensors whose first size is B are shared out with the rows.

        Returns:
            The model's output with its tensors of B rows; what belongs to one pass alone, such as a cache, is left out.

        Raises:
            BadInputError: labels or a cache are given, or ``token`` has no ``input_ids``.
        """
        given = {**inputs} if input_ids is None else {"input_ids": input_ids, **inputs}
        for name in ("labels", "past_key_values"):
            if given.get(name) is not None:
                raise BadInputError(f"random precision reads whole texts and gives no loss: got {name}; leave it out")
        size = _rows_of(given)
        if self.defense.granularity is DrawGranularity.TOKEN:
            return self._by_position(given, self._numbers(size))
        parts = [(rows, self._pass(bitmap, _share(given, rows, size))) for bitmap, rows in self._groups(size)]
        return parts[0][1] if len(parts) == 1 else _joined(parts, size)

    def generate(self, inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        """Generate from prompts (B, T), padded on the left, each row at its own bitmap: (B, T + new tokens).

        A row that ends early is filled up with the pad token.  ``options`` are those of transformers' ``generate``.

        Raises:
            BadInputError: an output other than token ids is asked for.
        """
        if options.get("return_dict_in_generate"):
            raise BadInputError("generate under random precision gives token ids: leave return_dict_in_generate out")
        size = len(inputs)
        found: dict[int, torch.Tensor] = {}
        if self.defense.granularity is DrawGranularity.TOKEN:
            for row, request in enumerate(self._numbers(size)):
                own = _share({"input_ids": inputs, **options}, [row], size)
                found[row] = self._generate_by_position(own, request)
        else:
            for bitmap, rows in self._groups(size):
                own = _share({"input_ids": inputs, **options}, rows, size)
                with self.model.at(bitmap):
                    made = self.model.generate(own.pop("input_ids"), **own)
                each = made.split(len(made) // len(rows))
                found |= dict(zip(rows, each, strict=True))
        return _filled([found[row] for row in range(size)], self._pad(options))

    def _numbers(self, size: int) -> list[int]:
        first, self.next_request = self.next_request, self.next_request + size
        self.drawn = ()
        return list(range(first, first + size))

    def _groups(self, size: int) -> list[tuple[Bitmap, list[int]]]:
        """Return the rows by the bitmap that they drew."""
        groups: dict[Bitmap, list[int]] = {}
        for row, request in enumerate(self._numbers(size)):
            bitmap = self.defense.bitmap(request, self.draw)
            self._note(Drawn(request, self.draw, None, bitmap))
            groups.setdefault(bitmap, []).append(row)
        return list(groups.items())

    def _pass(self, bitmap: Bitmap, inputs: Mapping[str, Any]) -> Any:
        with self.model.at(bitmap):
            return self.model(**inputs)

    def _note(self, drawn: Drawn) -> None:
        self.drawn = (*self.drawn, drawn)
        _log.debug("request %d position %s runs at %s", drawn.request, drawn.position, drawn.bitmap)
        if self.on_draw is not None:
            self.on_draw(drawn)

    @contextmanager
    def _drawing(self, request: int) -> Iterator[None]:
        """Let every pass of the transformers model run at the bitmap of the position that it begins at."""

        def before(module: Any, args: Any, kwargs: Any) -> None:
            cache = kwargs.get("past_key_values")
            position = 0 if cache is None else int(cache.get_seq_length())
            bitmap = self.defense.bitmap(request, self.draw, position)
            self.model.set_bitmap(bitmap, quiet=True)
            self._note(Drawn(request, self.draw, position, bitmap))

        hook = self.model.model.register_forward_pre_hook(before, with_kwargs=True)
        try:
            with self.model.at():
                yield
        finally:
            hook.remove()

    def _read(self, ids: torch.Tensor, cache: DynamicCache) -> list[Any]:
        """Read (1, T) token ids one by one into ``cache``, within :meth:`_drawing`."""
        step = self.model.model
        return [step(input_ids=ids[:, t : t + 1], past_key_values=cache, use_cache=True) for t in range(ids.shape[1])]

    def _by_position(self, given: Mapping[str, Any], requests: Sequence[int]) -> Any:
        if given.get("input_ids") is None:
            raise BadInputError("granularity token reads texts position by position: give input_ids")
        ids, mask = given["input_ids"], given.get("attention_mask")
        parts = []
        for row, request in enumerate(requests):
            real = torch.ones_like(ids[row], dtype=torch.bool) if mask is None else mask[row].bool()
            with self._drawing(request):
                read = self._read(ids[row][real][None], DynamicCache(config=self.model.model.config))
            parts.append(([row], self._stretched(read, real)))
        return _joined(parts, len(requests))

    def _stretched(self, read: Sequence[Any], real: torch.Tensor) -> Any:
        """Return the outputs of one row's positions as one output; a pad's are zeros, a classifier's are its last."""
        if self.model.base.head is HeadKind.CLASSIFIER:
            return read[-1]
        found = {}
        for name, value in read[0].items():
            if isinstance(value, torch.Tensor):
                values = torch.cat([each[name] for each in read], dim=1)
                whole = values.new_zeros((1, len(real), *values.shape[2:]))
                whole[:, real] = values
                found[name] = whole
        return type(read[0])(**found)

    def _generate_by_position(self, own: dict[str, Any], request: int) -> torch.Tensor:
        prompt, mask = own.pop("input_ids"), own.pop("attention_mask", None)
        ids = prompt if mask is None else prompt[mask.bool()][None]
        cache = DynamicCache(config=self.model.model.config)
        with self._drawing(request), torch.no_grad():
            self._read(ids[:, :-1], cache)
            made = self.model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=cache, **own)
        new: torch.Tensor = made[:, ids.shape[1] :]
        return torch.cat([prompt.expand(len(new), -1), new], dim=1)

    def _pad(self, options: Mapping[str, Any]) -> int:
        given = options.get("pad_token_id")
        config = self.model.model.config
        known = [given, config.pad_token_id, config.eos_token_id, 0]
        return int(next(token for token in known if isinstance(token, int)))


def _rows_of(inputs: Mapping[str, Any]) -> int:
    first = inputs.get("input_ids")
    first = inputs.get("inputs_embeds") if first is None else first
    if not isinstance(first, torch.Tensor):
        raise BadInputError("random precision counts requests by rows: give input_ids or inputs_embeds")
    return len(first)


def _share(inputs: Mapping[str, Any], rows: Sequence[int], size: int) -> dict[str, Any]:
    """Return the arguments of some rows: tensors with a row per request are cut, all else stays."""
    cut = {k for k, v in inputs.items() if isinstance(v, torch.Tensor) and v.ndim and len(v) == size}
    return {name: value[list(rows)] if name in cut else value for name, value in inputs.items()}


def _joined(parts: Sequence[tuple[Sequence[int], Any]], size: int) -> Any:
    """Return one output of the outputs of some rows each, in the order of the rows."""
    order = torch.tensor([row for rows, _ in parts for row in rows]).argsort()

    def join(values: Sequence[Any]) -> Any:
        if all(isinstance(value, torch.Tensor) for value in values):
            return torch.cat(list(values))[order.to(values[0].device)]
        if all(isinstance(value, tuple) and all(isinstance(x, torch.Tensor) for x in value) for value in values):
            return tuple(join(each) for each in zip(*values, strict=True))
        return None

    joined = {name: join([output[name] for _, output in parts]) for name in parts[0][1]}
    return type(parts[0][1])(**{name: value for name, value in joined.items() if value is not None})


def _filled(rows: Sequence[torch.Tensor], pad: int) -> torch.Tensor:
    longest = max(row.shape[1] for row in rows)
    return torch.cat([torch.nn.functional.pad(row, (0, longest - row.shape[1]), value=pad) for row in rows])
