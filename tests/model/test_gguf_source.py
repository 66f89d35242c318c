"""A GGUF file is a model like any other: its values, its tokenizer, its errors."""

import json
import shutil

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

import qalof
from qalof.errors import BadInputError
from qalof.export.gguf_file import gguf_values, write_gguf, write_gguf_lora
from qalof.model import gguf_source
from qalof.model.adapters import AdapterSpec
from qalof.model.byte_level_splits import SAME, pre_tokenizer, split_name
from qalof.model.gguf_source import stored_as
from qalof.model.pretrained import BaseModel, HeadKind, load_pretrained, load_tokenizer, resolve_source
from qalof.model.switchable import build

SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 64, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
TEXT = "Where was Ada born in  1815? It's said: 12,345 miles away."


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QALOF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def plain(random_model, tmp_path_factory):
    """``plain(family)``: folder of a random model in Hugging Face's format."""

    def of(family):
        if family == "gpt2":
            return random_model
        folder = tmp_path_factory.mktemp(family)
        tokenizer = load_tokenizer(random_model)
        kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[family]
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(kind(vocab_size=len(tokenizer), **SIZES)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return of


@pytest.fixture(scope="module")
def file(random_model, tmp_path_factory):
    """A file of the random GPT-2 at 8 bits."""
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_gguf(model_of(random_model), "w8a32kv32", path, load_tokenizer(random_model))
    return path


def model_of(source):
    return build(BaseModel(str(source), HeadKind.CAUSAL_LM), {}).eval()


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize(("bits", "kind"), [(32, "F32"), (8, "Q8_0"), (4, "Q4_0")])
def test_the_model_is_the_file_s_values_and_says_what_they_were(plain, family, bits, kind, tmp_path):
    model, tokenizer = model_of(plain(family)), load_tokenizer(plain(family))
    write_gguf(model, f"w{bits}a32kv32", tmp_path / "m.gguf", tokenizer)
    loaded = load_pretrained(str(tmp_path / "m.gguf"), HeadKind.CAUSAL_LM)
    assert loaded.dtype is torch.float32
    assert stored_as(loaded.config) == kind
    assert loaded.config.max_position_embeddings == model.model.config.max_position_embeddings
    again = gguf_values(model_of(tmp_path / "m.gguf"), "w32a32kv32")
    for name, values in gguf_values(model, f"w{bits}a32kv32").items():
        assert torch.equal(values, again[name]), name


def test_the_tokenizer_is_that_of_the_file(file, random_model):
    assert load_tokenizer(str(file))(TEXT)["input_ids"] == load_tokenizer(random_model)(TEXT)["input_ids"]


@pytest.mark.parametrize("head", list(HeadKind))
def test_any_head_goes_on_top(file, head):
    labels = 3 if head is HeadKind.CLASSIFIER else None
    assert load_pretrained(str(file), head, labels=labels).dtype is torch.float32


def test_a_file_is_converted_once_whoever_asks_and_again_when_its_content_changes(file, tmp_path, monkeypatch):
    converted = []
    original = gguf_source._convert
    monkeypatch.setattr(gguf_source, "_convert", lambda *a: (converted.append(a), original(*a)))
    copy = tmp_path / "copy.gguf"
    shutil.copy(file, copy)
    folders = {resolve_source(str(path)) for path in (file, copy, copy, file)}
    load_pretrained(str(copy), HeadKind.CAUSAL_LM)
    load_tokenizer(str(copy))
    assert len(folders) == 1
    assert len(converted) <= 1
    content = copy.read_bytes()
    copy.write_bytes(content[:-4] + b"\1\0\0\0")
    assert resolve_source(str(copy)) not in folders


def test_a_folder_or_a_cached_name_that_holds_one_file_means_that_file(file, tmp_path, monkeypatch):
    folder = tmp_path / "models" / "some-model"
    folder.mkdir(parents=True)
    shutil.copy(file, folder / "m.gguf")
    wanted = resolve_source(str(file))
    assert resolve_source(str(folder)) == wanted
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path))
    shutil.copytree(wanted, tmp_path / "converted" / wanted.rpartition("/")[2])
    assert resolve_source("cache:some-model").startswith(str(tmp_path))
    shutil.copy(file, folder / "n.gguf")
    with pytest.raises(BadInputError, match="holds 2"):
        resolve_source(str(folder))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("cache:no-such-model", "make real-model"),
        ("no_such_file.gguf", "must exist"),
        ("./no_such_folder", "must exist"),
    ],
)
def test_a_source_that_is_not_there_is_named_with_the_way_out(source, said):
    for load in (lambda: load_tokenizer(source), lambda: load_pretrained(source, HeadKind.CAUSAL_LM)):
        with pytest.raises(BadInputError, match=said) as caught:
            load()
        assert source in str(caught.value)


