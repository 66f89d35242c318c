"""Whatever is wrong with a checkpoint is one clear error, and leaves the model that it was meant for untouched."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import qalof
from qalof.checkpoint.adapters import WEIGHTS_FILE
from qalof.checkpoint.manifest import FORMAT_VERSION, read_manifest
from qalof.checkpoint.model import load_parameters
from qalof.errors import BadInputError
from qalof.files import MANIFEST, digest
from qalof.model.adapters import AdapterPolicy, AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.scheme import QuantizationScheme, TensorScheme
from qalof.quantization.strict import RENAMED

SPECS = {"4": AdapterSpec(4, 8), "8": AdapterSpec(2, 4)}


@pytest.fixture(scope="module")
def base(families):
    return families("llama").base


@pytest.fixture(scope="module")
def saved(base, stirred, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "c"
    qalof.save(stirred(build(base, SPECS)), folder, {"note": 1})
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(saved, tmp_path / "c")


def weights(checkpoint, name="8"):
    return checkpoint / "adapters" / name / WEIGHTS_FILE


def rewrite(checkpoint, **changes):
    """Change the manifest; a value of ... takes the key away."""
    path = checkpoint / MANIFEST
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value is not ...}))


def reseal(checkpoint):
    """Make the manifest's checksums those of the files as they are."""
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    for name in files:
        path = checkpoint / name
        files[name] = {"bytes": path.stat().st_size, "sha256": digest(path)}
    rewrite(checkpoint, files=files)


def change_tensors(checkpoint, change, name="8"):
    tensors = load_file(weights(checkpoint, name))
    change(tensors)
    save_file(tensors, weights(checkpoint, name), metadata={"format": "pt"})
    reseal(checkpoint)


def refused(checkpoint, base, law):
    """Neither loads, and a live model keeps every parameter."""
    with pytest.raises(BadInputError, match=law):
        qalof.load(checkpoint)
    model = build(base, SPECS, seed=9)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(BadInputError, match=law):
        load_parameters(model, checkpoint)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_the_copy_itself_loads(checkpoint, base):
    qalof.load(checkpoint)
    load_parameters(build(base, SPECS), checkpoint)


@pytest.mark.parametrize("name", ["4", "8"])
@pytest.mark.parametrize("place", [10, 400, -3])
def test_a_flipped_byte_anywhere_is_noticed(checkpoint, base, name, place):
    data = bytearray(weights(checkpoint, name).read_bytes())
    data[place] ^= 1
    weights(checkpoint, name).write_bytes(bytes(data))
    refused(checkpoint, base, f"damaged: adapters/{name}/{WEIGHTS_FILE} does not match its checksum")


def test_a_cut_file_is_noticed(checkpoint, base):
    weights(checkpoint).write_bytes(weights(checkpoint).read_bytes()[:-1])
    refused(checkpoint, base, "does not match its checksum")


def test_a_missing_file_is_noticed(checkpoint, base):
    weights(checkpoint).unlink()
    refused(checkpoint, base, "is missing; restore it")


def test_a_file_that_the_manifest_does_not_list_is_no_checkpoint(checkpoint, base):
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    del files[f"adapters/8/{WEIGHTS_FILE}"]
    rewrite(checkpoint, files=files)
    refused(checkpoint, base, "does not list adapters/8")


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, 99, "2", True, None, ...])
def test_another_version_is_refused(checkpoint, base, version):
    rewrite(checkpoint, format_version=version)
    refused(checkpoint, base, "must have format version 1 or 2 or 3 or 4: got")


@pytest.mark.parametrize("convention", ["symmetric-minmax-full", None, ...])
def test_another_convention_is_refused(checkpoint, base, convention):
    rewrite(checkpoint, convention=convention)
    refused(checkpoint, base, "must use the range convention")


SHAPES = [..., None, 7, "x", [], ["x"], {}, {"x": 1}]
LEGAL = [("settings", {}), ("extra", {}), ("extra", {"x": 1})]
KEYS = ["base", "adapters", "settings", "sites", "extra", "files"]


@pytest.mark.parametrize(("key", "value"), [(k, v) for k in KEYS for v in SHAPES if (k, v) not in LEGAL])
def test_a_manifest_of_another_shape_is_refused(checkpoint, base, key, value):
    rewrite(checkpoint, **{key: value})
    refused(checkpoint, base, "damaged|other|no setting")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\x00\xff"])
def test_a_manifest_that_is_none_is_refused(checkpoint, base, text):
    (checkpoint / MANIFEST).write_bytes(text.encode("latin-1"))
    refused(checkpoint, base, "manifest|format version")


def test_what_is_no_safetensors_file_is_refused_though_its_checksum_fits(checkpoint, base):
    weights(checkpoint).write_bytes(b"not tensors at all")
    reseal(checkpoint)
    refused(checkpoint, base, "must be a readable safetensors file")


def cut_row(tensors):
    name = sorted(tensors)[0]
    tensors[name] = tensors[name][1:].clone()


def add(tensors):
    tensors["base_model.model.model.layers.0.mlp.up_proj.lora_C.weight"] = torch.zeros(1)


