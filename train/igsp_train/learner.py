"""The trainable side of one task: candidates and router of every adapted block, beside the frozen experts it may reuse.

Shapes: F frozen experts, m candidates, K = F + m, r rank, d width.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from igsp_deploy.config import RouterInput
from igsp_deploy.model.experts import Experts, SiteExperts, concatenate_down, concatenate_up, new_experts
from igsp_deploy.model.folder import ModelFolder
from igsp_deploy.model.pool import Pool
from igsp_deploy.model.selector import TaskStatistics
from igsp_deploy.model.task_files import LearnedTask
from igsp_deploy.sites import Site, site_name


class SiteLearner(nn.Module):
    """One block: frozen experts (buffers), candidates and router (parameters). Router rows: frozen first."""

    frozen_down: Tensor
    frozen_up: Tensor

    def __init__(
        self,
        frozen_ids: list[int],
        frozen: tuple[Tensor, Tensor],
        candidates: tuple[Tensor, Tensor],
        *,
        router_input: RouterInput,
        scale: float,
        initial_candidate_mass: float = 0.5,
    ) -> None:
        """Start with constant gates: uniform over the candidates, and uniform over the frozen experts.

        Args:
            frozen_ids: pool ids of the frozen experts.
            frozen: their `down` `[F, r, d]` and `up` `[F, d, r]`.
            candidates: `down` `[m, r, d]` and `up` `[m, d, r]`.
            router_input: what the router reads; `static` for text.
            scale: factor s.
            initial_candidate_mass: share of the gates that the candidates hold together.
        """
        super().__init__()
        self.frozen_ids = list(frozen_ids)
        self.router_input = router_input
        self.scale = scale
        self.register_buffer("frozen_down", frozen[0], persistent=False)
        self.register_buffer("frozen_up", frozen[1], persistent=False)
        self.down = nn.Parameter(candidates[0].clone())
        self.up = nn.Parameter(candidates[1].clone())
        total = len(frozen_ids) + len(candidates[0])
        width = candidates[0].shape[-1]
        self.weight = None if router_input == "static" else nn.Parameter(torch.zeros(total, width))
        bias = torch.zeros(total)
        if frozen_ids and len(candidates[0]):
            odds = initial_candidate_mass / (1 - initial_candidate_mass)
            bias[len(frozen_ids) :] = math.log(odds * len(frozen_ids) / len(candidates[0]))
        self.bias = nn.Parameter(bias)

    @property
    def num_frozen(self) -> int:
        """F."""
        return len(self.frozen_ids)

    @property
    def num_candidates(self) -> int:
        """m, or what pruning left of it."""
        return int(self.down.shape[0])

    def experts(self) -> Experts:
        """The block's tensors in the form the towers run, attached to the autograd graph."""
        return Experts(
            down=concatenate_down(torch.cat([self.frozen_down, self.down])),
            up=concatenate_up(torch.cat([self.frozen_up, self.up])),
            router_weight=self.weight,
            router_bias=self.bias,
            scale=self.scale,
            router_input=self.router_input,
        )

    def keep(self, mask: Tensor) -> dict[nn.Parameter, tuple[nn.Parameter, Tensor]]:
        """Drop experts from this router (and candidates for good).

        Args:
            mask: bool `[K]`, True for the experts that stay.

        Returns:
            Old parameter -> new parameter and the rows of the old one it holds, for the optimiser's state.
        """
        frozen_rows = mask[: self.num_frozen].nonzero().flatten()
        candidate_rows = mask[self.num_frozen :].nonzero().flatten()
        rows = mask.nonzero().flatten()
        self.frozen_ids = [self.frozen_ids[i] for i in frozen_rows.tolist()]
        self.frozen_down = self.frozen_down[frozen_rows]
        self.frozen_up = self.frozen_up[frozen_rows]
        moved: dict[nn.Parameter, tuple[nn.Parameter, Tensor]] = {}
        for name, kept in (("down", candidate_rows), ("up", candidate_rows), ("weight", rows), ("bias", rows)):
            old = getattr(self, name)
            if old is not None:
                new = nn.Parameter(old.detach()[kept].clone())
                setattr(self, name, new)
                moved[old] = (new, kept)
        return moved

    def open_gates(self, mean_gates: Tensor, mass: float) -> None:
        """Raise the new experts' share of the gates to `mass` where it is lower, their weighted output unchanged.

        The penalty of phase 1 shuts the gates of candidates, and a gate is also the factor on its expert's gradient
        (identity 1 of docs/paper_to_code.md): what was kept to fit the residual could hardly learn it. The routers'
        biases move by the difference in log-odds, B shrinks by the same factor that the gates grow by on average.

        Args:
            mean_gates: mean routing probability of each expert that was kept, `[K]`.
            mass: share of the gates that all new experts of the block get together.
        """
        if not self.num_frozen or not self.num_candidates:
            return
        now = float(mean_gates[self.num_frozen :].sum() / mean_gates.sum())
        if now >= mass:
            return
        now = max(now, 1e-4)
        with torch.no_grad():
            self.bias[self.num_frozen :] += math.log(mass / (1 - mass)) - math.log(now / (1 - now))
            self.up.mul_(now / mass)


