"""Deformable attention against grid_sample, by hand, and where nothing may go wrong."""

import pytest
import torch
import torch.nn.functional as F

from mask_former.layers import MultiScaleDeformableAttention
from mask_former.layers.deformable_attention import sample_map

SIZES = [(2, 3), (5, 4)]


def by_grid_sample(feature, positions, weights):
    """The usual form: samples of all points, then their weighted sum."""
    size = positions.new_tensor([feature.shape[2], feature.shape[1]])
    grid = 2 * (positions + 0.5) / size - 1
    samples = F.grid_sample(feature.permute(0, 3, 1, 2), grid, align_corners=False)
    return torch.einsum("gcqp,gqp->gqc", samples, weights)


def test_samples_and_gradients_are_those_of_grid_sample():
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(3, 6, 9, 4, generator=generator)
    # Inside, across the edges, and far outside.
    positions = torch.randn(3, 50, 7, 2, generator=generator) * 6 + torch.tensor([4.0, 2.5])
    weights = torch.randn(3, 50, 7, generator=generator)
    outside = (positions < -1).any(-1) | (positions > torch.tensor([9.0, 6.0])).any(-1)
    assert 0.2 < outside.float().mean() < 0.8
    results = []
    for form in (sample_map, by_grid_sample):
        inputs = [x.clone().requires_grad_() for x in (feature, positions, weights)]
        output = form(*inputs)
        results.append((output.detach(), *torch.autograd.grad(output.square().sum(), inputs)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_what_is_exported_to_onnx_computes_the_same(monkeypatch):
    inputs = torch.randn(2, 5, 6, 3), 4 * torch.randn(2, 8, 3, 2), torch.randn(2, 8, 3)
    expected = sample_map(*inputs)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    monkeypatch.setattr(F, "embedding_bag", None)
    torch.testing.assert_close(sample_map(*inputs), expected, rtol=1e-4, atol=1e-4)


def test_samples_and_gradients_are_one_graph():
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    inputs = torch.randn(2, 5, 6, 3), 4 * torch.randn(2, 8, 3, 2), torch.randn(2, 8, 3)
    inputs = [x.requires_grad_() for x in inputs]
    results = [
        torch.autograd.grad(form(*inputs).square().sum(), inputs)
        for form in (sample_map, torch.compile(sample_map, backend="aot_eager"))
    ]
    torch.testing.assert_close(*results)
    assert not torch._dynamo.utils.counters["graph_break"]
    torch.compiler.reset()


def test_gradients_are_those_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    positions = torch.randint(-2, 4, (2, 4, 2, 2), generator=generator).double() + 0.1
    positions += 0.8 * torch.rand(2, 4, 2, 2, **options)  # between pixels, where it has gradients
    inputs = (torch.randn(2, 3, 3, 2, **options), positions, torch.randn(2, 4, 2, **options))
    assert torch.autograd.gradcheck(sample_map, [x.requires_grad_() for x in inputs])


def test_samples_by_hand():
    feature = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
    positions = [(0, 0), (1, 1), (0.5, 0), (0.25, 0.5), (-0.5, 0), (1.5, 1.5), (2, 0), (-9, 99)]
    values = sample_map(feature, torch.tensor(positions)[None, :, None], torch.ones(1, 8, 1))
    assert values.flatten().tolist() == [1.0, 4.0, 1.5, 2.25, 0.5, 1.0, 0.0, 0.0]


def test_a_position_that_is_no_number_spoils_its_own_query_only():
    positions = torch.zeros(1, 3, 1, 2)
    positions[0, 1, 0, 0] = torch.nan
    values = sample_map(torch.ones(1, 4, 4, 2), positions, torch.ones(1, 3, 1))
    assert values.isnan().any(-1).tolist() == [[False, True, False]]


def test_the_first_offsets_are_a_compass():
    layer = MultiScaleDeformableAttention(16, num_heads=8, num_levels=2, num_points=3)
    query = torch.randn(1, 1, 16)
    offsets = layer.sampling_offsets(query).view(8, 2, 3, 2)
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    torch.testing.assert_close(offsets[:, 0, 0], torch.tensor(directions).float())
    torch.testing.assert_close(offsets[:, 1, 2], 3 * torch.tensor(directions).float())
    assert not layer.attention_weights(query).any()  # all points count the same


def test_the_published_formula():
    """Every query, head, map and point, one by one; normalized locations, as published."""
    torch.manual_seed(0)
    layer = MultiScaleDeformableAttention(8, num_heads=2, num_levels=2, num_points=3)
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    torch.nn.init.normal_(layer.attention_weights.weight)
    query, value = torch.randn(2, 5, 8), torch.randn(2, 26, 8)
    reference = torch.rand(5, 2)
    output = layer(query, reference, value, SIZES)

    offsets = layer.sampling_offsets(query).view(2, 5, 2, 2, 3, 2)
    weights = layer.attention_weights(query).view(2, 5, 2, 6).softmax(-1).view(2, 5, 2, 2, 3)
    values = layer.value_proj(value).view(2, 26, 2, 4)
    maps = [values[:, :6].unflatten(1, (2, 3)), values[:, 6:].unflatten(1, (5, 4))]
    expected = torch.zeros(2, 5, 2, 4)
    for b, q, h, level, p in torch.cartesian_prod(*map(torch.arange, (2, 5, 2, 2, 3))).tolist():
        height, width = SIZES[level]
        location = reference[q] + offsets[b, q, h, level, p] / torch.tensor([width, height])
        sampled = F.grid_sample(
            maps[level][b, :, :, h].permute(2, 0, 1)[None],
            (2 * location - 1)[None, None, None],
            align_corners=False,
        )
        expected[b, q, h] += weights[b, q, h, level, p] * sampled.flatten()
    torch.testing.assert_close(output, layer.output_proj(expected.flatten(2)))


def test_it_can_be_exported():
    layer = MultiScaleDeformableAttention(8, num_heads=2, num_levels=2, num_points=3).eval()
    inputs = (torch.randn(1, 5, 8), torch.rand(5, 2), torch.randn(1, 26, 8), SIZES)
    exported = torch.export.export(layer, inputs).module()
    torch.testing.assert_close(exported(*inputs), layer(*inputs))


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="3 deformable attention heads do not divide 8 channels"):
        MultiScaleDeformableAttention(8, num_heads=3, num_levels=1, num_points=1)
