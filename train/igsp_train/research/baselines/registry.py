"""The methods of a comparison, by name: ours, and those that installed packages bring."""

from igsp_deploy.entry import described, load_installed
from igsp_deploy.errors import UserError
from igsp_train.research.baselines.fixed_pool import learn_fixed_pool
from igsp_train.research.baselines.igsp import learn_igsp
from igsp_train.research.baselines.isolated import learn_isolated
from igsp_train.research.baselines.random_reuse import learn_with_random_reuse
from igsp_train.research.baselines.ridge import learn_head_alone, learn_ridge
from igsp_train.research.baselines.sequential import learn_fully, learn_sequentially
from igsp_train.research.baselines.similarity import learn_by_similarity
from igsp_train.research.baselines.svd import learn_then_cut
from igsp_train.research.baselines.zero_shot import learn_zero_shot
from igsp_train.research.study.convergence import learn_watching_routers
from igsp_train.research.study.method import Method

METHODS: dict[str, Method] = {
    "zero-shot": Method(learn=learn_zero_shot, summary="plain CLIP", reads_order=False),
    "ridge": Method(learn=learn_ridge, summary="ridge classifier on frozen features, one a task", reads_order=False),
    "head-alone": Method(
        learn=learn_head_alone, summary="the closed-form head, without experts and words", reads_order=False
    ),
    "sequential": Method(learn=learn_sequentially, summary="one adapter trained on and on", changes_old=True),
    "full": Method(learn=learn_fully, summary="all weights above the trunk trained on and on", changes_old=True),
    "isolated": Method(learn=learn_isolated, summary="experts of its own for every task", reads_order=False),
    "svd": Method(learn=learn_then_cut, summary="isolated experts, cut by SVD to one a block", reads_order=False),
    "similarity": Method(learn=learn_by_similarity, summary="shares with the task that looks most alike"),
    "fixed-pool": Method(learn=learn_fixed_pool, summary="22 experts, top 2, as MoE-Adapters", changes_old=True),
    "igsp": Method(learn=learn_igsp, summary="this project", prunes=True),
    "random-reuse": Method(
        learn=learn_with_random_reuse, summary="igsp, with as many old experts drawn at random", prunes=True
    ),
    "convergence": Method(
        learn=learn_watching_routers, summary="igsp, with routers also trained to the end", prunes=True
    ),
}

GROUP = "igsp.methods"
"""Entry points of packages that bring methods: a name, and a `Method`."""


def add_installed() -> None:
    """Add the methods of installed packages to `METHODS`.

    Raises:
        UserError: one cannot be loaded, is no `Method`, or has the name of another; says which package.
    """
    for name, method in load_installed(GROUP, "method").items():
        where = described(GROUP, name, "method")
        if not isinstance(method, Method):
            raise UserError(f"{where} is a {type(method).__name__}, not an {Method.__module__}.Method.")
        if METHODS.setdefault(name, method) is not method:
            raise UserError(f"{where} has the name of another method. Choose another name.")


add_installed()
