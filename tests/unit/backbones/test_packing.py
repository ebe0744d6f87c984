"""Packing of weights: what is rounded, what is exact, what is drawn."""

import torch

from igsp_deploy.backbones.nano.packing import fill_rows, pack, unpack

FROZEN = [106.0, -73.0, 5.0, -115.0]
"""First values of the stream, from numpy 2.4's Philox."""


def test_int8_rows_are_within_half_a_step() -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 6)[:, None]
    back = unpack(pack({"w": weight}, ["w"], {}))["w"]
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((back - weight).abs() <= step * 0.5001).all()
    assert (back - weight).abs().max() > 0


def test_packing_what_was_unpacked_changes_nothing() -> None:
    weights = {"w": torch.randn(5, 7), "bias": torch.randn(5), "table.weight": torch.randn(9, 4)}
    rows = {"table.weight": torch.tensor([0, 3, 4])}
    once = unpack(pack(weights, ["w", "table.weight"], rows))
    twice = unpack(pack(once, ["w", "table.weight"], rows))
    assert all(torch.allclose(once[name], twice[name], rtol=1e-6, atol=0) for name in weights if name != "table.weight")
    assert torch.equal(once["bias"], weights["bias"].half().float())
    assert torch.allclose(once["table.weight"][[0, 3, 4]], weights["table.weight"][[0, 3, 4]], atol=0.05)


def test_rows_that_are_not_stored_are_drawn_alike_everywhere_and_differ() -> None:
    drawn = fill_rows(4, 8, 1.0)
    assert torch.equal(drawn, fill_rows(4, 8, 1.0))
    assert len({tuple(row.tolist()) for row in drawn}) == 4
    assert drawn.abs().max() <= 1.0
    assert (drawn[0, :4] * 127).round().tolist() == FROZEN
