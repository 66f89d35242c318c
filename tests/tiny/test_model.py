"""The shipped model is a fair test object: its recorded numbers, and a short look at whether they still hold."""

from pathlib import Path

import pytest
from safetensors import safe_open

import qalof
from qalof.files import read_json
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, load_tokenizer
from qalof.tiny import MODEL_DIR, TINY_DIR
from qalof.tiny.outliers import add_outliers
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import SwitchablePrecision

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "tiny_model.json"


def test_it_is_a_gpt2_of_one_to_four_million_parameters_in_at_most_eight_megabytes():
    model = BaseModel("tiny", qalof.task("squad-completion").head).load()
    assert model.config.model_type == "gpt2"
    assert model.config.n_layer >= 4
    assert 1_000_000 <= model.num_parameters() <= 4_000_000
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) < 8_000_000
    with safe_open(MODEL_DIR / "model.safetensors", "pt") as file:
        assert file.keys()


def test_its_tokenizer_gives_every_text_back():
    tokenizer = load_tokenizer(str(MODEL_DIR))
    for text in ("Where does Anna work?", "naïve façade — 1,234 €", "日本"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_recorded_numbers_are_those_of_a_fair_test_object():
    found = read_json(RECORD, "record")
    before = {int(bits): row["estimate"] for bits, row in found["full_precision_fine_tuning"].items()}
    after = {int(bits): row["estimate"] for bits, row in found["switchable_precision"].items()}
    assert before[32] >= 90
    assert before[32] - before[8] <= 1
    assert found["lost_by_rounding"]["4"]["low"] >= 10
    assert before[3] < before[4]
    assert (after[4] - before[4]) / (before[32] - before[4]) == pytest.approx(found["recovered_at_4_bits"])
    assert found["recovered_at_4_bits"] >= 0.5


@pytest.mark.slow
def test_fine_tuning_reaches_ninety_exact_match_and_four_bits_lose_ten():
    span = qalof.task("squad-span", max_length=128, stride=32, validation_split="validation[:200]")
    model = qalof.build(BaseModel("tiny", span.head), {"32": AdapterSpec(8, 16)}, seed=42)
    objective = SwitchablePrecision([qalof.Bitmap.uniform(model.site_names, 32)], model.sites)
    trainer = Trainer(model, span, objective, TrainSettings(60, 32, learning_rate=3e-3, warmup_steps=10, seed=42))
    for _ in range(60):
        trainer.train_step()
    scored = {}
    for bits in (32, 8, 4, 3):
        model.eval().set_bitmap(bits)
        scored[bits] = span.evaluate(model)["exact_match"]
    assert scored[32] >= 90
    assert scored[32] - scored[8] <= 1
    assert scored[4] <= scored[32] - 10
    assert scored[3] < scored[4]


def test_outliers_change_no_bit_of_what_the_model_computes():
    import torch

    model = BaseModel("tiny", qalof.task("squad-completion").head).load().eval()
    ids = torch.arange(3, 67).reshape(2, 32)
    with torch.no_grad():
        before = model(ids).logits
        add_outliers(model, 5, 4.0, seed=1)
        torch.testing.assert_close(model(ids).logits, before, atol=0, rtol=0)
    with pytest.raises(ValueError, match="power of two"):
        add_outliers(model, 5, 3.0, seed=1)


def test_the_recipe_beside_the_weights_is_the_one_in_the_code():
    from dataclasses import asdict

    from qalof.tiny.build import FACTS, SEED, SUBJECTS
    from qalof.tiny.pretrain import Recipe

    recorded = read_json(TINY_DIR / "model" / "recipe.json", "recipe")
    assert recorded == asdict(Recipe(facts=FACTS, subjects=SUBJECTS, seed=SEED))
