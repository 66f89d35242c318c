import subprocess
import sys
from collections import Counter

import pytest

from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError

SITES = ("h.0.attn.c_attn", "h.0.mlp.c_fc", "h.1.attn.c_attn", "h.1.mlp.c_fc")


def chi_square(counts: Counter[str], cells: int) -> float:
    expected = sum(counts.values()) / cells
    return sum((count - expected) ** 2 for count in counts.values()) / expected + (cells - len(counts)) * expected


@pytest.mark.parametrize("granularity", ["request", "batch", "layer", "token"])
def test_a_request_is_replayed_alone_and_in_any_order(granularity: str) -> None:
    first = RandomPrecision.of(SITES, (4, 6, 8), granularity=granularity, seed=5, batch_size=3)
    second = RandomPrecision.of(SITES, (4, 6, 8), granularity=granularity, seed=5, batch_size=3)
    keys = [(request, draw) for request in range(20) for draw in range(3)]
    drawn = [str(first.bitmap(*key)) for key in keys]
    assert [str(second.bitmap(*key)) for key in reversed(keys)][::-1] == drawn
    assert len(set(drawn)) > 1


def test_draws_agree_between_processes() -> None:
    code = (
        "from qalof.attacks.robustness.random_precision import RandomPrecision as R\n"
        f"r = R.of({SITES!r}, (4, 6, 8), granularity='layer', seed=5)\n"
        "print(';'.join(str(r.bitmap(n)) for n in range(10)))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = RandomPrecision.of(SITES, (4, 6, 8), granularity="layer", seed=5)
    assert other == ";".join(str(here.bitmap(n)) for n in range(10))


def test_requests_draws_and_seeds_are_uniform_over_the_widths() -> None:
    widths = tuple(range(4, 17))
    defense = RandomPrecision.of(SITES, widths)
    by_request = Counter(str(defense.bitmap(request)) for request in range(6500))
    by_draw = Counter(str(defense.bitmap(0, draw)) for draw in range(6500))
    by_seed = Counter(str(RandomPrecision.of(SITES, widths, seed=seed).bitmap(0)) for seed in range(2600))
    for counts in (by_request, by_draw, by_seed):
        assert chi_square(counts, 13) < 32.9  # 99.9 % of chi-square with 12 degrees of freedom


def test_layers_draw_independently_and_uniformly() -> None:
    defense = RandomPrecision.of(SITES, (4, 8), granularity="layer")
    counts = Counter(str([bits.weight for bits in defense.bitmap(request).values()]) for request in range(8000))
    assert chi_square(counts, 16) < 37.7  # 99.9 % with 15 degrees of freedom


@pytest.mark.parametrize("size", [None, 1, 4, 16])
def test_a_batch_differs_from_a_request_as_soon_as_it_holds_two(size: int | None) -> None:
    widths = tuple(range(2, 17))
    given = {} if size is None else {"batch_size": size}
    batch = RandomPrecision.of(SITES, widths, granularity="batch", **given)
    request = RandomPrecision.of(SITES, widths, granularity="request", **given)
    drawn = [[str(defense.bitmap(n)) for n in range(64)] for defense in (batch, request)]
    assert (drawn[0] == drawn[1]) == (size == 1)
    assert batch.to_json()["batch_size"] == batch.shared == (size or 16)
    assert request.to_json()["batch_size"] == request.shared == 1, "a request shares its draw with none"


@pytest.mark.parametrize("actors", [1, 2, 5])
def test_draws_of_a_batch_do_not_depend_on_who_serves_which_request(actors: int) -> None:
    whole = RandomPrecision.of(SITES, (4, 6, 8), granularity="batch", batch_size=3, seed=2)
    served = {}
    for actor in range(actors):
        own = RandomPrecision.of(SITES, (4, 6, 8), granularity="batch", batch_size=3, seed=2)
        served |= {request: str(own.bitmap(request)) for request in range(actor, 30, actors)}
    assert [served[n] for n in range(30)] == [str(whole.bitmap(n)) for n in range(30)]


def test_a_batch_shares_its_draw_and_the_next_one_draws_again() -> None:
    defense = RandomPrecision.of(SITES, tuple(range(2, 17)), granularity="batch", batch_size=4)
    drawn = [str(defense.bitmap(request)) for request in range(64)]
    assert all(len(set(drawn[start : start + 4])) == 1 for start in range(0, 64, 4))
    assert len(set(drawn[::4])) > 4


@pytest.mark.parametrize(("p", "low", "high"), [(0.0, 0, 0), (0.3, 0.18, 0.22), (1.0, 0.64, 0.70)])
def test_the_switching_probability_is_the_share_that_leaves_the_baseline(p: float, low: float, high: float) -> None:
    # one of the three widths is the baseline itself, so 2/3 of the switches are seen
    defense = RandomPrecision.of(SITES, (4, 6, 8), probability=p, baseline=8)
    moved = sum(str(defense.bitmap(request)) != "8" for request in range(10_000)) / 10_000
    assert low <= moved <= high
    weights = {str(bitmap): weight for bitmap, weight in (defense.weights() or {}).items()}
    assert weights == pytest.approx({"4": p / 3, "6": p / 3, "8": 1 - 2 * p / 3})


def test_whole_bitmaps_are_drawn_site_by_site_per_layer() -> None:
    low = Bitmap.uniform(SITES, 4).replace({SITES[0]: 8})
    defense = RandomPrecision.of(SITES, (low, 16), granularity="layer")
    seen = {site: {defense.bitmap(n)[site].weight for n in range(100)} for site in SITES}
    assert seen == {SITES[0]: {8, 16}, **{site: {4, 16} for site in SITES[1:]}}
    assert defense.weights() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": ()}, "at least one width"),
        ({"widths": (4, 17)}, "whole number from 2 to 16"),
        ({"granularity": "requests"}, "did you mean 'request'"),
        ({"probability": 1.5, "baseline": 8}, r"from 0 to 1: got 1.5"),
        ({"probability": 0.3}, "needs a baseline"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        RandomPrecision.of(SITES, **({"widths": (4, 8)} | arguments))  # type: ignore[arg-type]
