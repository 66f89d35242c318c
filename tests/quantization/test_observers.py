import pytest
import torch

from qalof.errors import BadInputError
from qalof.quantization.methods.asymmetric import Asymmetric
from qalof.quantization.methods.log import Log
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.observers import ObserverSpec, StaticRanges, batch_range

TENSOR = Symmetric(granularity="tensor")
GROUPS = Symmetric(granularity="group", group_size=4)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def observed(kind, batches, quantizer=TENSOR, bits=8, **options):
    ranges = StaticRanges(ObserverSpec(kind=kind, **options), "here")
    for batch in batches:
        ranges.observe(batch, bits, quantizer)
    key = "all" if ranges.spec.shared else str(bits)
    return getattr(ranges, f"low_{key}"), getattr(ranges, f"high_{key}")


BATCHES = [normal(3, 5, 10, seed=seed) * (1 + seed) for seed in range(3)]


def test_minmax_keeps_the_extremes_of_all_batches():
    low, high = observed("minmax", BATCHES)
    everything = torch.cat(BATCHES)
    assert low == everything.min()
    assert high == everything.max()


def test_ema_moves_by_one_less_its_momentum_from_the_first_batch_on():
    low, high = observed("ema", BATCHES, momentum=0.9)
    expected = [BATCHES[0].min(), BATCHES[0].max()]
    for batch in BATCHES[1:]:
        expected = [0.9 * old + 0.1 * new for old, new in zip(expected, (batch.min(), batch.max()), strict=True)]
    torch.testing.assert_close(torch.stack([low, high]), torch.stack(expected))


def test_percentile_is_the_nearest_rank_and_does_not_see_an_outlier():
    x = torch.arange(1, 1001).float()[torch.randperm(1000)].view(1, 10, 100)
    low, high = observed("percentile", [x], percentile=99.0)
    assert (low, high) == (11, 990)
    x[0, 0, 0] = 1e9
    assert observed("percentile", [x], percentile=99.0)[1] <= 991
    assert observed("percentile", [x], percentile=100.0)[1] == 1e9


def test_percentile_and_mse_average_their_batches_by_size():
    small, large = torch.ones(1, 2, 5), 4 * torch.ones(1, 6, 5)
    small[0, 0, 0], large[0, 0, 0] = -1, -4
    for kind in ("percentile", "mse"):
        high = observed(kind, [small, large], percentile=100.0)[1]
        expected = sum(b.numel() * observed(kind, [b], percentile=100.0)[1] for b in (small, large)) / 40
        torch.testing.assert_close(high, expected)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("quantizer", [TENSOR, GROUPS, Asymmetric(granularity="tensor")])
def test_mse_range_rounds_no_worse_than_any_shrunken_extremes(quantizer, bits):
    x = normal(4, 50, 12) ** 3
    low, high = observed("mse", [x], quantizer, bits)

    def error(share):
        if share is None:
            qparams = quantizer.grid_of_range(low, high, bits)
        else:
            qparams = quantizer.grid_of_range(
                *(share * end for end in batch_range(x, bits, quantizer, ObserverSpec())), bits
            )
        return float((quantizer.fake_quantize(x, bits, qparams) - x).square().mean())

    assert error(None) <= min(error(share) for share in (1.0, 0.9, 0.7, 0.5, 0.3)) * 1.0001
    assert bits == 8 or error(None) < error(1.0)


def test_a_group_has_a_range_of_its_own_over_all_tokens_and_the_last_may_be_short():
    low, high = observed("minmax", BATCHES, GROUPS)
    everything = torch.cat(BATCHES).flatten(0, 1)
    parts = everything.split(4, dim=-1)
    assert low.tolist() == [part.min() for part in parts]
    assert high.tolist() == [part.max() for part in parts]


def test_frozen_range_gives_every_batch_the_same_grid_and_clips():
    ranges = StaticRanges(ObserverSpec(), "here")
    ranges.observe(torch.tensor([[[1.0, -2.0]]]), 4, TENSOR)
    for x in BATCHES:
        qparams = ranges.qparams(x, 4, TENSOR)
        assert qparams.scale == torch.tensor(2.0) / 7
        assert TENSOR.fake_quantize(x, 4, qparams).abs().max() <= 2.0001


@torch.no_grad()
def test_observing_updates_and_frozen_does_not():
    ranges = StaticRanges(ObserverSpec(), "here")
    ranges.observing = True
    ranges.qparams(BATCHES[0], 4, TENSOR)
    ranges.observing = False
    before = ranges.high_4.clone()
    ranges.qparams(100 * BATCHES[0], 4, TENSOR)
    assert torch.equal(ranges.high_4, before)


