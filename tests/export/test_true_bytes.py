"""The cost model and the packed file agree to the byte, line by line, and a search within bytes keeps to them."""

import ast

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig

import search
from qalof.cost import cost_of
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.export.packed import PACKED_FILE, REST_FILE, save_packed
from qalof.model.adapters import AdapterSpec
from qalof.model.calibration import calibrate
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.site import KvGranularity
from tests.sources import SOURCES, name_of, nodes

NF4 = {"method": "nf4", "group_size": 16}
GROUPS = {"method": "asymmetric", "granularity": "group", "group_size": 32}
RAGGED = {"method": "asymmetric", "granularity": "group", "group_size": 7, "scale_dtype": "float16"}
WEIGHTS = {
    "symmetric": {"method": "symmetric"},
    "groups": GROUPS,
    "ragged": RAGGED,
    "integer": {"method": "asymmetric", "zero_point": "integer", "granularity": "tensor"},
    "log": {"method": "log", "scale_dtype": "float16"},
    "tanh": {"method": "tanh", "granularity": "group", "group_size": 8},
    "llm_qat": {"method": "llm_qat"},
    "gguf": {"method": "gguf"},
    "gguf_affine": {"method": "gguf_affine"},
    "nf4": NF4,
    "fp16": {"method": "symmetric", "scale_dtype": "float16", "full_precision_bits": 8},
}
STATIC = {"quantizer": {"method": "symmetric", "granularity": "tensor"}, "observer": {"kind": "minmax"}}
LEARNED = {"quantizer": {"method": "lsq", "granularity": "tensor", "gradient_count": "features"}}
OTHERS = {"8": {"method": "bnb_int8"}, "16": {"method": "float16"}, "2": {"method": "midrise2"}}
SETTINGS = [
    *({"quantization": {"weight": {"quantizer": quantizer}}} for quantizer in WEIGHTS.values()),
    {"quantization": {"weight": {"quantizer": NF4, "by_width": OTHERS}}},
    {"quantization": {"activation": STATIC, "kv": STATIC}},
    {"quantization": {"weight": {"quantizer": {"method": "lsq"}}, "activation": LEARNED, "widths": [4, 8]}},
    {"kv_granularity": "head"},
    {"merge": "merge_then_quantize"},
    {"merge": "merge_then_quantize", "head_mode": "tied_view"},
    {"merge": "quantize_product", "norms": "per_width"},
    {"policy": "none", "norms": "frozen_copies"},
    {"policy": "nearest", "include": ["*.mlp.*"]},
    {"head_mode": "tied_view"},
    {"head_mode": "tied_both"},
    {"head_mode": "untied"},
]


def held(folder):
    """Bytes of all tensors of a packed folder."""
    tensors = [tensor for name in (PACKED_FILE, REST_FILE) for tensor in load_file(folder / name).values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def agrees(model, bitmap, folder):
    """Pack, and compare the file with what was predicted; returns the bytes of all its tensors."""
    sizes = save_packed(model, bitmap, folder)
    parsed = model.set_bitmap(bitmap)
    cost = cost_of(parsed, model.sites, rest=model.rest)
    assert sizes.weight_bytes == sizes.predicted_weight_bytes
    assert sizes.adapter_bytes == cost.adapter_bytes
    assert held(folder) == sizes.total_bytes == sizes.predicted_total_bytes == cost.total_bytes
    files = sum((folder / name).stat().st_size for name in (PACKED_FILE, REST_FILE))
    assert files == sizes.total_bytes + sizes.header_bytes
    return sizes.total_bytes


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_packed_folder_takes_what_was_predicted(make, tokens, tmp_path, settings):
    model = make(SwitchSettings(**settings))
    widths = (4,) if "nf4" in str(settings) or "affine" in str(settings) else (4, 8)
    widths = (2, 4, 8, 16) if "by_width" in str(settings) else widths
    if "observer" in str(settings) or "lsq" in str(settings):
        calibrate(model, [{"input_ids": tokens}], [f"w{bits}a8kv8" for bits in widths])
    bitmaps = [*(f"w{bits}a8kv8" for bits in widths), "w4a8kv8,w32a32kv32"]
    if "lsq" not in str(settings):  # its steps are learned for the granularity of the scheme alone
        bitmaps += ["w4g16a8kv8,w4g7a8kv8"]
    for index, bitmap in enumerate(bitmaps):
        agrees(model, bitmap, tmp_path / str(index))


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=45, max_position_embeddings=64, tie_word_embeddings=True,
        ),
        OPTConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=40,
            max_position_embeddings=64, word_embed_proj_dim=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_other_families_agree_too(make, tmp_path, config):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    model = make(SwitchSettings(quantization={"weight": {"quantizer": RAGGED}}), source=str(tmp_path / "base"))
    for bits in (3, 8, 32):
        agrees(model, bits, tmp_path / str(bits))


