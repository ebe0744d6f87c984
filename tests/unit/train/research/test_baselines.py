"""What every method of a comparison claims to do, on a tiny random CLIP."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from igsp_deploy.config import RunConfig
from igsp_deploy.model.backbone import hash_weights
from igsp_deploy.model.experts import largest_gates
from igsp_train.research.baselines import fixed_pool
from igsp_train.research.baselines.fixed_pool import NUM_EXPERTS, TOP_K, PoolBlock, learn_fixed_pool
from igsp_train.research.baselines.registry import METHODS
from igsp_train.research.baselines.ridge import apply_ridge, solve_ridge
from igsp_train.research.baselines.sequential import learn_fully, learn_sequentially
from igsp_train.research.baselines.similarity import learn_by_similarity, nearest
from igsp_train.research.study.method import Setting, Stage
from igsp_train.research.study.pooled import find_head, open_reader
from igsp_train.research.study.run import RunKey, measure, reorder
from igsp_train.research.study.tokens import TrunkTokens


def key(method: str, tasks: list[TrunkTokens]) -> RunKey:
    return RunKey(label="", method=method, seed=0, order=tuple(t.name for t in tasks), config=RunConfig())


def head_size(setting: Setting) -> int:
    """Numbers of a head of two classes, with the share of the words."""
    return 2 * 2 * setting.clip.summary_width + 1


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_measured_after_every_task(method: str, setting: Setting, tokens: list[TrunkTokens]) -> None:
    run = measure(setting, key(method, tokens), tokens)
    for split in ("val", "test"):
        matrix = np.array(run["accuracy"][split])
        assert matrix.shape == (2, 2)
        assert ((matrix >= 0) & (matrix <= 100)).all()
        if not METHODS[method].changes_old:
            assert matrix[1, 0] == matrix[0, 0]
            assert matrix[0, 1] == run["zero_shot"][split][1]
    trained = method != "zero-shot"
    assert all((count > 0) == trained for count in (run["trained_phase1"][1], run["trained_phase2"][1], run["kept"][0]))


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if not m.reads_order])
def test_a_method_that_says_so_does_not_read_the_order(
    method: str, setting: Setting, tokens: list[TrunkTokens]
) -> None:
    names = tuple(t.name for t in reversed(tokens))
    there = measure(setting, key(method, tokens), tokens)
    back = measure(setting, key(method, tokens[::-1]), tokens[::-1])
    moved = reorder(there, names)
    for part in ("accuracy", "zero_shot", "words", "kept", "trained_phase1", "order"):
        assert moved[part] == back[part]


@pytest.mark.parametrize("method", ["igsp", "random-reuse", "isolated", "svd", "similarity", "sequential"])
def test_words_alone_are_what_the_method_reaches_without_heads(
    method: str, setting: Setting, tokens: list[TrunkTokens]
) -> None:
    plain = dataclasses.replace(setting, learn=dataclasses.replace(setting.learn, head="text"))
    run, without = measure(setting, key(method, tokens), tokens), measure(plain, key(method, tokens), tokens)
    assert run["words"] == {split: matrix[-1] for split, matrix in without["accuracy"].items()}
    assert without["words"] == {}
    assert sum(run["kept"]) > sum(without["kept"])


def test_the_head_alone_is_what_the_head_says_without_words(setting: Setting, tokens: list[TrunkTokens]) -> None:
    (stage, *_) = METHODS["head-alone"].learn(setting, tokens)
    head, (seen, _) = find_head(setting, tokens[0], {}), tokens[0].splits["test"]
    assert head is not None
    assert head.vectors is not None
    expected = (open_reader(setting).read(seen) @ head.vectors.T).argmax(1)
    assert torch.equal(stage.predict(tokens[0], seen), expected)
    assert stage.kept == head.vectors.numel()


def test_a_fixed_pool_freezes_what_a_task_used_most_and_trains_the_rest(
    setting: Setting, tokens: list[TrunkTokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[PoolBlock] = []

    class Watched(PoolBlock):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(fixed_pool, "PoolBlock", Watched)
    stages = learn_fixed_pool(setting, tokens)
    next(stages)
    before = [(block.frozen.clone(), block.down.detach().clone(), block.up.detach().clone()) for block in made]
    second = next(stages)
    assert len(made) == len(setting.sites)
    changed = 0
    for block, (frozen, down, up) in zip(made, before, strict=True):
        assert int(frozen.sum()) == TOP_K
        assert torch.equal(block.down[frozen], down[frozen])
        assert torch.equal(block.up[frozen], up[frozen])
        changed += not torch.equal(block.up[~frozen], up[~frozen])
    assert changed == len(made)
    one = made[0].down[0].numel() + made[0].up[0].numel()  # both debug towers are 32 wide
    routers = sum((33 if tower == "vision" else 1) * NUM_EXPERTS for tower, _ in setting.sites)
    assert second.trained_phase1 == len(made) * (NUM_EXPERTS - TOP_K) * one + routers
    assert second.kept == routers


def test_the_largest_gates_share_all_of_the_mass() -> None:
    gates = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.05, 0.15, 0.2, 0.6]])
    expected = torch.tensor([[0.625, 0, 0.375, 0], [0, 0, 0.25, 0.75]])
    torch.testing.assert_close(largest_gates(gates, 2), expected)


def test_one_adapter_trained_on_serves_all_tasks_and_changes_with_each(
    setting: Setting, tokens: list[TrunkTokens]
) -> None:
    def scores(stage: Stage) -> torch.Tensor:
        return torch.stack([stage.predict(task, task.splits["train"][0]) for task in tokens])

    longer = dataclasses.replace(setting, learn=dataclasses.replace(setting.learn, steps=30))
    stages = [scores(stage) for stage in learn_sequentially(longer, tokens)]
    assert not torch.equal(stages[0], stages[1])
    kept = [stage.kept for stage in learn_sequentially(setting, tokens)]
    head = head_size(setting)
    assert kept[0] > head
    assert kept[1] == head


def test_full_fine_tuning_leaves_the_backbone_of_the_others_alone(setting: Setting, tokens: list[TrunkTokens]) -> None:
    before = hash_weights(setting.backbone.clip)
    sizes = [stage.trained_phase1 for stage in itertools.islice(learn_fully(setting, tokens), 1)]
    assert hash_weights(setting.backbone.clip) == before
    assert not any(p.requires_grad for p in setting.backbone.clip.parameters())
    blocks = setting.backbone.clip.visual.transformer.resblocks
    assert sizes[0] > sum(p.numel() for block in blocks[setting.first_block :] for p in block.parameters())


def test_the_nearest_task_is_the_one_whose_images_look_alike() -> None:
    first, second = torch.tensor([1.0, 0.0, 0.2]), torch.tensor([0.0, 1.0, 0.2])
    assert nearest(torch.tensor([0.9, 0.2, 0.1]), [first, second]) == 0
    assert nearest(torch.tensor([0.1, 0.8, 0.1]), [first, second]) == 1
    assert nearest(first, []) is None


def test_similarity_reuses_all_of_its_neighbour_and_adds_one_expert_less(
    setting: Setting, tokens: list[TrunkTokens]
) -> None:
    again = dataclasses.replace(tokens[0], name="again")
    stages = list(learn_by_similarity(setting, [*tokens, again]))
    assert [stage.details["shares_with"] for stage in stages] == [None, "colors", "colors"]
    experts = [2, 1, 1]
    one = 2 * 32 * setting.model.rank
    head = head_size(setting)
    for stage, new, used in zip(stages, experts, (2, 3, 3), strict=True):
        routers = sum((33 if tower == "vision" else 1) * used for tower, _ in setting.sites)
        assert stage.kept == len(setting.sites) * new * one + routers + head


def test_ridge_solves_its_normal_equations() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 5, generator=generator)
    labels = (features[:, 0] > 0).long() + 2 * (features[:, 1] > 0).long()
    weights = solve_ridge(features, labels, 4, 1e-4)
    assert (apply_ridge(weights, features) == labels).float().mean() > 0.8
    target = torch.nn.functional.one_hot(labels, 4).double()
    design = torch.cat([features.double(), torch.ones(40, 1, dtype=torch.float64)], dim=1)
    exact = torch.linalg.lstsq(design, target).solution
    torch.testing.assert_close(weights, exact, atol=1e-3, rtol=1e-3)