def test_each_width_has_its_own_range_unless_shared():
    ranges = StaticRanges(ObserverSpec(), "h.0.mlp.c_fc activation")
    ranges.observe(BATCHES[0], 4, TENSOR)
    with pytest.raises(BadInputError, match=r"observed before it is used: h.0.mlp.c_fc activation has none at 8 bits"):
        ranges.qparams(BATCHES[0], 8, TENSOR)
    shared = StaticRanges(ObserverSpec(shared=True), "here")
    shared.observe(BATCHES[0], 4, TENSOR)
    shared.observe(BATCHES[2], 8, TENSOR)
    assert shared.high_all == max(BATCHES[0].max(), BATCHES[2].max())
    assert shared.qparams(BATCHES[0], 5, TENSOR).scale == shared.high_all.maximum(-shared.low_all) / 15


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_data_that_is_empty_or_not_finite_is_refused_by_place(bad):
    ranges = StaticRanges(ObserverSpec(), "h.1.attn.c_proj activation")
    with pytest.raises(BadInputError, match=r"at least one number: h.1.attn.c_proj activation"):
        ranges.observe(torch.zeros(0, 3), 4, TENSOR)
    with pytest.raises(BadInputError, match=r"must be finite: h.1.attn.c_proj activation"):
        ranges.observe(torch.tensor([[1.0, bad]]), 4, TENSOR)
    assert not list(ranges.buffers())


def test_state_loads_into_a_fresh_module_and_replaces_what_was_there():
    ranges = StaticRanges(ObserverSpec(), "here")
    ranges.observe(BATCHES[0], 4, TENSOR)
    fresh = StaticRanges(ObserverSpec(), "here")
    fresh.observe(BATCHES[1], 8, TENSOR)
    fresh.load_state_dict(ranges.state_dict())
    assert fresh.state_dict().keys() == ranges.state_dict().keys()
    assert torch.equal(fresh.qparams(BATCHES[1], 4, TENSOR).scale, ranges.qparams(BATCHES[1], 4, TENSOR).scale)


def test_a_pass_with_a_graph_is_not_observed_since_backward_may_repeat_it():
    ranges = StaticRanges(ObserverSpec(kind="ema"), "here")
    ranges.observing = True
    with pytest.raises(BadInputError, match="without gradients: here saw a pass with a graph; call calibrate"):
        ranges.qparams(BATCHES[0], 4, TENSOR)
    assert not list(ranges.buffers())
    with torch.no_grad():
        ranges.qparams(BATCHES[0], 4, TENSOR)
    assert ranges.seen_4 == BATCHES[0].numel()


def test_per_token_ranges_and_methods_without_ranges_are_refused():
    with pytest.raises(BadInputError, match="needs granularity tensor, group or head: got token"):
        observed("minmax", BATCHES, Symmetric(granularity="token"))
    ranges = StaticRanges(ObserverSpec(), "here")
    ranges.observe(BATCHES[0], 4, TENSOR)
    with pytest.raises(BadInputError, match="needs a number of octaves"):
        ranges.qparams(BATCHES[0], 4, Log(granularity="tensor"))


@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ({"kind": "median"}, "kind must be 'minmax' or 'ema'"),
        ({"kind": "ema", "momentum": 1.0}, "momentum must be a number of at least 0 and below 1"),
        ({"kind": "percentile", "percentile": 10}, "percentile must be a number above 50"),
        ({"kind": "mse", "shared": True}, "cannot be shared"),
        ({"kin": "ema"}, "did you mean 'kind'"),
    ],
)
def test_bad_settings_are_one_clear_error(settings, law):
    with pytest.raises(BadInputError, match=law):
        ObserverSpec.from_json(settings)


def test_settings_survive_json():
    spec = ObserverSpec(kind="percentile", percentile=99.5)
    assert ObserverSpec.from_json(spec.to_json()) == spec
    assert ObserverSpec.from_json("ema") == ObserverSpec(kind="ema")


@pytest.mark.parametrize("kind", ["minmax", "ema", "percentile", "mse"])
@pytest.mark.parametrize("quantizer", [TENSOR, GROUPS, Asymmetric(granularity="tensor")], ids=str)
@torch.no_grad()
def test_ranges_of_batches_in_float64_are_never_narrowed(narrowing, kind, quantizer):
    ranges = StaticRanges(ObserverSpec(kind=kind), "here")
    ranges.observing = True
    with narrowing() as found:
        for batch in BATCHES:
            qparams = ranges.qparams(batch.double(), 4, quantizer)
    assert not found
    assert qparams.scale.dtype is torch.float64
    narrow = StaticRanges(ObserverSpec(kind=kind), "here")
    narrow.observing = True
    for batch in BATCHES:
        grid32 = narrow.qparams(batch, 4, quantizer)
    torch.testing.assert_close(grid32.scale.double(), qparams.scale, rtol=1e-6, atol=0)
