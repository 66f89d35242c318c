"""What switchable precision and its distillation promise beyond the contract of all objectives."""

import pytest
import torch

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.site import Site
from qalof.training.objectives import CyclicPrecisionTraining, Distillation, SwitchablePrecision, distance
from qalof.training.objectives.precision_schedule import CyclicPrecision

SITES = (Site("h.0.a", 4, 4, True), Site("h.1.a", 4, 4, True))
NAMES = [site.name for site in SITES]
MAPS = [Bitmap.uniform(NAMES, bits) for bits in (8, 4, 2)]
STRIPED, REVERSED = Bitmap.parse("8,4", NAMES), Bitmap.parse("4,8", NAMES)
UNITS = 6


class Toy:
    """Logits that depend on one parameter vector a bitmap and on a shared one; stands for a model at a bitmap."""

    def __init__(self, classes=5):
        generator = torch.Generator().manual_seed(0)
        self.shared = torch.randn(UNITS, classes, generator=generator, requires_grad=True)
        self.own = {
            m: torch.randn(classes, generator=generator, requires_grad=True) for m in [*MAPS, STRIPED, REVERSED]
        }
        self.labels = torch.arange(UNITS) % classes

    def rows(self, bitmap):
        return self.shared * self.own[bitmap], self.labels

    def gradients(self, objective, step=0):
        for tensor in (self.shared, *self.own.values()):
            tensor.grad = None
        losses = objective.accumulate(self.rows, step, UNITS).cross_entropies
        return losses, self.shared.grad, {m: t.grad for m, t in self.own.items()}


def cascade(**options):
    return SwitchablePrecision(MAPS, SITES, Distillation(**options))


OBJECTIVES = {
    "spnet": SwitchablePrecision(MAPS, SITES),
    "cascade-kl": cascade(temperature=2.0),
}


def test_accumulated_gradient_is_the_gradient_of_the_mean_loss():
    toy = Toy()
    _, got, _ = toy.gradients(OBJECTIVES["spnet"])
    total = sum(torch.nn.functional.cross_entropy(*toy.rows(m)) for m in MAPS) / 3
    torch.testing.assert_close(got, torch.autograd.grad(total, toy.shared)[0])


def test_sum_weighting_is_the_mean_times_the_number_of_bitmaps():
    toy = Toy()
    _, mean, _ = toy.gradients(OBJECTIVES["spnet"])
    mean = mean.clone()
    _, total, _ = toy.gradients(SwitchablePrecision(MAPS, SITES, weight="sum"))
    torch.testing.assert_close(total, 3 * mean)


@pytest.mark.parametrize("name", ["spnet", "cascade-kl"])
def test_order_of_the_bitmaps_does_not_matter(name):
    toy = Toy()
    distillation = OBJECTIVES[name].distillation
    _, one, _ = toy.gradients(SwitchablePrecision(MAPS, SITES, distillation))
    one = one.clone()
    _, other, _ = toy.gradients(SwitchablePrecision(MAPS[::-1], SITES, distillation))
    assert torch.equal(one, other)


def test_cascade_without_weight_is_spnet():
    toy = Toy()
    _, plain, _ = toy.gradients(OBJECTIVES["spnet"])
    plain = plain.clone()
    _, weightless, _ = toy.gradients(cascade(beta=0.0))
    assert torch.equal(plain, weightless)


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_gradient_of_the_highest_bitmap_does_not_depend_on_beta(beta):
    toy = Toy()
    _, _, own = toy.gradients(OBJECTIVES["spnet"])
    top = own[MAPS[0]].clone()
    _, _, own = toy.gradients(cascade(beta=beta))
    assert torch.equal(own[MAPS[0]], top)


def test_all_higher_bitmaps_teach_or_only_the_highest():
    objective = cascade()
    assert [objective.teachers(i) for i in range(3)] == [[], [0], [0, 1]]
    assert [cascade(teachers="highest").teachers(i) for i in range(3)] == [[], [0], [0]]


def test_bitmaps_of_equal_width_do_not_teach_one_another():
    objective = SwitchablePrecision([STRIPED, REVERSED, MAPS[1]], SITES, Distillation())
    assert [objective.teachers(i) for i in range(3)] == [[], [], [0, 1]]


def test_distances_match_their_formulas():
    student, teacher = torch.randn(4, 7), torch.randn(4, 7)
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    expected = 4 * (p * (p / q).log()).sum()
    torch.testing.assert_close(distance(student, teacher, Distillation(temperature=2.0)), expected)
    difference = student - teacher
    expected = (difference - difference.mean(-1, keepdim=True)).square().mean(-1).sum()
    torch.testing.assert_close(distance(student, teacher, Distillation(distance="mse")), expected)


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_impossible_classes_add_nothing_and_leave_gradients_finite(kind):
    lowest = torch.finfo(torch.float32).min
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    padding = torch.full((3, 2), lowest)
    how = Distillation(distance=kind)
    padded = distance(torch.cat([student, padding], 1), torch.cat([teacher, padding], 1), how)
    torch.testing.assert_close(padded, distance(student, teacher, how))
    padded.backward()
    assert torch.isfinite(student.grad).all()


def test_cyclic_training_runs_the_width_of_the_schedule():
    schedule = CyclicPrecision(4, 8, cycles=2, steps=20)
    objective = CyclicPrecisionTraining(SITES, schedule)
    assert [m["h.0.a"].weight for (m,) in map(objective.bitmaps, range(20))] == [schedule.bits(t) for t in range(20)]


def test_repeated_bitmaps_are_refused():
    with pytest.raises(BadInputError, match="different bitmaps"):
        SwitchablePrecision([MAPS[0], MAPS[0]], SITES)
