"""A menu of widths, and the adapters that serve them."""

import logging

import pytest

from qalof.model.adapter_spec import SHARED, AdapterPolicy, stand_ins, untrained_widths
from search import BitmapSpace


class Trained:
    """What a space asks of a model."""

    def __init__(self, sites, adapters, policy=AdapterPolicy.NEAREST_HIGHER):
        self.sites, self.adapters, self.policy = sites, dict.fromkeys(adapters), policy


def weights(space):
    return sorted({layer.weight for choices in space.choices for layer in choices})


@pytest.mark.parametrize(
    ("adapters", "menu"),
    [(("8", "4"), [4, 8]), (("16", "5", "3"), [3, 5, 16]), ((), [3, 4, 5, 6, 7, 8]), ((SHARED,), [3, 4, 5, 6, 7, 8])],
)
def test_without_a_menu_a_space_has_the_widths_that_have_adapters(sites, adapters, menu, caplog):
    assert weights(BitmapSpace.of(Trained(sites, adapters))) == menu
    assert not caplog.records


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            AdapterPolicy.NEAREST_HIGHER,
            "nearest_higher runs the adapter of 4 bits at 2 bits, the adapter of 8 bits at 6 bits",
        ),
        (AdapterPolicy.NEAREST, "nearest runs the adapter of 4 bits at 2 bits, the adapter of 8 bits at 6 bits"),
        (AdapterPolicy.NONE, "none runs no adapter at 2 bits, no adapter at 6 bits"),
    ],
)
def test_widths_without_an_adapter_are_named_with_what_stands_in(sites, policy, said, caplog):
    with caplog.at_level(logging.WARNING):
        space = BitmapSpace.of(Trained(sites, ("4", "8"), policy), weight=(2, 4, 6, 8))
    assert weights(space) == [2, 4, 6, 8]
    (record,) = caplog.records
    assert "no adapter was trained for 2, 6 bits" in record.getMessage()
    assert said in record.getMessage()


@pytest.mark.parametrize("names", [(), (SHARED,), ("2", "4", "8")])
def test_nothing_is_said_where_every_width_has_its_adapter_or_shares_one(names):
    assert stand_ins([2, 4, 8], names, AdapterPolicy.NEAREST_HIGHER) == {}
    assert untrained_widths([2, 4, 8], names, AdapterPolicy.NEAREST_HIGHER) is None