def test_a_checkpoint_on_a_file_says_what_its_base_was_and_loads_again(file, tmp_path):
    model = build(BaseModel(str(file), HeadKind.CAUSAL_LM), {"4": AdapterSpec(2, 4)}).eval()
    qalof.save(model, tmp_path / "checkpoint")
    again = qalof.load(tmp_path / "checkpoint")
    ids = torch.arange(3, 15)[None]
    assert torch.equal(again(ids).logits, model(ids).logits)
    manifest = (tmp_path / "checkpoint" / "manifest.json").read_text()
    assert '"dequantized_from"' in manifest
    assert '"Q8_0"' in manifest
    write_gguf(again, "w4a32kv32", tmp_path / "again.gguf", load_tokenizer(str(file)))
    assert stored_as(load_pretrained(str(tmp_path / "again.gguf"), HeadKind.CAUSAL_LM).config) == "Q4_0"


def other(architecture="gpt2", tokenizer=None, kind=None, **strings):
    """Writes a small file of its own: ``write(path)``."""

    def write(path):
        writer = gguf.GGUFWriter(path, architecture)
        if tokenizer:
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(tokenizer)
        for key, value in strings.items():
            name = key.replace("__", ".")
            (writer.add_string if isinstance(value, str) else writer.add_uint16)(name, value)
        writer.add_tensor("rope_freqs.weight" if kind == "rope" else "token_embd.weight", torch.ones(4, 32).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return write


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b""), "must be a GGUF file"),
        (lambda path: path.write_bytes(b"nothing of the kind"), "must be a GGUF file"),
        (lambda path: path.write_bytes(b"GGUF\xff\xff\xff\xff" * 9), "must be whole"),
        (other(architecture="no-such-kind"), "no-such-kind"),
        (other(tokenizer="no-such-split"), "no-such-split"),
        (other(), "must be whole"),
        (other(general__type="mmproj"), "general.type"),
        (other(split__count=3), "llama-gguf-split"),
        (other(kind="rope"), "rope_freqs"),
    ],
    ids=["empty", "other", "header", "architecture", "split", "no tensors", "type", "parts", "rope"],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line_that_names_it(write, said, tmp_path):
    path = tmp_path / "bad.gguf"
    write(path)
    refused(path, said)


def refused(path, said):
    with pytest.raises(BadInputError, match=said) as caught:
        load_pretrained(str(path), HeadKind.CAUSAL_LM)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInputError, match=said):
        load_tokenizer(str(path))


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_anywhere_is_refused(file, share, tmp_path):
    content = file.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "must be whole")


def test_an_adapter_file_is_refused(random_model, tmp_path):
    model = build(BaseModel(random_model, HeadKind.CAUSAL_LM), {"4": AdapterSpec(2, 4)}).eval()
    write_gguf_lora(model, "w4a32kv32", tmp_path, load_tokenizer(random_model))
    refused(tmp_path / "lora-4.gguf", "adapter")


def test_a_type_that_nobody_dequantizes_is_refused(file, tmp_path, monkeypatch):
    def unknown(data, kind):
        raise NotImplementedError(f"Quantization for {kind} is not implemented")

    path = tmp_path / "m.gguf"
    path.write_bytes(file.read_bytes()[:-4] + b"\1\0\0\0")
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path / "cache"))  # an empty one: nothing is converted twice
    monkeypatch.setattr(gguf, "dequantize", unknown)
    refused(path, "is not implemented")


def test_a_cache_that_cannot_be_written_is_named(file, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setenv("QALOF_CACHE", str(tmp_path))
    monkeypatch.setattr(gguf_source, "sealed_folder", refuse)
    with pytest.raises(BadInputError, match="QALOF_CACHE"):
        resolve_source(str(file))


@pytest.mark.parametrize("name", list(SAME))
def test_a_split_is_known_by_what_it_does(name):
    from tokenizers import Tokenizer, models

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizer(name)
    assert split_name(json.loads(core.to_str())["pre_tokenizer"]) == name
    pieces = [piece for piece, _ in core.pre_tokenizer.pre_tokenize_str("in  1999, it's")]
    digits = [piece for piece in pieces if "9" in piece]
    assert digits == {"gpt-2": ["Ġ1999"], "llama-bpe": ["199", "9"], "qwen2": ["9"] * 3, "smollm": ["9"] * 3}[name]
