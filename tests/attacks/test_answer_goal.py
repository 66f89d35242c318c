"""Question answering as a victim, on tasks whose answer is a rule and a model without training."""

from types import SimpleNamespace

import pytest

from qalof.attacks.answer_goal import MOST_NATS, AnswerGoal, moved
from qalof.attacks.attack import attack_examples
from qalof.attacks.examples import for_task
from qalof.attacks.goal import FAILED, SUCCEEDED
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.result import AttackStatus
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.robustness.transfer import draw_table, prediction_table
from qalof.attacks.words import Words
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.model.pretrained import BaseModel, HeadKind, load_pretrained, load_tokenizer
from qalof.model.switchable import build
from qalof.tasks.squad_completion import CompletionSettings, CompletionTask
from qalof.tasks.squad_data import SquadExample
from qalof.tasks.squad_span import SpanSettings, SpanTask

CONTEXT = "The old river runs past the small town of Arden, and the people of Arden walk along it every evening."
ASKED = [
    SquadExample("a", "Which town does it pass?", CONTEXT, (("Arden", CONTEXT.index("Arden")), ("small town", 26))),
    SquadExample("b", "When do people walk?", CONTEXT, (("every evening", CONTEXT.index("every")),)),
    SquadExample("c", "Who swims?", CONTEXT, ()),
]
ATTACK = TextFoolerSettings(
    least_cosine=-1.0, part_of_speech="off", most_synonyms=2, least_similarity=-1.0, max_length=64
)


def rule(context):
    """The answer is right while the river is there."""
    return "Arden every evening" if "river" in context else "nobody"


class RuledSpan(SpanTask):
    validation = ASKED

    def answers(self, model, questions, contexts):
        return [rule(context) for context in contexts]


class RuledCompletion(CompletionTask):
    validation = ASKED

    def answers(self, model, prompts, progress=None):
        return [rule(self.tokenizer.decode(prompt.ids)) for prompt in prompts]


@pytest.fixture(scope="module", params=["span", "completion"])
def victim(request, random_model):
    tokenizer = load_tokenizer(random_model)
    if request.param == "span":
        task = RuledSpan(tokenizer, SpanSettings(max_length=64, stride=16))
    else:
        task = RuledCompletion(tokenizer, CompletionSettings(max_length=96, max_new_tokens=4))
    model = build(BaseModel(random_model, task.head))
    lm = load_pretrained(random_model, HeadKind.CAUSAL_LM)
    settings = for_task(ATTACK, task)
    bitmaps = [Bitmap.parse(bits, model.bitmap.sites) for bits in (8, 4)]
    results = [attack_examples(model, lm, tokenizer, settings.examples(task), bitmap, settings) for bitmap in bitmaps]
    return SimpleNamespace(
        task=task, model=model, settings=settings, tokenizer=tokenizer, bitmaps=bitmaps, results=results
    )


def test_it_succeeds_where_f1_falls_to_0_and_leaves_the_words_of_all_answers(victim):
    examples = victim.settings.examples(victim.task)
    assert [(each.id, each.text, each.label) for each in examples] == [(0, CONTEXT, FAILED), (1, CONTEXT, FAILED)]
    for example, found in zip(examples, victim.results[0], strict=True):
        assert found.status is (AttackStatus.FAILED if "river" in found.adversarial_text else AttackStatus.SUCCESS)
        before, after = (Words.of(text).words for text in (found.original_text, found.adversarial_text))
        kept = {word for text in ASKED[example.id].texts for word in text.lower().split()}
        changed = [old.lower() for old, new in zip(before, after, strict=True) if old != new]
        assert changed
        assert not kept & set(changed)
        assert found.measures["f1_before"] > 0
        assert (found.measures["f1_after"] == 0) is (found.status is AttackStatus.SUCCESS)


def test_tables_of_transfer_and_of_draws_read_it_as_held_and_broken(victim):
    bitmaps, results = victim.bitmaps, victim.results
    judge = victim.settings.judge(victim.model, victim.tokenizer)
    table = prediction_table(judge, results, bitmaps)
    broken = [[SUCCEEDED if "river" not in r.adversarial_text else FAILED for r in row] for row in results]
    assert table.clean.tolist() == [[FAILED, FAILED]] * 2
    assert [rows[:, 0].tolist() for rows in table.adversarial] == broken
    defense = RandomPrecision(tuple(bitmaps))
    assert draw_table(judge, results, defense, 2).adversarial[:, :, 1].tolist() == broken


def test_damage_grows_as_the_gold_answer_becomes_less_likely(victim):
    goal = AnswerGoal(victim.task, victim.model, 64)
    goal.begin(0)
    same, gone = goal.get_results(CONTEXT, FAILED, [CONTEXT, CONTEXT.replace("Arden", "Bray")])
    assert same.importance == 0
    assert 0 < same.score < MOST_NATS
    assert gone.score != same.score
    if victim.task.head is HeadKind.SPAN:
        assert gone.score == MOST_NATS


def test_an_answer_moves_with_the_text_before_it():
    changed = moved(ASKED[0], CONTEXT.replace("old", "venerable"))
    assert all(changed.context.startswith(text, at) for text, at in changed.answers)
    assert changed.span == (ASKED[0].span[0] + 6, ASKED[0].span[1] + 6)
    assert moved(ASKED[0], "Nothing is left.").span is None


def test_questions_without_an_answer_cannot_be_attacked(victim):
    class Unanswered(type(victim.task)):
        validation = ASKED[2:]

    task = Unanswered(victim.tokenizer, victim.task.settings)
    with pytest.raises(BadInputError, match="a question must have an answer"):
        victim.settings.examples(task)
