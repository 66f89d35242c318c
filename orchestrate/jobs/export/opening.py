"""Opening a checkpoint for an export: its model, its bitmap, and a width for an embedding that has none of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrate.config.base import BitmapSpec
from orchestrate.jobs.export.config import ExportFormat
from qalof.bitmap import Bitmap
from qalof.checkpoint import opening as checkpoints
from qalof.checkpoint.manifest import describe as described
from qalof.checkpoint.manifest import read_manifest
from qalof.errors import BadInputError, EmbeddingError
from qalof.export.compressed_tensors_limits import check_expressible
from qalof.export.gguf_families import family_of
from qalof.export.gguf_tensors import tensor_type
from qalof.layer_bits import FULL_PRECISION, LayerBits, check_width
from qalof.model.switchable import SwitchableModel
from qalof.quantization.methods.float16 import Float16
from qalof.quantization.methods.gguf import Gguf
from qalof.quantization.scheme import TensorScheme
from qalof.site import EmbeddingMode, HeadMode

EMBEDDING_BITS = 8
"""The width of an embedding that has none of its own, in every export that sets no other."""
BLOCK = 32
"""How many columns one block of a GGUF file has."""
GGUF_EMBEDDING = TensorScheme(Gguf(), {16: Float16()})
"""How a GGUF file rounds such an embedding: by Q8_0, Q5_0, Q4_0 or F16."""


@dataclass(frozen=True)
class Opened:
    """The model to be written, and its bitmap, with a width for an embedding that is rounded for the file alone."""

    model: SwitchableModel
    asked: Bitmap
    bitmap: Bitmap
    embedding_bits: int | None


def open_for_export(
    checkpoint: Path, bitmap: BitmapSpec, form: str = ExportFormat.PACKED, embedding_bits: int | str | None = None
) -> Opened:
    """Load the checkpoint, and read its bitmap.

    The arguments are those of :func:`~orchestrate.jobs.export.write.export_checkpoint`.

    Raises:
        BadInputError: the checkpoint cannot be loaded, the bitmap does not fit it, or the embedding cannot have its
            width.
    """
    settings = described(read_manifest(checkpoint), checkpoint).settings
    own = settings.embedding is EmbeddingMode.SITE or settings.head_mode is HeadMode.TIED_BOTH
    if own and embedding_bits is not None:
        raise BadInputError(
            f"--embedding-bits is for an embedding without a width: the bitmap gives it one, got {embedding_bits} too; "
            "leave the option out, and name the width in the bitmap"
        )
    bits = None if own else _read_bits(embedding_bits)
    if form == ExportFormat.COMPRESSED:
        if bits is not None and embedding_bits is not None:
            raise BadInputError(
                f"--embedding-bits must be none for {form}, which rounds linear layers alone: got {embedding_bits}"
            )
        bits = None
    if bits is None:
        model = checkpoints.load(checkpoint)
        parsed = model.set_bitmap(Bitmap.parse(bitmap, [site.name for site in model.sites]))
        return Opened(model, parsed, parsed, None)
    scheme = settings.quantization.embedding if form == ExportFormat.PACKED else GGUF_EMBEDDING
    try:
        model = checkpoints.load(checkpoint, embedding=scheme)
        _check_embedding(model, scheme, bits)
    except EmbeddingError as error:
        raise BadInputError(
            f"an export rounds the embedding to {bits} bits, which this one cannot have ({error}); "
            "--embedding-bits none leaves it as it is"
        ) from None
    asked = Bitmap.parse(bitmap, [site.name for site in model.sites if site.has_adapter])
    width = LayerBits(bits, FULL_PRECISION, FULL_PRECISION)
    return Opened(model, asked, Bitmap({name: asked.get(name, width) for name in model.site_names}), bits)


def check_widths(opened: Opened, form: str) -> None:
    """Check that the format has every width of the bitmap.

    Raises:
        BadInputError: GGUF lacks a width, or the family of the model.
    """
    if form == ExportFormat.PACKED:
        return
    if form == ExportFormat.COMPRESSED:
        check_expressible(opened.model, opened.bitmap)
        return
    family_of(opened.model.model.config)
    for site in opened.model.sites:
        tensor_type(site, opened.bitmap[site.name].weight_width)


def _check_embedding(model: SwitchableModel, scheme: TensorScheme, bits: int) -> None:
    """Check that what the export alone rounds can have its width.

    Raises:
        EmbeddingError: ``scheme`` lacks the width, or cannot group the rows.
    """
    quantizer = scheme.at(bits)
    try:
        quantizer.check_bits(bits)
        for site in model.sites:
            if not site.has_adapter:
                quantizer.check_shape(site.in_features)
                if isinstance(quantizer, Gguf) and site.in_features % BLOCK:
                    raise BadInputError(f"GGUF rounds rows in blocks of {BLOCK} columns: got {site.in_features}")
    except BadInputError as error:
        raise EmbeddingError(str(error)) from None


def _read_bits(given: int | str | None) -> int | None:
    """Read a width below full precision, or None, which leaves the embedding alone."""
    if given is None:
        return EMBEDDING_BITS
    text = str(given)
    if text != "none" and not text.isdecimal():
        raise BadInputError(f"--embedding-bits must be none or a width from 2 to 16, or 32: got {text!r}; 8 is usual")
    bits = FULL_PRECISION if text == "none" else check_width(int(text), "--embedding-bits")
    return None if bits == FULL_PRECISION else bits
