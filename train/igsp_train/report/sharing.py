"""Who uses whose experts, and what a task would cost by itself: read off the tasks' records."""

from dataclasses import dataclass

from igsp_deploy.config import ModelConfig
from igsp_deploy.model.record import TaskRecord

TOWERS = ("vision", "text")


@dataclass(frozen=True, kw_only=True)
class TowerSharing:
    """The experts of one tower.

    Attributes:
        tower: `vision` or `text`.
        blocks: indices of the adapted blocks.
        counts: experts that task t uses in block b and task o brought: `[T][len(blocks)][T]`.
    """

    tower: str
    blocks: list[int]
    counts: list[list[list[int]]]

    def totals(self) -> list[list[int]]:
        """Over all blocks: `[T][T]`, using task first."""
        return [[sum(column) for column in zip(*task, strict=True)] if task else [] for task in self.counts]


def ids_of(record: TaskRecord, tower: str) -> dict[int, list[int]]:
    """Block -> pool ids of the experts a task uses in one tower."""
    return {site[1]: ids for site, ids in record.ids.items() if site[0] == tower}


def share_of_experts(records: list[TaskRecord]) -> list[TowerSharing]:
    """Whose experts each task uses, for each tower that has any. An expert belongs to the first task that uses it."""
    result = []
    for tower in TOWERS:
        blocks = sorted({block for record in records for block in ids_of(record, tower)})
        if not blocks:
            continue
        owner: dict[tuple[int, int], int] = {}
        counts = []
        for record in records:
            table = [[0] * len(records) for _ in blocks]
            for row, block in enumerate(blocks):
                for expert in ids_of(record, tower).get(block, []):
                    table[row][owner.setdefault((block, expert), record.index)] += 1
            counts.append(table)
        result.append(TowerSharing(tower=tower, blocks=blocks, counts=counts))
    return result


def isolated_parameters(records: list[TaskRecord], model: ModelConfig, widths: dict[str, int]) -> list[int] | None:
    """What each task would hold by itself: all its candidates, and routers over them alone.

    A block of width d with m candidates of rank r has `2 m r d` numbers in its experts and `m d + m` in its router, `m`
    where the router is static.

    Args:
        records: the tasks, in order.
        model: settings of the model.
        widths: width d of each tower.

    Returns:
        One number a task; None where the records do not say how many candidates there were.
    """
    known: dict[tuple[str, int], set[int]] = {}
    result = []
    for record in records:
        gates = record.metrics.get("mean_gates")
        if gates is None:
            return None
        total = 0
        for site, values in gates.items():
            tower, _, block = site.partition(".")
            pool = known.setdefault((tower, int(block)), set())
            candidates, width = len(values) - len(pool), widths[tower]
            routed = tower == "vision" and model.router_input != "static"
            total += candidates * (2 * model.rank * width + (width + 1 if routed else 1))
            pool.update(ids_of(record, tower).get(int(block), []))
        result.append(total)
    return result
