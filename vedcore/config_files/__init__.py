"""Configuration files to plain data: YAML, TOML and JSON, within limits, by one set of rules."""

from vedcore.config_files.documents import parse_json
from vedcore.config_files.overrides import apply_overrides
from vedcore.config_files.reading import ConfigSource, read_config_text

__all__ = ["ConfigSource", "apply_overrides", "parse_json", "read_config_text"]
