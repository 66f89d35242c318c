"""GPTQ of a whole model: its codes travel in checkpoints and packed files, and switching stays what it was."""

import pytest
import torch

import qalof
from qalof.checkpoint.fixed_codes import CODES_FILE
from qalof.checkpoint.model import load_parameters
from qalof.errors import BadInputError
from qalof.export.packed import save_packed
from qalof.export.packed_load import load_packed
from qalof.layer_bits import GroupedWidth
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.post_training.error_compensation import GptqSettings
from qalof.post_training.gptq import calibration_batches, compensate
from qalof.quantization.scheme import QuantizationScheme
from qalof.tasks.factory import task

WEIGHT_ONLY = {2: "w2a32kv32", 3: "w3a32kv32", 4: "w4a32kv32", 8: "w8a32kv32"}


def scheme(quantizer):
    return {"weight": {"quantizer": quantizer}}


@pytest.fixture
def ids():
    return torch.randint(0, 100, (3, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(random_model):
    return build(BaseModel(random_model, HeadKind.CAUSAL_LM)).eval()


@torch.no_grad()
def logits(model, ids, bitmap):
    model.set_bitmap(bitmap)
    return model(ids).logits


def off(model, ids, bitmap):
    return float((logits(model, ids, bitmap) - logits(model, ids, 32)).square().mean())


def test_outputs_come_closer_to_full_precision_and_other_widths_stay_as_they_were(model, ids):
    batches = [{"input_ids": ids}]
    before = {bits: off(model, ids, spec) for bits, spec in WEIGHT_ONLY.items()}
    untouched = logits(model, ids, WEIGHT_ONLY[8]), logits(model, ids, 32)
    errors = compensate(model, batches, (3, 4))
    after = {bits: off(model, ids, spec) for bits, spec in WEIGHT_ONLY.items()}
    assert after[3] < before[3]
    assert after[4] < before[4]
    assert (after[2], after[8]) == (before[2], before[8])
    assert torch.equal(logits(model, ids, WEIGHT_ONLY[8]), untouched[0])
    assert torch.equal(logits(model, ids, 32), untouched[1])
    assert [(e.site, e.bits) for e in errors] == [(name, bits) for bits in (3, 4) for name in model.site_names]
    assert all(e.error <= e.nearest_error * (1 + 1e-9) for e in errors)


def test_site_after_site_sees_each_layer_behind_the_rounded_ones(model, ids):
    batches = [{"input_ids": ids}]
    by_block = compensate(model, batches, [3])
    by_site = compensate(model, batches, [3], GptqSettings(sequence="site"))
    assert by_block[0] == by_site[0]
    assert by_block[1] != by_site[1]


def test_padding_counts_for_nothing(model, ids):
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    other = ids.clone()
    other[1, 15:] = 7
    first = compensate(model, [{"input_ids": ids, "attention_mask": mask}], [3])
    assert first == compensate(model, [{"input_ids": other, "attention_mask": mask}], [3])
    assert first != compensate(model, [{"input_ids": ids}], [3])


@pytest.mark.parametrize(
    "quantizer",
    [
        "symmetric",
        {"method": "asymmetric", "granularity": "group", "group_size": 16},
        {"method": "log", "granularity": "tensor"},
    ],
    ids=["symmetric", "asymmetric-16", "log"],
)
@pytest.mark.parametrize("held", ["values", "codes"])
def test_a_checkpoint_and_a_packed_file_hold_the_codes(random_model, ids, tmp_path, quantizer, held):
    settings = SwitchSettings(quantization={**scheme(quantizer), "held": held})
    model = build(BaseModel(random_model, HeadKind.CAUSAL_LM), {"4": AdapterSpec(2)}, settings).eval()
    nearest = logits(model, ids, 3)
    compensate(model, [{"input_ids": ids}], (3, 4))
    expected = {spec: logits(model, ids, spec) for spec in (3, "w4a32", "w3a8")}
    assert not torch.equal(expected[3], nearest)
    qalof.save(model, tmp_path / "c")
    loaded = qalof.load(tmp_path / "c").eval()
    for spec, output in expected.items():
        assert torch.equal(logits(loaded, ids, spec), output)
    save_packed(loaded, 3, tmp_path / "packed")
    packed = load_packed(tmp_path / "packed").eval()
    with torch.no_grad():
        torch.testing.assert_close(packed(ids).logits, expected[3], rtol=1e-5, atol=1e-5)
    qalof.save(model, tmp_path / "again")
    name = CODES_FILE
    assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_other_quantizers_than_those_trained_with_start_without_the_codes(model, ids, tmp_path):
    compensate(model, [{"input_ids": ids}], [3])
    qalof.save(model, tmp_path / "c")
    chosen = QuantizationScheme.from_json(scheme("asymmetric"))
    loaded = qalof.load(tmp_path / "c", chosen).eval()
    fresh = build(model.base, settings=SwitchSettings(quantization=chosen)).eval()
    assert torch.equal(logits(loaded, ids, 3), logits(fresh, ids, 3))
    assert torch.equal(logits(loaded, ids, 32), logits(model, ids, 32))


def test_codes_of_another_model_are_refused_and_the_model_stays_as_it_was(model, ids, tmp_path, random_model):
    compensate(model, [{"input_ids": ids}], [3])
    qalof.save(model, tmp_path / "c")
    other = build(model.base, settings=SwitchSettings(quantization=scheme({"method": "symmetric", "range": "full"})))
    with pytest.raises(BadInputError, match="other settings"):
        load_parameters(other, tmp_path / "c")
    linear = next(m for m in model.modules() if getattr(m, "fixed_codes", None))
    (codes,) = linear.fixed_codes.values()
    narrow = type(codes)(codes.codes[:, :-1], codes.qparams, 3)
    with pytest.raises(BadInputError, match="must have the weight's shape"):
        linear.fix_codes({3: narrow})
    linear.fix_codes({})
    assert not linear.fixed_codes


def test_the_model_is_left_at_its_bitmap_and_with_its_codes_when_calibration_fails(model, ids):
    model.set_bitmap(4)
    kept = logits(model, ids, 4)
    model.train()
    mask = {"input_ids": ids, "attention_mask": torch.zeros_like(ids)}
    for batches, widths, law in [
        ([], [3], "at least one batch"),
        ([{"input_ids": ids}], [32], "must have codes"),
        ([{"input_ids": ids}], [1.5], "bits must be"),
        ([mask], [4], "saw no token"),
    ]:
        with pytest.raises(BadInputError, match=law):
            compensate(model, batches, widths)
    assert model.training
    assert torch.equal(logits(model.eval(), ids, model.bitmap), kept)


def test_a_weight_with_fixed_codes_is_not_trained_and_merged_weights_have_none(model, ids, random_model):
    compensate(model, [{"input_ids": ids}], [3])
    linear = next(m for m in model.modules() if getattr(m, "fixed_codes", None))
    linear.weight.requires_grad_(True)
    model.set_bitmap(3)
    with pytest.raises(BadInputError, match="cannot be trained"):
        model(ids)
    merging = build(
        BaseModel(random_model, HeadKind.CAUSAL_LM), {"4": AdapterSpec(2)}, SwitchSettings(merge="merge_then_quantize")
    )
    with pytest.raises(BadInputError, match="take merge branch"):
        compensate(merging, [{"input_ids": ids}], [4])


def test_adapters_still_learn_on_compensated_weights(random_model, ids):
    model = build(BaseModel(random_model, HeadKind.CAUSAL_LM), {"4": AdapterSpec(2)})
    compensate(model, [{"input_ids": ids}], [4])
    model.set_bitmap(4)
    model(ids).logits.square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.trainable_groups()["4"].values())


def test_calibration_examples_are_drawn_from_the_training_split_by_the_seed(random_model):
    work = task("language-modeling", source=random_model, max_length=32, stride=16)
    first, again, other = (calibration_batches(work, 6, batch_size=4, seed=s) for s in (0, 0, 1))
    assert [len(batch["input_ids"]) for batch in first] == [4, 2]
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0]["input_ids"], other[0]["input_ids"])
    with pytest.raises(BadInputError, match="at least one example"):
        calibration_batches(work, 0)


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["symmetric", {"method": "symmetric", "granularity": "group", "group_size": 32}])
def test_the_shipped_model_loses_less_at_four_and_three_bits_than_by_rounding_to_nearest(quantizer):
    """Measured as the divergence of its next-token distribution from that in full precision, on held-out text."""
    work = task("language-modeling", max_length=128, stride=127)
    model = build(BaseModel("tiny", work.head), settings=SwitchSettings(quantization=scheme(quantizer))).eval()
    held_out = work.collate(work.windows()[:32])

    @torch.no_grad()
    def divergence(bits):
        model.set_bitmap(32)
        wanted = model(**work.model_inputs(held_out)).logits.log_softmax(-1)
        model.set_bitmap(WEIGHT_ONLY[bits])
        found = model(**work.model_inputs(held_out)).logits.log_softmax(-1)
        return (wanted.exp() * (wanted - found)).sum(-1).flatten()

    nearest = {bits: divergence(bits) for bits in (4, 3)}
    compensate(model, calibration_batches(work, 64), (4, 3))
    for bits, before in nearest.items():
        gain = before - divergence(bits)
        standard_error = float(gain.std() / len(gain) ** 0.5)
        assert float(gain.mean()) > 2 * standard_error