def drop(tensors):
    del tensors[sorted(tensors)[-1]]


def spoil(tensors):
    tensors[sorted(tensors)[0]][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "law"),
    [(cut_row, "must fit this model"), (add, "exactly this model's"), (drop, "exactly this"), (spoil, "finite")],
)
def test_one_adapter_that_does_not_fit_keeps_the_others_out_too(checkpoint, base, change, law):
    """The first adapter is sound, and must not be in when the second is refused."""
    change_tensors(checkpoint, change)
    refused(checkpoint, base, law)


@pytest.mark.parametrize("changed", [{"rank": 8}, {"alpha": 9}, {"rslora": True}])
def test_a_manifest_that_disagrees_with_the_adapter_is_noticed(checkpoint, changed):
    adapters = json.loads((checkpoint / MANIFEST).read_text())["adapters"]
    adapters["8"] |= changed
    rewrite(checkpoint, adapters=adapters)
    with pytest.raises(BadInputError, match="in its config and .* in the manifest"):
        qalof.load(checkpoint)


@pytest.mark.parametrize(
    ("specs", "settings", "law"),
    [
        ({"4": AdapterSpec(4, 8), "8": AdapterSpec(2, 8)}, {}, "other adapters"),
        ({"4": AdapterSpec(4, 8)}, {}, "other adapters"),
        (SPECS, {"merge": "quantize_factors"}, "other settings"),
        (SPECS, {"exclude": ["*.q_proj"]}, "other settings"),
    ],
)
def test_a_model_made_otherwise_does_not_take_it(checkpoint, base, specs, settings, law):
    with pytest.raises(BadInputError, match=law):
        load_parameters(build(base, specs, SwitchSettings(**settings)), checkpoint)


def test_a_trained_head_and_norms_are_saved_without_an_adapter_too(random_model, stirred, tokens, tmp_path):
    model = stirred(build(BaseModel(random_model, HeadKind.SPAN), settings=SwitchSettings(norms="shared")))
    qalof.save(model, tmp_path / "c")
    loaded = qalof.load(tmp_path / "c")
    with torch.no_grad():
        assert torch.equal(loaded(tokens).start_logits, model(tokens).start_logits)
    manifest = json.loads((tmp_path / "c" / MANIFEST).read_text())
    del manifest["files"]["modules.safetensors"]
    rewrite(tmp_path / "c", files=manifest["files"])
    (tmp_path / "c" / "modules.safetensors").unlink()
    with pytest.raises(BadInputError, match="modules.safetensors must be a readable"):
        qalof.load(tmp_path / "c")


def test_format_version_1_is_read_as_what_it_meant(families, stirred, tokens, tmp_path):
    model = stirred(build(families("gpt2").base, SPECS, SwitchSettings(policy=AdapterPolicy.NEAREST)))
    qalof.save(model, tmp_path / "c")
    old = {"4": {"rank": 4, "alpha": 8, "dropout": 0.0}, "8": {"rank": 2, "alpha": 4, "dropout": 0.0}}
    rewrite(tmp_path / "c", format_version=1, policy="nearest", adapters=old, settings=...)
    loaded = qalof.load(tmp_path / "c")
    assert loaded.settings == SwitchSettings(policy="nearest")
    assert read_manifest(tmp_path / "c")["format_version"] == 1
    for bitmap in (4, 8, 32):
        model.set_bitmap(bitmap)
        loaded.set_bitmap(bitmap)
        with torch.no_grad():
            assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_a_stand_in_for_a_missing_adapter_is_told_of_once(base, caplog):
    model = build(base, SPECS)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            model.set_bitmap("w3a8")
            model.set_bitmap(8)
    assert [record.getMessage() for record in caplog.records] == [
        "sites at 3 bits have no adapter: they run with adapter 4 (nearest_higher)"
    ]
    assert model.adapter_at(3) == "4"


def test_a_block_at_another_bitmap_warns_of_no_width_that_nobody_asked_for(base, caplog):
    model = build(base, SPECS)
    with caplog.at_level(logging.WARNING), model.at(8):
        pass
    assert not caplog.records


def test_settings_under_the_names_of_an_older_version_are_read_as_what_they_are(families, stirred, tokens, tmp_path):
    scheme = QuantizationScheme(TensorScheme(Symmetric(full_precision_bits=16, fractional_bits="interpolate")))
    model = stirred(build(families("gpt2").base, SPECS, SwitchSettings(quantization=scheme)))
    qalof.save(model, tmp_path / "c")
    text = json.dumps(json.loads((tmp_path / "c" / MANIFEST).read_text())["settings"])
    for old, new in RENAMED.items():
        text = text.replace(f'"{new}"', f'"{old}"')
    assert '"passthrough_bits": 16' in text
    settings = json.loads(text.replace('"interpolate"', '"mix"'))
    rewrite(tmp_path / "c", format_version=3, settings=settings)
    assert qalof.load(tmp_path / "c").settings == model.settings
    rewrite(tmp_path / "c", format_version=4)
    with pytest.raises(BadInputError, match="it is named '.*' now; write that"):
        qalof.load(tmp_path / "c")
