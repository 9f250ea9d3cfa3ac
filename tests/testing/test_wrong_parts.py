"""Each wrong part fails the check that is its own, and beside it only checks of what follows from the same fault."""

from __future__ import annotations

from typing import Any

import pytest

from tests.testing.wrong_parts import WRONG
from vedcore.testing import Case, run_checks

STEPS = {
    "steps_of_one_token_are_as_one_call",
    "steps_of_several_tokens_are_as_one_call",
    "steps_with_padding_are_as_one_call",
    "rows_of_an_image_share_its_states",
    "reordered_rows_continue_as_others",
    "selected_rows_go_on_alone",
    "cropped_cache_goes_on_from_there",
    "cache_is_given_when_asked_for",
}
FOLLOWS: dict[str, set[str]] = {
    "image_changes_every_token": {*STEPS, "gradients_reach_the_input"},
    "later_tokens_change_nothing_before": {
        *STEPS,
        "left_padding_is_masked",
        "right_padding_is_masked",
    },
    "steps_of_one_token_are_as_one_call": STEPS,
    "steps_of_several_tokens_are_as_one_call": STEPS,
    "reordered_rows_continue_as_others": {"selected_rows_go_on_alone"},
    "selected_rows_go_on_alone": {"image_changes_every_token"},
    "left_padding_is_masked": {"steps_with_padding_are_as_one_call"},
    "rows_of_an_image_share_its_states": {"reordered_rows_continue_as_others", "selected_rows_go_on_alone"},
    "vocabulary_is_published": {"resizing_keeps_the_scores"},
    "gradients_reach_every_parameter": {"key_map_is_total_both_ways"},
    "each_row_has_its_own_output": {"gradients_reach_every_parameter"},
    "number_of_tokens_is_published": {"alone_is_as_in_a_batch"},
    "tensors_are_registered": {"saved_and_loaded_is_the_same"},
    "unstored_buffers_are_rebuilt": {"saved_and_loaded_is_the_same"},
    "half_precision_is_near": {"types_go_there_and_back"},
    "eval_is_deterministic": {
        "saved_and_loaded_is_the_same",
        "eval_leaves_no_state",
        "half_precision_is_near",
        "types_go_there_and_back",
        "alone_is_as_in_a_batch",
        "image_padding_is_told",
        "records_are_given_when_asked_for",
    },
}
"""Checks to those that the same fault fails too; transformers computes the same as none of the wrong."""


def _name(value: Any) -> str:
    return value if isinstance(value, str) else type(Case.of(value).build()).__name__


@pytest.mark.parametrize(("part", "own"), WRONG, ids=_name)
def test_a_wrong_part_fails_its_own_check(part: Any, own: str) -> None:
    failed = {result.check: result.message for result in run_checks(part) if result.outcome == "failed"}
    assert own in failed
    assert failed.keys() - {own} <= {*FOLLOWS.get(own, ()), "transformers_computes_the_same"}
    assert all(message and "\n" not in message for message in failed.values())
