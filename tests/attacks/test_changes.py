"""Changes of one text read together: what they share is computed once, and every reading is that of the whole text."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from qalof.attacks.changes import ChangeReader, common, most_shared
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.quantization.scheme import QuantizationScheme
from qalof.tasks.classification import class_logits
from tests.attacks.conftest import BAD, GOOD, SUBJECTS


def changes(victim: Any) -> list[list[list[int]]]:
    """What an attack asks of each text: itself without each word, and with other words in the place of one."""
    groups: list[list[list[int]]] = []
    for example in victim.examples[:4]:
        words = example.text.split()
        asked = [[" ".join(words[:place] + words[place + 1 :]) for place in range(len(words))]]
        for place in range(len(words)):
            asked.append([" ".join([*words[:place], new, *words[place + 1 :]]) for new in (*GOOD, *BAD, *SUBJECTS)])
        groups += [victim.tokenizer(texts)["input_ids"] for texts in asked]
    return groups


@pytest.mark.parametrize("at", [32, 8, 4, "w8a8kv8", "w4a4kv4"])
def test_a_reading_is_that_of_the_whole_text(victim: Any, at: Any) -> None:
    groups = changes(victim)
    with victim.model.at(at), torch.no_grad():
        found = ChangeReader(victim.model, victim.tokenizer).logits(groups)
        assert [len(each) for each in found] == [len(group) for group in groups]
        for each, group in zip(found, groups, strict=True):
            torch.testing.assert_close(each, class_logits(victim.model, group, 1), atol=2e-4, rtol=1e-4)


def test_fewer_tokens_are_computed_even_of_sentences_of_eight_words(victim: Any, tokens_read: list[int]) -> None:
    groups = changes(victim)
    ChangeReader(victim.model, victim.tokenizer).logits(groups)
    assert sum(tokens_read) < sum(len(row) for group in groups for row in group) * 0.85


def test_texts_that_share_nothing_are_read_whole_in_one_pass(victim: Any, tokens_read: list[int]) -> None:
    rows = [[number, 7, 8, 9] for number in range(20, 30)]
    found = ChangeReader(victim.model, victim.tokenizer).logits([rows])
    assert tokens_read == [40]
    with torch.no_grad():
        torch.testing.assert_close(found[0], class_logits(victim.model, rows, 1), atol=2e-4, rtol=1e-4)


def test_rows_that_end_in_a_pad_or_repeat_or_end_early_are_read_rightly(victim: Any) -> None:
    end = victim.tokenizer.eos_token_id
    row = victim.tokenizer(victim.examples[0].text)["input_ids"]
    rows = [row, row, row[:5], [*row, end], [*row[:4], end, *row[5:]], [end], row[:1], [*row, 7]]
    with torch.no_grad():
        found = ChangeReader(victim.model, victim.tokenizer).logits([rows, [row], [[5, end, 7]]])
        expected = class_logits(victim.model, [*rows, row, [5, end, 7]], 1)
    torch.testing.assert_close(torch.cat(found), expected, atol=2e-4, rtol=1e-4)


def test_padding_changes_no_logit_whatever_a_text_ends_in(victim: Any) -> None:
    end = victim.tokenizer.eos_token_id
    rows = [victim.tokenizer(example.text)["input_ids"] for example in victim.examples]
    rows += [rows[0][:3], [*rows[1], end], [end], [5, end, 7]]
    for width in (32, 4):
        with victim.model.at(width), torch.no_grad():
            padded = torch.cat(ChangeReader(victim.model, victim.tokenizer).logits([[row] for row in rows]))
            torch.testing.assert_close(padded, class_logits(victim.model, rows, 64), atol=1e-4, rtol=1e-4)


def test_a_range_over_the_whole_text_is_never_taken_from_a_part_of_it(victim: Any) -> None:
    by_text = {"activation": {"quantizer": {"method": "symmetric", "granularity": "tensor"}}}
    model = build(
        BaseModel(str(victim.folder), HeadKind.CLASSIFIER, labels=2),
        settings=SwitchSettings(quantization=QuantizationScheme.from_json(by_text)),
    ).eval()
    reader = ChangeReader(model, victim.tokenizer)
    assert not reader.shares
    groups = changes(victim)
    with model.at("w32a3kv32"), torch.no_grad():
        found = reader.logits(groups)
        torch.testing.assert_close(found[0], class_logits(model, groups[0], 1), atol=2e-4, rtol=1e-4)


WIDE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**WIDE, "num_key_value_heads": 2, "intermediate_size": 64}
FAMILIES: dict[str, tuple[bool, dict[str, Any]]] = {
    "gpt2": (True, {"n_embd": 32, "n_layer": 2, "n_head": 2}),
    "opt": (True, {**WIDE, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "gpt_neox": (True, {**WIDE, "intermediate_size": 64}),
    "llama": (True, GROUPED),
    "qwen3": (True, {**GROUPED, "head_dim": 8}),
    # a layer that forgets early tokens, or counts places in the cache, or takes no positions
    "mistral": (False, {**GROUPED, "sliding_window": 4}),
    "gpt_neo": (
        False,
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
        },
    ),
    "bloom": (False, {"hidden_size": 32, "n_layer": 2, "n_head": 2}),
}
"""Whether the changes of a text share its beginning, and a config."""


@pytest.mark.parametrize("family", FAMILIES)
def test_classifiers_of_every_family_read_changes_as_whole_texts(family: str, victim: Any) -> None:
    shares, sizes = FAMILIES[family]
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, vocab_size=200, num_labels=3, **special, **sizes)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)  # so that attention bears on the labels
    text = list(range(20, 32))
    rows = [text[:place] + text[place + 1 :] for place in range(12)]
    rows += [[*text[:7], new, new + 1, *text[8:]] for new in range(50, 60)]
    reader = ChangeReader(model, victim.tokenizer)
    assert reader.shares == shares
    with torch.no_grad():
        found = torch.cat(reader.logits([rows[:12], rows[12:]]))
        torch.testing.assert_close(found, class_logits(model, rows, 1), atol=2e-5, rtol=1e-4)


def test_the_row_that_is_read_whole_shares_most_with_the_others() -> None:
    assert [common([1, 2, 3], [1, 2, 4]), common([1, 2], [1, 2, 3]), common([1], [2])] == [2, 2, 0]
    # a text of five tokens without each of them: without the last, it begins as the others do for longest
    rows = [[2, 3, 4, 5], [1, 3, 4, 5], [1, 2, 4, 5], [1, 2, 3, 5], [1, 2, 3, 4]]
    assert most_shared(rows) == (3, 0 + 1 + 2 + 3)
