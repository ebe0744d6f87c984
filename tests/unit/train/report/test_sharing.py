"""Who uses whose experts, and the price of isolated sets."""

import dataclasses

from igsp_deploy.config import ModelConfig
from igsp_train.report.sharing import isolated_parameters, share_of_experts
from tests.unit.train.report.made_up import make_records


def test_an_expert_belongs_to_the_task_that_brought_it() -> None:
    vision, text = share_of_experts(make_records(3))
    assert (vision.tower, vision.blocks) == ("vision", [0])
    assert vision.counts == [[[1, 0, 0]], [[1, 1, 0]], [[1, 1, 1]]]
    assert vision.totals() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert text.totals() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_a_tower_without_experts_is_left_out() -> None:
    records = [dataclasses.replace(record, ids={("vision", 0): record.ids["vision", 0]}) for record in make_records(2)]
    assert [tower.tower for tower in share_of_experts(records)] == ["vision"]


def test_an_isolated_task_has_its_candidates_and_a_router_over_them() -> None:
    records = make_records(2)
    # Three candidates each; the second task had one frozen vision expert and one frozen text expert beside them.
    records[0].metrics["mean_gates"] = {"vision.0": [0.3] * 3, "text.0": [0.3] * 3}
    records[1].metrics["mean_gates"] = {"vision.0": [0.25] * 4, "text.0": [0.25] * 4}
    vision, text = 3 * (2 * 4 * 8) + 3 * 8 + 3, 3 * (2 * 4 * 6) + 3
    model = ModelConfig(rank=4)
    assert isolated_parameters(records, model, {"vision": 8, "text": 6}) == [vision + text] * 2
    static = ModelConfig(rank=4, router_input="static")
    assert isolated_parameters(records, static, {"vision": 8, "text": 6}) == [vision - 24 + text] * 2


def test_without_a_record_of_the_candidates_there_is_no_number() -> None:
    assert isolated_parameters(make_records(2), ModelConfig(), {"vision": 8, "text": 6}) is None