class Guess:
    """Likes wide bitmaps; at once, no model runs."""

    at_once, limit = 1, None

    def __init__(self, model):
        self.sites = model.sites

    def evaluate(self, bitmaps, limit=None):
        return [Evaluation({"f1": sum(b.weight for b in bitmap.values())}, 1, {}) for bitmap in bitmaps]

    def fingerprint(self):
        return "guess"


def searched(model, limits, **space):
    """The bitmaps that a search within ``limits`` evaluates, from few bytes to many."""
    objectives = ("max:f1", "min:weight_bytes")
    found = search.run(search.BitmapSpace.of(model, **space), Guess(model), objectives, "random", 6, limits=limits)
    assert found.best(**limits) in found.points
    return [point.bitmap for point in sorted(found.points, key=lambda point: point.value(next(iter(limits))))]


@pytest.mark.parametrize(
    ("quantizer", "weights"),
    [(GROUPS, (2, 3, 4, 8)), (RAGGED, (2, 4, 8, 16)), (WEIGHTS["symmetric"], (2, 4, 8)), (NF4, (4, 32))],
    ids=["groups", "ragged", "symmetric", "nf4"],
)
@pytest.mark.parametrize("name", ["weight_bytes", "total_bytes"])
def test_no_bitmap_of_a_search_within_bytes_packs_to_more(make, tmp_path, quantizer, weights, name):
    model = make(SwitchSettings(quantization={"weight": {"quantizer": quantizer}}), adapters=name == "weight_bytes")
    space = search.BitmapSpace.of(model, weight=weights, activation=(8,), kv=(8,))
    low, high = space.reachable(name)
    limit = (2 * low + high) / 3
    bitmaps = searched(model, {name: limit}, weight=weights, activation=(8,), kv=(8,))
    assert all(cost_of(bitmap, model.sites, rest=model.rest).value(name) <= limit for bitmap in bitmaps)
    # the largest bites: what lies above it would have been preferred
    assert 0.8 * limit < getattr(save_packed(model, bitmaps[-1], tmp_path / "p"), name) <= limit


def test_a_limit_on_the_total_counts_adapters_where_one_on_weights_does_not(make, tmp_path):
    model = make(SwitchSettings(merge="merge_then_quantize"))
    with_branches = make()
    weights = [cost_of(m.set_bitmap(8), m.sites, rest=m.rest) for m in (model, with_branches)]
    assert weights[0].weight_bytes == weights[1].weight_bytes
    assert weights[0].adapter_bytes == 0
    assert weights[1].total_bytes - weights[0].total_bytes == weights[1].adapter_bytes > 0


def test_limits_that_cannot_be_held_are_refused(make):
    model = make()
    with pytest.raises(BadInputError, match="made of sites alone"):
        search.BitmapSpace.of(model.sites, limits={"total_bytes": 1e9})
    with pytest.raises(BadInputError, match="take total_bytes"):
        search.BitmapSpace.of(model, limits={"adapter_bytes": 1e9})
    # on layers this small a large adapter takes more than four bits save
    lopsided = build(model.base, {"4": AdapterSpec(16), "8": AdapterSpec(1)})
    with pytest.raises(BadInputError, match="first choice must be its cheapest"):
        search.BitmapSpace.of(lopsided, weight=(4, 8), limits={"total_bytes": 1e9})


def test_settings_become_sites_in_one_place():
    """Whoever passes more than a model to ``find_sites`` may leave one out, as the cache's granularity once was."""
    callers = []
    for path in SOURCES:
        for node in nodes(path):
            called = getattr(node, "func", None)
            if isinstance(node, ast.Call) and "find_sites" in (getattr(called, "id", ""), getattr(called, "attr", "")):
                callers.append(name_of(path))
    assert callers == ["qalof/model/settings.py"]


def test_every_setting_that_sites_depend_on_reaches_them(random_model, make):
    settings = SwitchSettings(
        head_mode="untied", exclude=("*.mlp.*",), kv_granularity="head", quantization={"weight": {"quantizer": GROUPS}}
    )
    sites = make(settings).sites
    assert {site.kv.scales for site in sites if site.kv} == {sites[0].kv.heads}
    assert sites[0].kv == sites[0].kv.with_scales(KvGranularity.HEAD)
    assert all(site.quantization == settings.quantization for site in sites)
    assert sites[-1].is_head
    assert not any("mlp" in site.name for site in sites)
