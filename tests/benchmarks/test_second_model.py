"""The second model of the searches, at its smallest scale on text made here."""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("the", "river", "town", "was", "built", "by", "a", "king", "near", "old", "walls", "and", "fields")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield __import__
    for name in ("second_model", "search_real", "site_damages", "measure"):
        sys.modules.pop(name, None)


@pytest.fixture
def data(tmp_path):
    """A folder as the real data's: GPT-2's 256 bytes with five merges, and sentences of few words."""
    signs = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = [chr(sign) for sign in signs] + [chr(256 + index) for index in range(256 - len(signs))]
    space = chr(256 + 32)
    merges = [("t", "h"), ("th", "e"), (space, "the"), ("w", "a"), ("wa", "s")]
    vocabulary = [*names, *("".join(pair) for pair in merges), "<|endoftext|>"]
    for folder in ("tokenizer/gpt2", "corpus", "wikitext2"):
        (tmp_path / folder).mkdir(parents=True)
    tokenizer = tmp_path / "tokenizer" / "gpt2"
    (tokenizer / "vocab.json").write_text(json.dumps({name: index for index, name in enumerate(vocabulary)}))
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]))
    draw = random.Random(0)
    text = ". ".join(" ".join(draw.choices(WORDS, k=9)) for _ in range(300))
    for name in ("squad_train_contexts-00", "squad_train_contexts-01", "openstax-00", "valid"):
        (tmp_path / "corpus" / f"{name}.txt").write_text(f"{text}<|endoftext|>{text}")
    (tmp_path / "wikitext2" / "wiki.valid.raw").write_text(text)
    return tmp_path


def smallest(module):
    return module.Recipe(
        blocks=2, width=16, heads=2, context=32, vocabulary=260, steps=12, batch=2, warmup=2, learning_rate=1e-2
    )


def test_a_training_cut_off_goes_on_to_the_weights_of_an_uninterrupted_one(benchmark, data, tmp_path):
    module = benchmark("second_model")
    recipe = smallest(module)
    whole = module.made(recipe, data, tmp_path / "whole")
    module.made(recipe, data, tmp_path / "pieces", stop_after=5)
    pieces = module.made(recipe, data, tmp_path / "pieces")
    one, other = (torch.load(tmp_path / name / "state.pt")["model"] for name in ("whole", "pieces"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert pieces["held_out"] == whole["held_out"]
    assert whole["tokens_seen"] == 12 * 2 * 32


def test_a_state_of_another_recipe_is_refused(benchmark, data, tmp_path):
    module = benchmark("second_model")
    recipe = smallest(module)
    module.made(recipe, data, tmp_path / "out", stop_after=1)
    with pytest.raises(SystemExit, match="another --output"):
        module.made(replace(recipe, seed=1), data, tmp_path / "out")


def test_the_cut_tokenizer_keeps_the_first_merges_and_writes_any_text(benchmark, data):
    module = benchmark("second_model")
    tokenizer = module.cut_tokenizer(data / "tokenizer" / "gpt2", 259, 32)
    assert len(tokenizer) == 259
    assert tokenizer.eos_token_id == 258
    for text in ("the was", "Über 東京, naïve — 100 %"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    # "th" and "the" are the two merges that are kept
    assert tokenizer.tokenize("the was") == ["the", "Ġ", "w", "a", "s"]


def test_the_learning_rate_warms_up_and_ends_at_zero(benchmark):
    module = benchmark("second_model")
    recipe = module.Recipe(steps=100, warmup=10, decay=0.4)
    shares = [module.rate_share(recipe, step) for step in range(101)]
    assert shares[0] == 0.1
    assert shares[9:61] == [1.0] * 52
    assert shares[80] == 0.5
    assert shares[100] == 0.0


def test_shares_of_damage_add_up_and_are_beside_those_of_the_weights(benchmark):
    module = benchmark("site_damages")
    damages = {"h.0.attn.c_attn": 1.0, "h.0.mlp.c_proj": 2.0, "h.1.attn.c_attn": 1.0, "h.1.mlp.c_proj": 4.0}
    weights = {site: 300 if "attn" in site else 100 for site in damages}
    found = module.shares(damages, weights)
    assert found["by_kind"] == {
        "attn.c_attn": {"share": 0.25, "per_weight": 0.333},
        "mlp.c_proj": {"share": 0.75, "per_weight": 3.0},
    }
    assert found["by_block"] == {"0": 0.375, "1": 0.625}
    assert next(iter(found["largest"])) == "h.1.mlp.c_proj"


def test_the_search_and_the_scores_run_on_the_model_that_a_training_left(
    benchmark, data, tmp_path, monkeypatch, capsys
):
    module = benchmark("second_model")
    module.made(smallest(module), data, tmp_path / "out")
    common = ["--model", str(tmp_path / "out" / "model"), "--data", str(data), "--threads", "1"]
    searching, scoring = benchmark("search_real"), benchmark("site_damages")
    for each in (searching, scoring):
        monkeypatch.setattr(each, "WINDOW", 32)
    arguments = [*common, "--strategies", "guided", "knapsack", "--budgets", "4.5", "--windows", "4", "--judge", "4"]
    monkeypatch.setattr(sys, "argv", ["search_real.py", *arguments, "--output", str(tmp_path / "search")])
    searching.main()
    found = json.loads(capsys.readouterr().out)
    _full, *rows = found["rows"]
    assert [row["strategy"] for row in rows] == ["guided", "knapsack"]
    assert all(row["average_bits"] <= 4.5 for row in rows)
    assert found["sites"] == 8
    assert "reach" not in found
    monkeypatch.setattr(sys, "argv", ["site_damages.py", *common, "--output", str(tmp_path / "damages")])
    scoring.main()
    scored = json.loads(capsys.readouterr().out)
    assert set(scored["rank_correlation_with_kl"]) == set(scoring.SCORES) - {"kl"}
    assert sum(scored["thirds_of_c_attn"]["4"].values()) == pytest.approx(1.0, abs=1e-3)
    assert sum(kind["share"] for kind in scored["scores"]["kl"]["4"]["by_kind"].values()) == pytest.approx(1, abs=1e-3)
