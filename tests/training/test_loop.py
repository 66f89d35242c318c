import itertools
import os
import signal
import threading
from dataclasses import replace

import pytest
import torch

from qalof.bitmap import Bitmap
from qalof.checkpoint.trainer import load_checkpoint, save_checkpoint
from qalof.errors import BadInputError, DiskError, NonFiniteLossError
from qalof.files import tidy
from qalof.model.adapters import SHARED, AdapterSpec
from qalof.model.pretrained import BaseModel, load_tokenizer
from qalof.model.switchable import build
from qalof.tasks.squad_completion import CompletionSettings, CompletionTask
from qalof.tasks.squad_span import SpanSettings, SpanTask
from qalof.training.loop import OneWorker, Trainer, TrainSettings, batch_indices
from qalof.training.objectives import CyclicPrecisionTraining, Distillation, SwitchablePrecision
from qalof.training.objectives.precision_schedule import CyclicPrecision

SETTINGS = TrainSettings(steps=6, batch_size=8, learning_rate=1e-2, checkpoint_every=2, seed=3)


@pytest.fixture(scope="module")
def make(random_model):
    """A trainer on the random model; ``kind``: spnet, cascade or cpt."""
    tokenizer = load_tokenizer(random_model)

    def factory(kind="spnet", settings=SETTINGS, world=None, task_kind="span", dropout=0.0, bits_of_maps=(8, 4)):
        if task_kind == "span":
            task = SpanTask(tokenizer, SpanSettings(train_split="train[:24]", max_length=96, stride=16))
        else:
            task = CompletionTask(tokenizer, CompletionSettings(train_split="train[:24]", max_length=128))
        names = [SHARED] if kind == "cpt" else ["4", "8"]
        specs = {name: AdapterSpec(4, 8, dropout) for name in names}
        model = build(BaseModel(random_model, task.head), specs, seed=1)
        maps = [Bitmap.uniform(model.site_names, bits) for bits in bits_of_maps]
        objective = {
            "spnet": lambda: SwitchablePrecision(maps, model.sites),
            "cascade": lambda: SwitchablePrecision(maps, model.sites, Distillation()),
            "cpt": lambda: CyclicPrecisionTraining(model.sites, CyclicPrecision(4, 8, 2, settings.steps)),
        }[kind]()
        return Trainer(model, task, objective, settings, world)

    return factory


def run(trainer, until=None):
    until = trainer.settings.steps if until is None else until
    return [trainer.train_step() for _ in range(trainer.step, until)]


def weights(trainer):
    groups = trainer.model.trainable_groups()
    return {f"{g}/{path}": p.detach().clone() for g, group in groups.items() for path, p in group.items()}


