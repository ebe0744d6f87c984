"""What processes that learn together do with their numbers, with the other processes' messages made up."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from igsp_deploy.errors import UserError
from igsp_train.ranks import ALONE, Ranks, ranks_of_this_process

EXPERTS = [("down", torch.arange(6.0).reshape(2, 3)), ("up", torch.ones(3, 2))]

Answer = Callable[[str], str]


def hear(monkeypatch: pytest.MonkeyPatch, other: Answer) -> Ranks:
    """The first of two processes; the second answers `other` of what the first one sent."""

    def gather(found: list[str], mine: str) -> None:
        found[:] = [mine, other(mine)]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    return Ranks(rank=0, count=2)


def digest(tensors: list[tuple[str, Tensor]]) -> str:
    return ALONE.check_equal(tensors, "nothing")


def test_equal_tensors_pass_and_their_hash_is_that_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = hear(monkeypatch, lambda mine: mine)
    assert ranks.check_equal(EXPERTS, "the experts") == digest(EXPERTS)


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([("down", EXPERTS[0][1] + 1e-6), EXPERTS[1]], id="one value off by a rounding"),
        pytest.param([EXPERTS[0], ("up", -EXPERTS[1][1])], id="another sign"),
        pytest.param([("down_", EXPERTS[0][1]), EXPERTS[1]], id="another name"),
        pytest.param(EXPERTS[:1], id="one expert less"),
    ],
)
def test_processes_that_differ_are_named_with_what_differs(
    monkeypatch: pytest.MonkeyPatch, others: list[tuple[str, Tensor]]
) -> None:
    theirs = digest(others)
    ranks = hear(monkeypatch, lambda _: theirs)
    with pytest.raises(UserError, match="the processes do not agree on which experts to keep") as caught:
        ranks.check_equal(EXPERTS, "which experts to keep")
    assert f"{digest(EXPERTS)[:12]}, {theirs[:12]}" in str(caught.value)


def test_the_hash_sees_every_bit_of_half_precision_and_of_strided_tensors() -> None:
    half = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    assert digest([("a", half.T)]) == digest([("a", half.T.contiguous())]) != digest([("a", half)])


def test_accelerate_that_started_one_process_for_several_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with ranks_of_this_process() as ranks:  # accelerate launch --num_processes 1
        assert ranks == ALONE
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UserError, match="--multi_gpu"), ranks_of_this_process():
        pass
