"""How many tokens fit into a model, and where it runs: each is read in one place, and said in one way."""

import ast
from types import SimpleNamespace

import pytest
import torch

from qalof.errors import BadInputError
from qalof.model.positions import check_length, positions_of
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import build
from tests.sources import SOURCES, nodes

ANY_MODULE = {"gradient_rounding.py", "norms.py", "quantizers.py"}
"""Files that ask an ``nn.Module`` of any kind for its device, which has no such attribute."""


@pytest.mark.parametrize("head", [HeadKind.CAUSAL_LM, HeadKind.SPAN])
def test_as_many_tokens_as_there_are_positions_fit_and_one_more_does_not(random_model, head):
    model = build(BaseModel(random_model, head))
    for each in (model, model.model):
        assert positions_of(each) == 128
        check_length(each, 128, "max_length")
    for length in (129, 4096):
        with pytest.raises(
            BadInputError, match=f"^max_length must fit the model's 128 positions: got {length}; reduce"
        ):
            model.check_length(length, "max_length")


def test_a_model_whose_config_does_not_say_takes_any_number_of_tokens():
    endless = SimpleNamespace(config=SimpleNamespace())
    assert positions_of(endless) is None
    check_length(endless, 10**9, "max_length")


def test_a_models_device_is_that_of_its_parameters(random_model):
    model = build(BaseModel(random_model, HeadKind.SPAN))
    assert model.device == torch.device("cpu")
    assert model.to("meta").device == torch.device("meta")


def test_positions_are_read_in_one_place_and_devices_are_asked_of_the_model():
    reads, devices = set(), set()
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
                reads |= {path.name for one in node.args if getattr(one, "value", None) == "max_position_embeddings"}
            if isinstance(node, ast.Attribute) and node.attr == "device" and isinstance(node.value, ast.Call):
                devices |= {path.name} if "parameters()" in ast.unparse(node.value) else set()
    assert reads == {"positions.py"}
    assert devices == ANY_MODULE