class SharedSum:
    """Worlds of several workers as threads: each waits for the others and reads one common sum."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size)
        self.parts = [None] * size
        self.worlds = [self.World(self, rank, size) for rank in range(size)]

    class World:
        def __init__(self, owner, rank, size):
            self.owner, self.rank, self.size = owner, rank, size

        def sum_in_place(self, tensor):
            self.owner.parts[self.rank] = tensor.clone()
            self.owner.barrier.wait(60)
            tensor.copy_(sum(self.owner.parts))
            self.owner.barrier.wait(60)


def run_together(trainers):
    results = [None] * len(trainers)

    def work(i):
        results[i] = run(trainers[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(trainers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("task_kind", ["span", "completion"])
@pytest.mark.parametrize("workers", [2, 3])  # 3: shares of 3, 3 and 2
def test_several_workers_with_one_global_batch_give_the_one_worker_losses(make, workers, task_kind):
    # Activations stay unrounded here: a last-bit difference of a sum may carry a value over a rounding threshold,
    # and then a 4-bit step, not float noise, is what differs.
    options = {"task_kind": task_kind, "bits_of_maps": ("w8a32", "w4a32")}
    alone = make("cascade", **options)
    expected = run(alone)
    together = [make("cascade", world=world, **options) for world in SharedSum(workers).worlds]
    for reports in run_together(together):
        for got, wanted in zip(reports, expected, strict=True):
            assert got.losses == pytest.approx(wanted.losses, rel=1e-4)
            assert got.objective == pytest.approx(wanted.objective, rel=1e-4)
    for trainer in together:
        for name, tensor in weights(trainer).items():
            # a span's softmax is blind to a common bias: its gradient is rounding noise, which Adam blows up
            if not name.endswith("qa_outputs.bias"):
                torch.testing.assert_close(tensor, weights(alone)[name], rtol=1e-3, atol=1e-4)


def test_several_workers_give_the_one_worker_losses_of_the_first_step_with_rounded_activations(make):
    (expected,) = run(make("cascade"), until=1)
    trainers = [make("cascade", world=world, settings=replace(SETTINGS, steps=1)) for world in SharedSum(2).worlds]
    for (got,) in run_together(trainers):
        assert got.losses == pytest.approx(expected.losses, rel=1e-4)


@pytest.mark.parametrize(("kind", "size"), [("spnet", 3), ("cascade", 1)])
@pytest.mark.parametrize("task_kind", ["span", "completion"])
def test_micro_batches_change_nothing_but_memory(make, kind, task_kind, size):
    options = {"bits_of_maps": ("w8a32", "w4a32"), "task_kind": task_kind}
    once = replace(SETTINGS, steps=2)
    one, many = make(kind, once, **options), make(kind, replace(once, micro_batch_size=size), **options)
    for got, wanted in zip(run(many), run(one), strict=True):
        assert got.losses == pytest.approx(wanted.losses, rel=1e-5)
        assert got.objective == pytest.approx(wanted.objective, rel=1e-5)


@pytest.mark.parametrize("task_kind", ["span", "completion"])
@pytest.mark.parametrize(("size", "workers"), [(1, 1), (3, 1), (2, 2), (None, 2)])
def test_a_share_runs_in_micro_batches_of_similar_length_and_none_is_padded_beyond_its_longest(
    make, task_kind, size, workers
):
    shown: list[list[int]] = []
    for rank in range(workers):
        settings = replace(SETTINGS, steps=1, micro_batch_size=size)
        trainer = make("spnet", settings, OneWorker(rank, workers), task_kind)
        seen = []
        trainer.model.model.register_forward_pre_hook(
            lambda m, a, given, seen=seen: seen.append(given), with_kwargs=True
        )
        trainer._accumulate(0)
        masks = [given["attention_mask"] for given in seen[::2]]  # two bitmaps run each
        lengths = [mask.sum(dim=1).tolist() for mask in masks]
        assert [mask.shape[1] for mask in masks] == [max(each) for each in lengths]
        assert all(max(before) <= min(after) for before, after in itertools.pairwise(lengths))
        assert [len(each) for each in lengths[:-1]] == [size or 8 // workers] * (len(lengths) - 1)
        shown += lengths
    wanted = batch_indices(len(trainer.features), 8, 0, SETTINGS.seed)
    whole = [len(trainer.features[index]["input_ids"]) for index in wanted]
    assert sorted(length for each in shown for length in each) == sorted(whole)


@pytest.mark.parametrize("kind", ["spnet", "cascade", "cpt"])
def test_training_lowers_the_loss(make, kind):
    trainer = make(kind, settings=replace(SETTINGS, steps=24, batch_size=8))
    reports = run(trainer)
    first = sum(sum(r.losses.values()) / len(r.losses) for r in reports[:3])
    last = sum(sum(r.losses.values()) / len(r.losses) for r in reports[-3:])
    assert last < first


@pytest.mark.parametrize("kind", ["spnet", "cpt"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_training_from_a_checkpoint_ends_with_the_same_weights_bit_for_bit(make, kind, dropout, tmp_path):
    undisturbed = make(kind, dropout=dropout)
    run(undisturbed)
    before = make(kind, dropout=dropout)
    run(before, until=3)
    save_checkpoint(before, tmp_path / "c", {})
    after = make(kind, dropout=dropout)
    load_checkpoint(after, tmp_path / "c")
    assert after.step == 3
    run(after)
    expected = weights(undisturbed)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(after).items())


def test_checkpoint_holds_nothing_pickled(make, tmp_path):
    trainer = make()
    run(trainer, until=1)
    save_checkpoint(trainer, tmp_path / "c", {})
    assert {p.suffix for p in (tmp_path / "c").rglob("*") if p.is_file()} <= {".json", ".safetensors"}


def test_a_write_that_fails_leaves_the_older_checkpoint_whole(make, tmp_path, monkeypatch):
    trainer = make()
    run(trainer, until=2)
    save_checkpoint(trainer, tmp_path / "c", {})
    run(trainer, until=4)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qalof.checkpoint.trainer.save_file", full)
    with pytest.raises(DiskError, match="No space left on device; what was written before is whole"):
        save_checkpoint(trainer, tmp_path / "c", {})
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    again = make()
    load_checkpoint(again, tmp_path / "c")
    assert again.step == 2


def test_a_kill_in_the_middle_of_writing_a_checkpoint_costs_steps_and_not_a_bit(make, tmp_path, monkeypatch):
    undisturbed = make(dropout=0.1)
    run(undisturbed)
    trainer = make(dropout=0.1)
    run(trainer, until=2)
    save_checkpoint(trainer, tmp_path / "c", {})
    run(trainer, until=4)

    def half(tensors, path):
        path.write_bytes(b"half a file")
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("qalof.checkpoint.trainer.save_file", half)
    killed = os.fork()
    if killed == 0:
        save_checkpoint(trainer, tmp_path / "c", {})
    _, status = os.waitpid(killed, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert [path.name for path in tmp_path.glob("*") if not path.name.startswith(".")] == ["c"]
    assert len(list(tmp_path.iterdir())) == 2
    tidy(tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    again = make(dropout=0.1)
    load_checkpoint(again, tmp_path / "c")
    assert again.step == 2
    run(again)
    assert all(torch.equal(tensor, weights(undisturbed)[name]) for name, tensor in weights(again).items())


def test_checkpoint_of_other_adapters_is_refused(make, tmp_path):
    trainer = make()
    run(trainer, until=1)
    save_checkpoint(trainer, tmp_path / "c", {})
    with pytest.raises(BadInputError, match="other adapters"):
        load_checkpoint(make("cpt"), tmp_path / "c")


def test_inactive_adapters_do_not_move(make):
    trainer = make(settings=replace(SETTINGS, weight_decay=0.1))
    trainer.objective = SwitchablePrecision([Bitmap.uniform(trainer.model.site_names, 4)], trainer.model.sites)
    before = weights(trainer)
    run(trainer)
    moved = {name.split("/")[0] for name, tensor in weights(trainer).items() if not torch.equal(tensor, before[name])}
    assert moved == {"4", "head"}


def test_frozen_base_does_not_move(make):
    trainer = make()
    trained = {id(p) for group in trainer.model.trainable_groups().values() for p in group.values()}
    before = {n: p.clone() for n, p in trainer.model.named_parameters() if id(p) not in trained}
    run(trainer)
    now = dict(trainer.model.named_parameters())
    assert before
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


def test_highest_width_learns_the_same_at_every_beta_where_nothing_is_shared(make):
    results = []
    for kind in ("spnet", "cascade"):
        trainer = make(kind, task_kind="completion")
        run(trainer)
        results.append({n: t for n, t in weights(trainer).items() if n.startswith("8/")})
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_nan_stops_before_any_weight_moves_and_names_step_and_bitmap(make):
    trainer = make()
    run(trainer, until=2)
    with torch.no_grad():
        next(iter(trainer.model.trainable_groups()["4"].values())).fill_(float("nan"))
    before = weights(trainer)
    with pytest.raises(NonFiniteLossError, match="step 2 with bitmap 4"):
        trainer.train_step()
    assert trainer.step == 2
    assert all(torch.equal(t, before[n]) or torch.isnan(before[n]).any() for n, t in weights(trainer).items())


def test_more_workers_than_examples_of_a_batch_are_refused(make):
    with pytest.raises(BadInputError, match="every worker must have an example of a batch: got 9 for 8"):
        make(world=SharedSum(9).worlds[0])


def test_every_pass_over_the_data_takes_each_example_once_in_another_order():
    taken = [i for step in range(6) for i in batch_indices(12, 4, step, seed=0)]
    assert sorted(taken[:12]) == sorted(taken[12:]) == list(range(12))
    assert taken[:12] != taken[12:]
    assert taken[:12] != [i for step in range(3) for i in batch_indices(12, 4, step, seed=1)]


def test_a_batch_runs_on_over_the_end_of_a_pass():
    assert len(batch_indices(5, 12, 0, seed=0)) == 12


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1.0, 1.0)]
)
def test_learning_rate_warms_up_and_follows_the_schedule(schedule, middle, end):
    settings = TrainSettings(steps=104, warmup_steps=4, learning_rate=1.0, schedule=schedule)
    assert [settings.rate_at(t) for t in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert settings.rate_at(54) == pytest.approx(middle)
    assert settings.rate_at(103) == pytest.approx(end, abs=0.011)


def test_static_ranges_and_learned_steps_are_set_before_the_first_step(random_model):
    from qalof.model.quantizer_state import quantizers_of
    from qalof.model.settings import SwitchSettings

    task = SpanTask(load_tokenizer(random_model), SpanSettings(train_split="train[:24]", max_length=96, stride=16))
    scheme = {
        "weight": {"quantizer": {"method": "lsq", "granularity": "channel"}},
        "activation": {
            "quantizer": {"method": "asymmetric", "granularity": "tensor"},
            "observer": {"kind": "minmax"},
        },
        "kv": {"quantizer": {"method": "symmetric", "granularity": "token"}},
        "widths": [8, 4],
    }
    settings = SwitchSettings(quantization=scheme)
    model = build(BaseModel(random_model, task.head), {"4": AdapterSpec(4), "8": AdapterSpec(4)}, settings, seed=1)
    objective = SwitchablePrecision([Bitmap.uniform(model.site_names, bits) for bits in (8, 4)], model.sites)
    trainer = Trainer(model, task, objective, SETTINGS)
    assert any(quantizers_of(model))
    trainer.calibrate()
    losses = [step.losses["8"] for step in run(trainer)]
    assert losses[-1] < losses[0]


def test_a_model_whose_quantizers_have_no_state_is_left_as_it_is(make):
    trainer = make()
    before = weights(trainer)
    trainer.calibrate()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(trainer).items())
