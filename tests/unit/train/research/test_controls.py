"""Controls beside iGSP: old experts drawn at random, and isolated experts made small afterwards."""

import pytest
import torch

from igsp_deploy.model.experts import Experts, Trace, concatenate_down, concatenate_up
from igsp_train.research.baselines.isolated import learn_isolated, without_pruning
from igsp_train.research.baselines.random_reuse import drawn, kept_counts, learn_beside, strongest
from igsp_train.research.baselines.svd import learn_then_cut, mean_gates, merged
from igsp_train.research.study.method import Setting
from igsp_train.research.study.pooled import add_to_pool, run_task, scratch_folder
from igsp_train.research.study.tokens import TrunkTokens


def test_random_reuse_counts_what_igsp_keeps_and_then_keeps_what_was_drawn(
    setting: Setting, tokens: list[TrunkTokens]
) -> None:
    first, second = tokens
    with scratch_folder(setting) as folder:
        add_to_pool(setting, folder, first, run_task(setting, folder, first, without_pruning(setting.learn)))
        assert all(folder.pool.size(site) == 2 for site in setting.sites)
        expected = run_task(setting, folder, second, setting.learn)
        counts = kept_counts(setting, folder, second, setting.learn)
        assert counts == {site: (one.num_frozen, one.num_candidates) for site, one in expected.learner.items()}
        counts = {site: (1, number % 2) for number, site in enumerate(setting.sites)}
        chosen = [drawn(folder, counts, seed) for seed in range(4)]
        assert all(len(ids[site]) == 1 for ids in chosen for site in setting.sites)
        assert {ids[site][0] for ids in chosen for site in setting.sites} == {0, 1}
        result = learn_beside(setting, folder, second, chosen[0], counts)
    assert {site: one.frozen_ids for site, one in result.learner.items()} == chosen[0]
    assert {site: (one.num_frozen, one.num_candidates) for site, one in result.learner.items()} == counts
    assert result.phase1_steps == expected.phase1_steps
    assert len(result.curves["loss"]) == len(expected.curves["loss"])


def test_of_the_candidates_the_strongest_stay_beside_all_old_experts() -> None:
    gates = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])
    assert strongest(gates, 2, 2).tolist() == [True, True, False, True, True]
    assert strongest(gates, 2, 0).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("rank", [2, 6])
def test_merged_experts_are_the_nearest_matrix_of_their_rank(rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(3, 2, 8, generator=generator), torch.randn(3, 8, 2, generator=generator)
    gates = torch.tensor([0.2, 0.5, 0.3])
    block = Experts(
        down=concatenate_down(down),
        up=concatenate_up(up),
        router_weight=None,
        router_bias=gates.log(),
        scale=0.5,
    )
    one = merged(block, gates, rank)
    sum_of_three = 0.5 * torch.einsum("k,kdr,kre->de", gates, up, down)
    assert one.down.shape == (rank, 8)
    missed = torch.linalg.svdvals(sum_of_three)[rank:].square().sum()
    torch.testing.assert_close((one.up @ one.down - sum_of_three).square().sum(), missed, atol=1e-5, rtol=1e-4)
    if rank == 6:
        hidden = torch.randn(2, 4, 8, generator=generator)
        torch.testing.assert_close(
            one.delta(hidden, one.gates(None)), block.delta(hidden, gates[None]), atol=1e-5, rtol=1e-4
        )


def test_svd_keeps_one_expert_a_block_of_what_was_learned_in_isolation(
    setting: Setting, tokens: list[TrunkTokens]
) -> None:
    whole, cut = next(learn_isolated(setting, tokens)), next(learn_then_cut(setting, tokens))
    one = 2 * 32 * setting.model.rank  # both debug towers are 32 wide
    experts, routers = len(setting.sites) * one, sum(33 if tower == "vision" else 1 for tower, _ in setting.sites)
    assert whole.kept - cut.kept == experts + 2 * routers - len(setting.sites)
    assert cut.trained_phase2 == whole.trained_phase2


def test_mean_gates_are_those_of_all_training_images(setting: Setting, tokens: list[TrunkTokens]) -> None:
    generator = torch.Generator().manual_seed(0)
    experts = {
        site: Experts(
            down=torch.randn(4, 32, generator=generator),
            up=torch.zeros(32, 4),
            router_weight=torch.randn(2, 32, generator=generator) if site[0] == "vision" else None,
            router_bias=torch.tensor([0.0, 1.0]),
            scale=1.0,
        )
        for site in setting.sites
    }
    found = mean_gates(setting, tokens[0], experts)
    assert set(found) == set(setting.sites)
    for site in setting.sites:
        if site[0] == "text":
            torch.testing.assert_close(found[site], torch.tensor([0.0, 1.0]).softmax(0))
    one_by_one: list[torch.Tensor] = []
    for image in tokens[0].splits["train"][0].split(1):
        trace = Trace()
        setting.clip.embed(image, experts, trace=trace)
        one_by_one.append(trace.gates["vision", setting.first_block])
    assert torch.cat(one_by_one).std(0).min() > 0.001
    torch.testing.assert_close(found["vision", setting.first_block], torch.cat(one_by_one).mean(0))