def test_a_gguf_file_refuses_codes_that_its_grids_cannot_hold(model, ids, tmp_path):
    pytest.importorskip("gguf")
    from qalof.export.gguf_file import write_gguf
    from qalof.model.pretrained import load_tokenizer

    compensate(model, [{"input_ids": ids}], [4])
    with pytest.raises(BadInputError, match="a GGUF file has grids of its own: h.0"):
        write_gguf(model, 4, tmp_path / "m.gguf", load_tokenizer(model.base.source))


def test_a_choice_with_a_group_size_has_codes_of_its_own_that_travel(model, ids, tmp_path):
    width = GroupedWidth(3, 16)
    plain = logits(model, ids, "w3")
    nearest = off(model, ids, "w3g16")
    errors = compensate(model, [{"input_ids": ids}], [width])
    assert off(model, ids, "w3g16") < nearest
    assert torch.equal(logits(model, ids, "w3"), plain)
    assert {error.bits for error in errors} == {"3g16"}
    assert all(error.error <= error.nearest_error * (1 + 1e-9) for error in errors)
    expected = logits(model, ids, "w3g16")
    qalof.save(model, tmp_path / "c")
    assert torch.equal(logits(qalof.load(tmp_path / "c").eval(), ids, "w3g16"), expected)
    save_packed(model, "w3g16", tmp_path / "packed")
    with torch.no_grad():
        torch.testing.assert_close(load_packed(tmp_path / "packed").eval()(ids).logits, expected, rtol=1e-5, atol=1e-5)
