"""A served model under random precision: every request at its own bitmap, however requests are batched."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache

import qalof
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.robustness.random_precision_model import Drawn, RandomPrecisionModel
from qalof.attacks.robustness.random_precision_scores import drawn, evaluate_under, selected
from qalof.errors import BadInputError
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import SwitchableModel, build
from qalof.statistics import bootstrap_mean

GRAINS = ("request", "batch", "layer", "token")
WIDTHS = (2, 4, 8)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory, random_model: str) -> SwitchableModel:
    return build(BaseModel(random_model, HeadKind.CAUSAL_LM)).eval()


def served(model: SwitchableModel, grain: str, seed: int = 3, **others: Any) -> RandomPrecisionModel:
    defense = RandomPrecision.of(model.site_names, WIDTHS, granularity=grain, seed=seed, batch_size=2)
    return RandomPrecisionModel(model, defense, **others)


def prompts(rows: int, length: int = 7) -> torch.Tensor:
    return torch.randint(1, 300, (rows, length), generator=torch.manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_what_a_request_gets_does_not_depend_on_its_batch(lm: SwitchableModel, grain: str, size: int) -> None:
    ids = prompts(5)
    whole, pieces = served(lm, grain), served(lm, grain)
    seen: list[Drawn] = []
    pieces.on_draw = seen.append
    expected = whole(input_ids=ids).logits
    found = torch.cat([pieces(input_ids=part).logits for part in ids.split(size)])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert sorted(seen, key=lambda d: (d.request, d.position or 0)) == sorted(
        whole.drawn, key=lambda d: (d.request, d.position or 0)
    )
    assert str(lm.bitmap) == "32"


@torch.no_grad()
@pytest.mark.parametrize("grain", ["request", "batch", "layer"])
def test_each_row_is_what_its_own_bitmap_gives(lm: SwitchableModel, grain: str) -> None:
    ids, model = prompts(6), served(lm, grain)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert len({d.bitmap for d in model.drawn}) > 1
    for row, each in enumerate(sorted(model.drawn, key=lambda d: d.request)):
        assert each.bitmap == model.defense.bitmap(row)
        with lm.at(each.bitmap):
            torch.testing.assert_close(logits[row], lm(input_ids=ids[row : row + 1]).logits[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_under_token_each_position_runs_at_its_own_width_in_one_cache(lm: SwitchableModel) -> None:
    ids, model = prompts(1), served(lm, "token")
    logits = model(input_ids=ids).logits
    assert [d.position for d in model.drawn] == list(range(7))
    assert len({d.bitmap for d in model.drawn}) > 1
    cache, alone = DynamicCache(config=lm.model.config), []
    with lm.at():
        for position in range(7):
            lm.set_bitmap(model.defense.bitmap(0, 0, position))
            step = lm.model(input_ids=ids[:, position : position + 1], past_key_values=cache, use_cache=True)
            alone.append(step.logits)
    torch.testing.assert_close(logits, torch.cat(alone, dim=1), atol=0, rtol=0)


@torch.no_grad()
def test_a_text_generated_token_by_token_reads_the_same_when_it_is_read_again(lm: SwitchableModel) -> None:
    model = served(lm, "token")
    text = model.generate(prompts(2), max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None)
    generated = model.drawn
    model.next_request = 0
    logits = model(input_ids=text).logits
    assert text.shape == (2, 12)
    assert torch.equal(logits[:, 6:-1].argmax(-1), text[:, 7:])
    read = [d for d in model.drawn if d.position != 11]  # the last token is generated and never read
    assert set(generated) == set(read)


@torch.no_grad()
@pytest.mark.parametrize("grain", GRAINS)
def test_generation_is_each_request_s_own_whatever_the_batch(lm: SwitchableModel, grain: str) -> None:
    ids, mask = prompts(4), torch.ones(4, 7, dtype=torch.int64)
    mask[1, :3] = 0
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    whole = served(lm, grain).generate(ids, attention_mask=mask, **options)
    one = served(lm, grain)
    rows = [one.generate(ids[r : r + 1], attention_mask=mask[r : r + 1], **options) for r in range(4)]
    assert torch.equal(whole, torch.cat(rows))
    assert torch.equal(whole[:, :7], ids)


@torch.no_grad()
def test_padding_changes_no_token_s_draw(lm: SwitchableModel) -> None:
    ids = prompts(2)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    model = served(lm, "token")
    padded = model(input_ids=ids, attention_mask=mask).logits
    alone = served(lm, "token")(input_ids=ids[:1, :5]).logits
    torch.testing.assert_close(padded[:1, :5], alone, atol=0, rtol=0)
    assert not padded[0, 5:].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(input_ids=prompts(1), labels=prompts(1)), "gives no loss: got labels"),
        (lambda m: m(input_ids=prompts(1), past_key_values=DynamicCache()), "got past_key_values"),
        (lambda m: m(attention_mask=prompts(1)), "give input_ids or inputs_embeds"),
        (lambda m: m.generate(prompts(1), return_dict_in_generate=True), "gives token ids"),
    ],
)
def test_what_it_cannot_serve_is_refused(lm: SwitchableModel, call: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        call(served(lm, "request"))


def test_a_defense_of_other_sites_is_refused_and_the_public_name_is_the_class(lm: SwitchableModel) -> None:
    with pytest.raises(BadInputError, match="make it of model.site_names"):
        RandomPrecisionModel(lm, RandomPrecision.of(("a", "b"), WIDTHS))
    assert qalof.RandomPrecisionModel is RandomPrecisionModel
    assert served(lm, "request").site_names == lm.site_names


class Counting:
    """A task whose example i scores what the model answers to it; every metric kind that a task may have."""

    def __init__(self, ids: torch.Tensor) -> None:
        self.ids = ids

    def evaluate(self, model: Any, *, limit: int | None = None, progress: Any = None) -> Any:
        from qalof.evaluation.result import Evaluation

        with torch.no_grad():
            values = model(input_ids=self.ids[:limit]).logits.double().mean(dim=(1, 2)).tolist()
        loss = [abs(value) for value in values]
        mean = sum(loss) / len(loss)
        metrics = {"f1": sum(values) / len(values), "loss": mean, "perplexity": float(torch.tensor(mean).exp())}
        return Evaluation(metrics, len(values), {"f1": values, "loss": loss}, exponents={"perplexity": 1.0})


def test_scores_by_selection_are_those_of_the_served_model(lm: SwitchableModel) -> None:
    task: Any = Counting(prompts(8))
    for grain in ("request", "batch"):
        defense = RandomPrecision.of(lm.site_names, WIDTHS, granularity=grain, batch_size=3)
        at = {}
        for bitmap in defense.weights() or {}:
            with lm.at(bitmap):
                at[bitmap] = task.evaluate(lm)
        for draw in range(3):
            one, other = selected(at, defense, draw), drawn(lm, task, defense, draw)
            for name in ("f1", "loss", "perplexity"):
                assert one[name] == pytest.approx(other[name], abs=1e-5)
            assert one.per_example["f1"] == pytest.approx(other.per_example["f1"], abs=1e-5)


@pytest.mark.parametrize("grain", GRAINS)
def test_the_interval_is_over_examples_and_the_spread_over_draws(lm: SwitchableModel, grain: str) -> None:
    task: Any = Counting(prompts(6))
    defense = RandomPrecision.of(lm.site_names, WIDTHS, granularity=grain)
    found = evaluate_under(lm, task, defense, 4)
    each = [drawn(lm, task, defense, draw) for draw in range(4)]
    by_example = [sum(e.per_example["f1"][i] for e in each) / 4 for i in range(6)]
    assert found.mean.interval("f1").to_json() == pytest.approx(bootstrap_mean(by_example).to_json(), abs=1e-5)
    assert found.spread["f1"] == pytest.approx((min(e["f1"] for e in each), max(e["f1"] for e in each)), abs=1e-5)
    assert (found.draws, found.to_json()["examples"], str(lm.bitmap)) == (4, 6, "32")


def test_a_set_of_one_bitmap_scores_as_that_bitmap_does(lm: SwitchableModel) -> None:
    task: Any = Counting(prompts(6))
    with lm.at(4):
        fixed = task.evaluate(lm)
    found = evaluate_under(lm, task, RandomPrecision.of(lm.site_names, (4,)), 5)
    assert found.mean.metrics == pytest.approx(dict(fixed.metrics))
    assert all(low == pytest.approx(high) for low, high in found.spread.values())


def test_no_draw_is_refused(lm: SwitchableModel) -> None:
    task: Any = Counting(prompts(2))
    with pytest.raises(BadInputError, match="at least 1 draw per request: got 0"):
        evaluate_under(lm, task, RandomPrecision.of(lm.site_names, WIDTHS), 0)


@pytest.mark.parametrize("grain", ["layer", "token"])
@pytest.mark.parametrize(
    ("name", "options"), [("language-modeling", {"stride": 24}), ("squad-completion", {"max_new_tokens": 4})]
)
def test_a_task_of_a_language_model_is_scored_through_draws_whatever_the_batch(
    lm: SwitchableModel, random_model: str, name: str, options: dict[str, Any], grain: str
) -> None:
    defense = RandomPrecision.of(lm.site_names, WIDTHS, granularity=grain)
    found = [
        drawn(lm, qalof.task(name, source=random_model, max_length=48, eval_batch_size=size, **options), defense, 0, 3)
        for size in (1, 3)
    ]
    assert found[0].metrics == pytest.approx(dict(found[1].metrics), rel=1e-3)
