"""Configuration text in, plain data out, and back: YAML, TOML and JSON with limits, positions and no surprises."""

from vedcore.config_files.reading import ConfigSource, apply_overrides, parse_json, read_config_text, read_json
from vedcore.config_files.writing import dump_config, write_config_text

__all__ = [
    "ConfigSource",
    "apply_overrides",
    "dump_config",
    "parse_json",
    "read_config_text",
    "read_json",
    "write_config_text",
]
