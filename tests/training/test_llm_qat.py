"""Data-free training in one process: a model's own texts, and its full-precision outputs as the only labels."""

import pytest
import torch

from qalof.bitmap import Bitmap
from qalof.digests import tokenizer_digest
from qalof.errors import BadInputError
from qalof.files import seal
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.tasks.factory import task
from qalof.tasks.generated_data import to_line
from qalof.training.loop import Trainer, TrainSettings
from qalof.training.objectives import AllBitmaps, Distillation, StepwisePrecision
from qalof.training.synthetic_data import GenerationSettings, TextSource, generate, writer_for

STEPS = 15
NO_STAND_IN = SwitchSettings(policy="none")
"""Without it the teacher would run with the adapter of the nearest width."""


@pytest.fixture(scope="module")
def generated(random_model, tmp_path_factory):
    """Forty texts that the model wrote, sealed."""
    work = task("language-modeling", source=random_model)
    source = TextSource(GenerationSettings(count=40, max_length=24), work.tokenizer, 128)
    folder = tmp_path_factory.mktemp("generated")
    (folder / "train").mkdir()
    rows = generate(writer_for(BaseModel(random_model, work.head).load().eval(), source), source, range(40), 40)
    (folder / "train" / "shard-00000.jsonl").write_text("".join(map(to_line, rows)))
    seal(folder, {"format_version": 1, "kind": "texts", "texts": 40, "tokenizer": tokenizer_digest(work.tokenizer)})
    return folder


def trainer(random_model, generated, bitmaps, widths):
    work = task("language-modeling", source=random_model, data=str(generated), max_length=24, stride=24)
    model = build(BaseModel(random_model, work.head), {str(width): AdapterSpec(4) for width in widths}, NO_STAND_IN)
    pool = tuple(Bitmap.parse(bits, model.site_names) for bits in bitmaps)
    how = Distillation(ce_weight=0.0, teachers="highest") if len(pool) > 1 else None
    settings = TrainSettings(steps=STEPS, batch_size=8, learning_rate=0.01)
    return Trainer(model, work, StepwisePrecision(AllBitmaps(pool), model.sites, how), settings)


def outputs(training, bits):
    training.model.eval()
    training.model.set_bitmap(bits)
    batch = training.task.collate(list(training.features)[:8])
    with torch.no_grad():
        rows, _ = training.task.label_rows(training.model(**training.task.model_inputs(batch)), batch)
    return rows


def distance(training):
    student, teacher = outputs(training, 3), outputs(training, 32)
    return float(torch.nn.functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean"))


def test_low_widths_come_closer_to_a_teacher_that_stays_what_it_was(random_model, generated):
    training = trainer(random_model, generated, (32, 3), (3,))
    teacher, before = outputs(training, 32), distance(training)
    losses = [training.train_step().losses for _ in range(STEPS)]
    assert {tuple(step) for step in losses} == {("32", "3")}
    assert torch.equal(outputs(training, 32), teacher)
    assert distance(training) < 0.8 * before


def test_the_gradient_is_that_of_the_soft_cross_entropy_alone(random_model, generated):
    training = trainer(random_model, generated, (32, 3), (3,))
    training.train_step()  # from zeros the first factor has no gradient
    batch = training.task.collate(list(training.features)[:8])
    units = float(sum(training.task.units(feature) for feature in list(training.features)[:8]))

    class Rows:
        def __call__(self, bitmap):
            training.model.set_bitmap(bitmap)
            return training.task.label_rows(training.model(**training.task.model_inputs(batch)), batch)

    parameters = [p for group in training.groups.values() for p in group]
    training.optimizer.zero_grad(set_to_none=True)
    training.objective.accumulate(Rows(), 0, units)
    found = [p.grad.clone() for p in parameters]
    with torch.no_grad():
        soft = Rows()(training.objective.bitmaps(0)[0])[0].softmax(-1)
    student = Rows()(training.objective.bitmaps(0)[1])[0]
    # the weight of a bitmap is one over their number
    loss = -(soft * student.log_softmax(-1)).sum() / units / 2
    expected = torch.autograd.grad(loss, parameters)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_training_that_could_change_nothing_is_refused(random_model, generated):
    with pytest.raises(BadInputError, match=r"needs a parameter to train: 32 .* adapters.widths"):
        trainer(random_model, generated, (32,), (3,)).train_step()
