"""Half precision on a CPU: results against float64, at the speed the hardware has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import strategy
from torch import Tensor

from fastadasp.contracts.token_plan import TokenPlan
from fastadasp.engine import received
from fastadasp.engine.heads import by_head
from fastadasp.engine.planning import plan_of
from fastadasp.engine.received import attend, received_attention
from fastadasp.engine.stream import Members, mean_of_members
from fastadasp.kernels import cpu
from fastadasp.testing.views import LONG, view_of

HALF = [torch.bfloat16, torch.float16]
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Half a unit of the last place, relative to 1."""


def members(tokens: int, width: int, batch: int) -> tuple[Members, Tensor, Tensor]:
    """Clusters that are no neighbours, some tokens gone, weights of very different size."""
    target = torch.randint(0, width + 1, (batch, tokens))
    target[:, :width] = torch.arange(width)
    weight = torch.rand(batch, tokens).pow(8) * 100
    return Members.of(target, weight, width), target, weight


def means(h: Tensor, target: Tensor, weight: Tensor, width: int) -> Tensor:
    """The same means in float64: [B, width, D]."""
    share = torch.nn.functional.one_hot(target, width + 1).double() * weight.double().unsqueeze(-1)
    share = share / share.sum(1, keepdim=True)
    return torch.einsum("btw,btd->bwd", share[..., :width], h.double())


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("large", [False, True])
def test_means_lose_one_rounding_alone(dtype: torch.dtype, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:  # results made in parts of three rows
        monkeypatch.setattr(cpu, "_LARGE", 0)
        monkeypatch.setattr(cpu, "_PART", 3 * 64 * dtype.itemsize)
    torch.manual_seed(0)
    found, target, weight = members(300, 70, 2)
    h = torch.randn(2, 300, 64).to(dtype)
    ours, exact = mean_of_members(h, found, 70), means(h, target, weight, 70)
    assert ours.dtype == dtype
    # half a unit of the last place for the result; shares, in two numbers, have twice the digits of one
    inside = 4 * max(ROUNDING[dtype] ** 2, 2 * ROUNDING[torch.float32])
    assert float(((ours.double() - exact).abs() - ROUNDING[dtype] * exact.abs()).max()) <= inside


@pytest.mark.parametrize("dtype", HALF)
def test_equal_states_stay(dtype: torch.dtype) -> None:
    """Shares rounded to half precision would not sum to 1: a long cluster of one state would become another."""
    h = torch.full((1, 999, 8), 1.25, dtype=dtype)
    found = Members.of(torch.zeros(1, 999, dtype=torch.int64), torch.rand(1, 999), 1)
    assert (mean_of_members(h, found, 1) == 1.25).all()


def test_gradients_pass_through_means() -> None:
    h = torch.randn(1, 30, 4, dtype=torch.bfloat16, requires_grad=True)
    found, _, _ = members(30, 5, 1)
    mean_of_members(h, found, 5).float().sum().backward()
    assert h.grad is not None
    assert h.grad.abs().sum() > 0


def received_exactly(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Column sums of the whole matrix in float64."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1).double()
    logits = query.double() @ key.transpose(-1, -2) * scale
    hidden = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    return logits.masked_fill(hidden, float("-inf")).softmax(-1).sum((1, 2))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("hardware", [False, True])
@pytest.mark.parametrize("near", [1, 1 << 18])
def test_scores_against_float64(dtype: torch.dtype, hardware: bool, near: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One head at a time, and several."""
    monkeypatch.setattr(cpu, "multiplies", lambda _: hardware)
    monkeypatch.setattr(received, "_NEAR_ELEMENTS", near)
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 250, 64).to(dtype), torch.randn(2, 2, 250, 64).to(dtype)
    ours, exact = received_attention(query, key, 0.125), received_exactly(query, key, 0.125)
    assert ours.dtype == torch.float32
    # logits up to 4 or so: their rounding shifts a weight by 1 %, and many weights make a sum
    error = float(((ours - exact).abs() / exact).max())
    assert error < (2 * ROUNDING[dtype] if hardware else 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("hardware", [False, True])
@pytest.mark.parametrize("length", [2, 97, 300])
def test_attention_with_scores_against_float64(
    dtype: torch.dtype, hardware: bool, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is taken along is what is computed apart; the output is as near to the exact one as torch's own."""
    monkeypatch.setattr(cpu, "multiplies", lambda _: hardware)
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(2, length, heads, size).to(dtype).transpose(1, 2) for heads, size in ((4, 64), (2, 64), (2, 48))
    )
    output, scores = attend(query, key, value, 0.125)
    assert output.dtype == dtype
    assert output.shape == (2, length, 4, 48)
    torch.testing.assert_close(scores, received_attention(query, key, 0.125))
    wide = [x.double().repeat_interleave(4 // x.shape[1], 1) for x in (query, key, value)]
    exact = torch.nn.functional.scaled_dot_product_attention(*wide, is_causal=True, scale=0.125).transpose(1, 2)
    few = 1e-6 if dtype == torch.float32 else 2 * ROUNDING[dtype] if hardware else ROUNDING[dtype]
    assert float((output.double() - exact).norm() / exact.norm()) < few


def test_products_of_one_head_and_of_several_agree() -> None:
    query, key = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 8, 9)
    together = received._product(query, key)
    for head in range(2):
        one = slice(head, head + 1)
        torch.testing.assert_close(received._product(query[:, one], key[:, one]), together[:, one])


def test_float32_always_multiplies() -> None:
    assert cpu.multiplies(torch.float32)


HEAVY = ("expected-attention", "divprune", "weighted", "h2o", "tome")


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", HEAVY)
def test_autocast_changes_no_plan(name: str, half: torch.dtype) -> None:
    """Queries so large that their squares leave the range of float16, and features whose order bfloat16 loses."""
    recipe = strategy(name)

    def planned() -> TokenPlan:
        view = view_of(LONG)
        loud = replace(view, query=view.query * 50, key=view.key * 3, kept={})
        return plan_of(recipe, by_head(loud) if recipe.site == "cache" else loud)

    expected = planned()
    with torch.autocast("cpu", half):
        found = planned()
    assert torch.equal(found.cluster, expected.cluster)
