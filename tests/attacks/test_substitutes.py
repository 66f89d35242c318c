"""The stand-ins for word lists, encoders and masked models, each against an independent computation."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qalof.attacks.substitutes.left_context import LeftContext
from qalof.attacks.substitutes.parts_of_speech import may_replace
from qalof.attacks.substitutes.similarity import StateSimilarity
from qalof.attacks.substitutes.stop_words import STOP_WORDS, is_stop_word
from qalof.attacks.substitutes.synonyms import EmbeddingNeighbors, ListedSynonyms, read_thesaurus, whole_words
from qalof.attacks.words import Words
from qalof.errors import BadInputError

# of the sentences that the small victim knows
SUBJECTS = ("film", "play", "room", "food", "music", "book")
JUDGEMENTS = ("good", "great", "lovely", "fine", "bad", "awful", "dull", "poor")

TOKENS = ["<|endoftext|>", "Ġhot", "Ġwarm", "Ġcold", "hot", "ĠHot", "Ġ7", "Ġa"]


class Vocabulary:
    def __len__(self) -> int:
        return len(TOKENS)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [TOKENS[index] for index in ids]


def test_neighbors_are_whole_words_by_cosine_about_the_mean() -> None:
    rows = torch.zeros(len(TOKENS), 2)
    rows[1:4] = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.1]])
    rows += 7  # which all have in common, and which would make all cosines 1
    lm = SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=rows))
    centered = rows - rows.mean(0)
    cosine = float(torch.nn.functional.cosine_similarity(centered[1], centered[2], dim=0))

    def found(least: float, most: int = 50) -> list[str]:
        return list(EmbeddingNeighbors(lm, Vocabulary(), least, most).of("Hot"))

    assert whole_words(Vocabulary()) == {"hot": 1, "warm": 2, "cold": 3}
    assert found(-1.0) == ["warm", "cold"]
    assert found(-1.0, most=1) == ["warm"]
    assert found(cosine - 1e-3) == ["warm"]
    assert found(cosine + 1e-3) == []
    assert EmbeddingNeighbors(lm, Vocabulary(), -1.0, 5).of("tepid") == []


def test_pairs_are_read_in_both_directions_and_entries_in_one(tmp_path: Path) -> None:
    pairs, entries = tmp_path / "pairs.tsv", tmp_path / "entries.jsonl"
    pairs.write_text("Hot\twarm\n\nwarm\ttepid\nhot\twarm\n", encoding="utf-8")
    assert read_thesaurus(str(pairs)) == {"hot": ("warm",), "warm": ("hot", "tepid"), "tepid": ("warm",)}
    entries.write_text(
        '{"word": "hot", "pos": "a", "synonyms": ["warm"], "similar": ["fiery", "hot"]}\n', encoding="utf-8"
    )
    assert read_thesaurus(str(entries)) == {"hot": ("warm", "fiery")}
    assert list(ListedSynonyms(str(entries), 1).of("HOT")) == ["warm"]
    pairs.write_text("cold\tcool\n", encoding="utf-8")
    assert "cold" in read_thesaurus(str(pairs))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.tsv", "hot warm"),
        ("a.tsv", "hot\t"),
        ("a.tsv", "hot\twarm\ttepid"),
        ("a.tsv", "hot\tnot cold"),
        ("a.jsonl", "hot\twarm"),
        ("a.jsonl", '{"word": "hot"}'),
        ("a.jsonl", '{"word": "hot", "synonyms": [3]}'),
        ("a.jsonl", '["hot"]'),
    ],
)
def test_a_bad_line_of_a_list_is_one_clear_line(tmp_path: Path, name: str, line: str) -> None:
    good = "big\tlarge" if name.endswith("tsv") else '{"word": "big", "synonyms": ["large"]}'
    (tmp_path / name).write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"word list .*, line 2 must be .*: got ") as caught:
        read_thesaurus(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_list_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="does not exist"):
        read_thesaurus(str(tmp_path / "none.tsv"))
    (tmp_path / "latin.tsv").write_bytes(b"caf\xe9\tbar\n")
    with pytest.raises(BadInputError, match="UTF-8"):
        read_thesaurus(str(tmp_path / "latin.tsv"))


def states(victim: Any, text: str, layer: int) -> torch.Tensor:
    ids = torch.tensor([victim.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return victim.lm(ids, output_hidden_states=True).hidden_states[layer][0, 1:]


@pytest.mark.parametrize("weighted", [False, True])
def test_similarity_is_the_angle_between_mean_states(victim: Any, weighted: bool) -> None:
    size = len(victim.tokenizer)
    idf = [1.0 + index for index in range(size)] if weighted else None
    text, other = "We found the film lovely.", "They left a room in the evening"
    means = []
    for each in (text, other):
        ids = victim.tokenizer(each)["input_ids"][1:]
        weights = torch.tensor([idf[index] if idf else 1.0 for index in ids])
        means.append((states(victim, each, 1) * weights[:, None]).sum(0) / weights.sum())
    cosine = float(torch.nn.functional.cosine_similarity(*means, dim=0))
    for metric, expected in (("cosine", cosine), ("angular", 1 - math.acos(cosine) / math.pi)):
        similarity = StateSimilarity(victim.lm, victim.tokenizer, metric, idf=idf)  # type: ignore[arg-type]
        same, found, nothing = similarity.of(text, [text, other, ""])
        assert same == pytest.approx(1.0, abs=1e-3)  # an arc cosine is steep at 1
        assert found == pytest.approx(expected, abs=1e-5)
        assert nothing == {"cosine": 0.0, "angular": 0.5}[metric]


def test_a_layer_or_weights_that_are_not_there_are_refused(victim: Any) -> None:
    with pytest.raises(BadInputError, match="layer must lie from 0 to the language model's 2: got 3"):
        StateSimilarity(victim.lm, victim.tokenizer, "cosine", layer=3)
    with pytest.raises(BadInputError, match="idf must have"):
        StateSimilarity(victim.lm, victim.tokenizer, "cosine", idf=[1.0])


def test_left_context_proposes_whole_words_that_fit_and_never_the_word_itself(victim: Any) -> None:
    words = Words.of("We found the film Good in the evening.")
    proposer = LeftContext(victim.lm, victim.tokenizer, 5)
    subjects = proposer.candidates(words, words.words.index("film"))
    assert "film" not in subjects
    assert len(set(subjects) & set(SUBJECTS)) >= 3
    judged = proposer.candidates(words, words.words.index("Good"))
    assert "Good" not in judged
    assert len({word.lower() for word in judged} & set(JUDGEMENTS)) >= 4
    assert all(word[0].isupper() for word in judged)


def test_of_twice_as_many_proposals_those_stay_whose_whole_text_is_likeliest(victim: Any) -> None:
    words = Words.of("We found the film good in the evening.")
    known = whole_words(victim.tokenizer)

    def nats(text: str, end: bool = False) -> torch.Tensor:
        ids = torch.tensor([[victim.tokenizer.eos_token_id, *victim.tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            logits = victim.lm(ids[:, 1:] if end else ids).logits[0]
        if end:
            return logits[-1]
        return torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum")

    after = nats("We found the", end=True)
    proposed = sorted(set(known) - {"film"}, key=lambda word: -float(after[known[word]]))[:8]
    expected = sorted(proposed, key=lambda word: float(nats(words.replaced(3, word).text)))[:4]
    assert LeftContext(victim.lm, victim.tokenizer, 4).candidates(words, 3) == expected


def test_the_first_word_and_a_word_of_many_pieces_have_candidates(victim: Any) -> None:
    words = Words.of("Extraordinarily fine music")
    assert len(victim.tokenizer("Extraordinarily")["input_ids"]) > 3
    found = LeftContext(victim.lm, victim.tokenizer, 3).candidates(words, 0)
    assert len(found) == 3
    assert all(word.istitle() for word in found)


def test_parts_of_speech_rule_out_only_what_an_ending_tells_apart() -> None:
    assert may_replace("quickly", "slowly")
    assert not may_replace("quickly", "famous")
    assert not may_replace("happiness", "famous")
    assert may_replace("happiness", "celebrate")  # a noun and a verb
    assert may_replace("lovely", "famous")
    assert may_replace("plum", "quickly")


def test_stop_words_are_told_whatever_their_capitals() -> None:
    assert all(is_stop_word(word) for word in ("The", "DON\u2019T", "not", "which"))
    assert not any(is_stop_word(word) for word in (*JUDGEMENTS, *SUBJECTS))
    assert all(word == word.lower() for word in STOP_WORDS)