class TaskLearner(nn.Module):
    """All adapted blocks of the task being learned."""

    def __init__(self, sites: dict[Site, SiteLearner]) -> None:
        """Use `new_task_learner`."""
        super().__init__()
        self._keys = list(sites)
        self.sites = nn.ModuleDict({_key(at): site for at, site in sites.items()})

    def items(self) -> Iterable[tuple[Site, SiteLearner]]:
        """Pairs of site and its learner, vision first."""
        for key in self._keys:
            site = self.sites[_key(key)]
            assert isinstance(site, SiteLearner)
            yield key, site

    def experts(self) -> SiteExperts:
        """What the towers run, attached to the autograd graph."""
        return {site: learner.experts() for site, learner in self.items()}

    def layout(self) -> dict[str, dict[str, object]]:
        """Which frozen experts and how many candidates each block has; enough to rebuild the learner."""
        return {
            _key(site): {"frozen": learner.frozen_ids, "candidates": learner.num_candidates}
            for site, learner in self.items()
        }

    def num_parameters(self) -> int:
        """Numbers that receive gradient."""
        return sum(p.numel() for p in self.parameters())

    def num_experts(self) -> tuple[int, int]:
        """Frozen experts in use and candidates, over all blocks."""
        pairs = [(learner.num_frozen, learner.num_candidates) for _, learner in self.items()]
        return sum(f for f, _ in pairs), sum(c for _, c in pairs)

    def learned(self, pool: Pool, statistics: TaskStatistics) -> LearnedTask:
        """The task's numbers with pool ids: the candidates that are left become the next experts of their block."""
        experts, ids, weights, biases = {}, {}, {}, {}
        for site, learner in self.items():
            start = pool.size(site)
            experts[site] = (learner.down.detach().clone(), learner.up.detach().clone())
            ids[site] = [*learner.frozen_ids, *range(start, start + learner.num_candidates)]
            if learner.weight is not None:
                weights[site] = learner.weight.detach().clone()
            biases[site] = learner.bias.detach().clone()
        return LearnedTask(
            experts=experts, ids=ids, router_weights=weights, router_biases=biases, statistics=statistics
        )


def _key(site: Site) -> str:
    """A module's name must hold no dot."""
    return site_name(site).replace(".", "_")


def new_task_learner(
    folder: ModelFolder,
    num_candidates: int,
    seed: int,
    initial_candidate_mass: float = 0.5,
    reuse_ids: dict[Site, list[int]] | None = None,
) -> TaskLearner:
    """Basis pre-expansion: `num_candidates` fresh experts beside the frozen ones, in every adapted block.

    Args:
        folder: the model so far.
        num_candidates: fresh experts m a block.
        seed: of the fresh experts.
        initial_candidate_mass: share of the gates they hold at the start.
        reuse_ids: pool ids a block's router may use; all of them by default.
    """
    generator = torch.Generator().manual_seed(seed)
    sites = {}
    for site in folder.sites:
        width = folder.width(site)
        ids = list(range(folder.pool.size(site))) if reuse_ids is None else reuse_ids.get(site, [])
        sites[site] = SiteLearner(
            ids,
            folder.pool.gather(site, ids, width),
            new_experts(num_candidates, folder.config.rank, width, generator),
            router_input=folder.router_input(site),
            scale=folder.config.scale,
            initial_candidate_mass=initial_candidate_mass,
        )
    return TaskLearner(sites)


def rebuild_task_learner(folder: ModelFolder, layout: dict[str, dict[str, object]]) -> TaskLearner:
    """A learner of the given layout whose parameters are still to be loaded (resuming from a checkpoint)."""
    sites = {}
    for site in folder.sites:
        entry = layout[_key(site)]
        ids = [int(i) for i in entry["frozen"]]  # type: ignore[attr-defined]
        width = folder.width(site)
        count = int(entry["candidates"])  # type: ignore[call-overload]
        empty = (torch.zeros(count, folder.config.rank, width), torch.zeros(count, width, folder.config.rank))
        sites[site] = SiteLearner(
            ids,
            folder.pool.gather(site, ids, width),
            empty,
            router_input=folder.router_input(site),
            scale=folder.config.scale,
        )
    return TaskLearner(sites)
