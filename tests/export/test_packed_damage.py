"""Whatever is wrong with a packed folder is one clear error, and no model comes back."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from qalof.errors import BadInputError
from qalof.export.packed import LAYOUT_FILE, PACKED_FILE, REST_FILE, save_packed
from qalof.export.packed_load import load_packed
from qalof.files import MANIFEST, digest

NORM = "rest/transformer.ln_f.bias"


@pytest.fixture(scope="module")
def saved(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "p"
    save_packed(make(), "8,4", folder)
    return folder


@pytest.fixture
def packed(saved, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(saved, tmp_path / "p")


def reseal(folder, **changes):
    """Make the manifest's checksums those of the files as they are."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text()) | changes
    for name in manifest["files"]:
        manifest["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": digest(folder / name)}
    path.write_text(json.dumps(manifest))


def refused(folder, match):
    with pytest.raises(BadInputError, match=match) as raised:
        load_packed(folder)
    assert "\n" not in str(raised.value)


FILES = [PACKED_FILE, REST_FILE, LAYOUT_FILE, "config.json", "generation_config.json"]


@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_short(packed, file):
    content = (packed / file).read_bytes()
    (packed / file).write_bytes(content[: len(content) // 2])
    refused(packed, f"{file} does not match its checksum")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("where", [0, 0.5, -1])
def test_a_flipped_byte(packed, file, where):
    content = bytearray((packed / file).read_bytes())
    content[int(where * len(content)) if where > 0 else where] ^= 1
    (packed / file).write_bytes(bytes(content))
    refused(packed, f"{file} does not match its checksum")


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file(packed, file):
    (packed / file).unlink()
    refused(packed, f"{file} is missing")


def test_no_folder_or_no_manifest(packed, tmp_path):
    refused(tmp_path / "nothing", "does not exist")
    (packed / MANIFEST).unlink()
    refused(packed, "does not exist")


def test_a_newer_version(packed):
    reseal(packed, format_version=3)
    refused(packed, "must have format version 1 or 2: got 3")


def test_another_kind_of_folder(packed):
    reseal(packed, kind="switchable-model")
    refused(packed, "must be a packed model")


def test_a_file_that_the_manifest_forgets(packed):
    manifest = json.loads((packed / MANIFEST).read_text())
    del manifest["files"][REST_FILE]
    reseal(packed, files=manifest["files"])
    refused(packed, REST_FILE)


def test_sealed_nonsense_in_place_of_tensors(packed):
    (packed / PACKED_FILE).write_bytes(b"no tensors")
    reseal(packed)
    refused(packed, "readable safetensors")


def change_tensors(folder, file, change):
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)
    reseal(folder)


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        (PACKED_FILE, lambda t: t.pop("h.0.mlp.c_fc/scale"), "damaged"),
        (PACKED_FILE, lambda t: t.update({"h.0.mlp.c_fc/data": t["h.0.mlp.c_fc/data"][:-1].clone()}), "bytes"),
        (PACKED_FILE, lambda t: t.update({"h.9.mlp.c_fc/data": t["h.0.mlp.c_fc/data"].clone()}), "h.9.mlp.c_fc"),
        (REST_FILE, lambda t: t.pop("bias/h.1.mlp.c_proj"), "bias/h.1.mlp.c_proj"),
        (REST_FILE, lambda t: t.pop("branch/h.1.mlp.c_proj/a"), "branch/h.1.mlp.c_proj/a"),
        (REST_FILE, lambda t: t.update({NORM: t[NORM][:3].clone()}), "ln_f"),
        (REST_FILE, lambda t: t.update({NORM: t[NORM].half()}), "ln_f"),
    ],
)  # fmt: skip
def test_sealed_tensors_that_do_not_fit(packed, file, change, match):
    change_tensors(packed, file, change)
    refused(packed, match)


@pytest.mark.parametrize("key", ["bitmap", "settings", "head", "sites", "attention", "convention"])
def test_a_layout_without_one_of_its_keys(packed, key):
    layout = json.loads((packed / LAYOUT_FILE).read_text())
    del layout[key]
    (packed / LAYOUT_FILE).write_text(json.dumps(layout))
    reseal(packed)
    refused(packed, key)


def test_a_bitmap_that_is_not_that_of_the_tensors(packed):
    layout = json.loads((packed / LAYOUT_FILE).read_text())
    layout["bitmap"]["sites"]["h.0.mlp.c_fc"]["weight"] = 5
    (packed / LAYOUT_FILE).write_text(json.dumps(layout))
    reseal(packed)
    refused(packed, "h.0.mlp.c_fc is 128 x 32 at 8 bits")
