"""Where each row of the battery is tested: sections A (text of configurations) and H (plugins)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CONFIG_TEXT = [1, 3, 4, 5, 7, 9, 10, 12, 13, 14, 15, 16, 17, 19, 20, 22, 23, 24, 26, 27, 28, 29]
PLUGINS = [117, 119, 120, 121, 123, 125, 126, 127, 128, 129, 130, 131, 132, 134, 148, 149]

BAD_TEXT = "config_files/test_bad_text.py::test_bad_text"
SETTING = "battery/test_config_text.py::test_a_setting_in_a_file"
FOREIGN = "composer/test_foreign_parts.py::test_bad_parts_of_others_are_refused_by_name"
ROWS: dict[int, list[str]] = {
    1: [BAD_TEXT, "checkpoints/test_native.py::test_settings_that_are_missing_or_not_json"],
    3: [BAD_TEXT],
    4: [BAD_TEXT],
    5: [BAD_TEXT, "config_files/test_reading.py::test_parse_json"],
    7: [BAD_TEXT, "config_files/test_bad_text.py::test_depth_limit_is_64_exactly"],
    9: [BAD_TEXT, "config_files/test_reading.py::test_tags_run_nothing"],
    10: [BAD_TEXT],
    12: [BAD_TEXT, "checkpoints/test_native.py::test_a_config_of_50_megabytes"],
    13: [BAD_TEXT],
    14: [SETTING],
    15: [SETTING, "decoders/test_configs.py::test_bad_settings"],
    16: [SETTING, "hf/test_image_processors.py::test_unknown_keys_are_one_warning"],
    17: [SETTING, "composer/test_refusals.py::test_absurd_sizes_are_refused_before_anything_is_built"],
    19: [SETTING, "battery/test_config_text.py::test_a_product_of_sizes"],
    20: [SETTING, "battery/test_config_text.py::test_row_20_a_type_in_their_config"],
    22: [
        "checkpoints/test_native.py::test_settings_that_are_wrong",
        "composer/test_refusals.py::test_refused_with_a_reason",
    ],
    23: [SETTING, "cli/test_checkpoints.py::test_a_model_type_that_nothing_opens"],
    24: ["checkpoints/test_native.py::test_settings_that_are_missing_or_not_json"],
    26: [SETTING, BAD_TEXT, "config_files/test_bad_text.py::test_hostile_path_is_escaped"],
    27: [
        "config_files/test_reading.py::test_extends_cycle_and_chain",
        "config_files/test_reading.py::test_extends_stays_in_its_folder",
    ],
    28: ["config_files/test_overrides.py::test_bad_overrides", "cli/test_cli.py::test_errors_are_one_line_on_stderr"],
    29: [
        "hf/test_generation.py::test_bad_values",
        "generation/options/test_config.py::test_limits_refused",
        "hf/test_image_processors.py::test_bad_settings_are_named",
    ],
    117: ["plugins/test_plugins.py::test_a_broken_plugin_stops_nobody_else"],
    119: ["plugins/test_plugins.py::test_a_plugin_that_does_not_import_is_named_with_version_and_entry_point"],
    120: ["plugins/test_plugins.py::test_a_name_of_two_plugins_is_ambiguous"],
    121: ["plugins/test_plugins.py::test_names_of_built_ins_are_reserved"],
    123: ["plugins/test_plugins.py::test_a_plugin_that_breaks_the_contract_registers_nothing"],
    125: [FOREIGN],
    126: ["plugins/test_plugins.py::test_the_version_of_the_hooks"],
    127: [
        "plugins/test_plugins.py::test_help_imports_no_plugin",
        "plugins/test_plugins.py::test_a_slow_plugin_is_named_and_help_does_not_wait_for_it",
    ],
    128: [
        "plugins/test_plugins.py::test_a_plugin_leaves_the_process_as_it_was",
        "plugins/test_plugins.py::test_what_a_plugin_changes_at_import_is_put_back",
        "plugins/test_plugins.py::test_the_command_line_of_a_plugin_and_clean_stdout",
    ],
    129: [
        "plugins/test_plugins.py::test_a_saved_part_whose_plugin_is_gone_other_or_broken",
        "cli/test_checkpoints.py::test_a_model_whose_plugins_are_gone",
    ],
    130: [
        "plugins/test_plugins.py::test_a_saved_part_whose_plugin_is_gone_other_or_broken",
        "plugins/test_plugins.py::test_the_version_of_the_hooks",
    ],
    131: ["plugins/test_plugins.py::test_a_name_imports_nothing"],
    132: ["plugins/test_plugins.py::test_which_plugins_are_loaded"],
    134: ["plugins/test_plugins.py::test_a_thousand_distributions"],
    148: [
        "encoders/test_errors.py::test_names_that_timm_does_not_have",
        "encoders/test_errors.py::test_bad_settings",
    ],
    149: [
        "composer/test_refusals.py::test_refused_with_a_reason",
        FOREIGN,
        "encoders/test_families.py::test_images_of_another_size_are_refused",
    ],
}
"""Numbers of rows to the tests that hold them; a row's cases are parameters there."""


@pytest.mark.parametrize("row", [*CONFIG_TEXT, *PLUGINS])
def test_a_row_has_its_tests(row: int) -> None:
    for test in ROWS[row]:
        path, name = test.split("::")
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
