"""A GGUF file as a pretrained model: its weights are dequantized, and its tokenizer comes from the same file.

transformers reads such files, but takes 15 seconds for one of 135 M parameters, most of them for the vocabulary, in
every process, and twice where tokenizer and model are both needed. So a file is converted once: into a folder in
Hugging Face's format, fp32, in the cache, under a name that is a digest of the file's content.  From then on the model
is that folder, whose weights are mapped and shared by all processes.  Dequantizing on every start with vectorized numpy
was rejected: it saves disk space (four bytes per weight) and costs every process two seconds and a copy of its own.

The config of the folder says what the weights once were (:data:`ORIGIN`), and so do checkpoints and exports made of it:
"full precision" means the result of dequantization here.

Three things that transformers ignores are corrected or refused: the number of positions, the way text is split
(:mod:`qalof.model.byte_level_splits`), and tensors of rotary factors.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from qalof.cache import cache_dir
from qalof.digests import file_digest
from qalof.errors import BadInputError
from qalof.files import MANIFEST, sealed_folder
from qalof.model.byte_level_splits import canonical, pre_tokenizer
from qalof.writing import disk_errors

MAGIC = b"GGUF"
ORIGIN = "dequantized_from"
"""The key of a config that says how the weights of a GGUF file were stored.

``file`` is its name, ``sha256`` its digest; ``types`` says how many weights had which type, and ``layers`` which type
most weights of the blocks' layers had.
"""

CONVERSION = 1
"""This number is raised when a conversion gives another result than before."""

_log = logging.getLogger(__name__)


def is_gguf(path: Path) -> bool:
    """Return whether a file begins as a GGUF file does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def find_gguf(path: Path) -> Path | None:
    """Return the GGUF file that ``path`` means: itself, or the only one of a folder that holds no ``config.json``.

    Raises:
        BadInputError: The file is not GGUF, or the folder holds several.
    """
    if path.is_file():
        if not is_gguf(path):
            raise BadInputError(f"a model file must be a GGUF file: {path} does not begin as one; give a GGUF file")
        return path
    found = [] if (path / "config.json").exists() else sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise BadInputError(f"a model folder must hold one GGUF file: {path} holds {len(found)}; name {found[0]}")
    return found[0] if found else None


def converted(path: Path) -> Path:
    """Return the folder of a GGUF file's model in Hugging Face's format; the first process that asks makes it.

    Raises:
        BadInputError: The file is damaged or cut, or it holds something that is not known here.
        DiskError: The disk is full.
    """
    sha = file_digest(path)
    folder = cache_dir() / "converted" / f"{sha[:32]}-{CONVERSION}-{transformers.__version__}"
    with disk_errors(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f"{folder.name}.lock")):
                if not (folder / MANIFEST).is_file():
                    _log.warning("%s is dequantized once, into the cache", path.name)
                    _convert(path, sha, folder)
        except PermissionError as error:
            raise BadInputError(f"a GGUF file is converted into the cache: {error}; set QALOF_CACHE") from None
    return folder


def stored_as(config: Any) -> str | None:
    """Return the type of most layer weights in a model's GGUF file, such as ``Q4_1``; None if it came from no such
    file.

    Args:
        config: the config of the transformers model.
    """
    origin: Mapping[str, Any] | None = getattr(config, ORIGIN, None)
    return str(origin["layers"]) if origin else None


@dataclass(frozen=True)
class _Header:
    """The facts of a file that transformers does not read."""

    positions: int | None
    """The longest sequence, in tokens."""
    split: str | None
    """How a byte-level BPE splits text."""
    types: dict[str, int]
    """The number of weights of each type."""
    layers: str
    """The type of most weights in the blocks' layers."""


def _convert(path: Path, sha: str, folder: Path) -> None:
    header = {"kind": "converted-gguf", "format_version": CONVERSION, "from": path.name, "sha256": sha}
    transformers_logging.disable_progress_bar()
    try:
        found = _read_header(path)
        origin = {"file": path.name, "sha256": sha, "types": found.types, "layers": found.layers}
        with sealed_folder(folder, header) as beside:
            _write(path, found, origin, beside)
    except BadInputError as error:
        raise BadInputError(f"{error}" if str(path) in f"{error}" else f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # gguf, transformers and tokenizers raise many kinds, all about the content
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise BadInputError(
            f"a GGUF file must be whole and hold a language model that transformers knows: {path} is refused "
            f"({said}); get it again, or give the model in Hugging Face's format"
        ) from None


def _read_header(path: Path) -> _Header:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    fields = reader.fields

    def field(name: str) -> Any:
        return fields[name].contents() if name in fields else None

    if (kind := field("general.type")) not in (None, "model"):
        raise BadInputError(f"a model's GGUF file must have general.type model: {path} has {kind!r}; give the base")
    if (parts := field("split.count") or 1) > 1:
        raise BadInputError(
            f"a GGUF file must be whole: {path} is one of {parts} parts; merge them by llama-gguf-split"
        )
    for tensor in reader.tensors:
        if tensor.name.startswith("rope_"):
            raise BadInputError(
                f"a GGUF file must hold no rotary factors, which transformers leaves out: {path} has {tensor.name}; "
                "give the model in Hugging Face's format"
            )
    types: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] += int(tensor.n_elements)
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            layers[tensor.tensor_type.name] += int(tensor.n_elements)
    split = field("tokenizer.ggml.pre") if field("tokenizer.ggml.model") == "gpt2" else None
    positions = field(f"{field('general.architecture')}.context_length")
    most = (layers or types).most_common(1)[0][0]
    return _Header(positions, canonical(split) if split else None, dict(types.most_common()), most)


def _write(path: Path, header: _Header, origin: Mapping[str, Any], folder: Path) -> None:
    """Fill ``folder`` with config, fp32 weights and tokenizer."""
    options = {"gguf_file": path.name, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **options)
    if header.split is not None:
        core = tokenizer.backend_tokenizer
        core.pre_tokenizer = pre_tokenizer(header.split)
        if header.split == "llama-bpe":
            core.model.ignore_merges = True  # Llama 3's own tokenizer.json says so
    config = transformers.AutoConfig.from_pretrained(path.parent, **options)
    if header.positions is not None:
        config.max_position_embeddings = header.positions
    model, report = AutoModelForCausalLM.from_pretrained(
        path.parent, **options, config=config, dtype=torch.float32, output_loading_info=True
    )
    if report["missing_keys"]:
        raise ValueError(f"it lacks {sorted(report['missing_keys'])[0]}")
    if len(tokenizer) > (rows := len(model.get_input_embeddings().weight)):
        raise ValueError(f"it has {len(tokenizer)} tokens and {rows} rows in its embedding")
    _save(model, folder)
    config = model.config
    del config.quantization_config  # nothing is quantized any more
    setattr(config, ORIGIN, dict(origin))
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save(model: transformers.PreTrainedModel, folder: Path) -> None:
    tensors: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        tensors.setdefault(tensor.data_ptr(), (name, tensor.to(torch.float32).contiguous()))  # tied ones once
    save_file(dict(tensors.values()), folder / "model.safetensors", metadata={"format": "pt"})
