"""The names of the files in a model's folder, in one place."""

from __future__ import annotations

import re

__all__ = [
    "CARD",
    "CONFIG",
    "GENERATION_CONFIG",
    "MANIFEST",
    "MODEL_FILES",
    "PREPROCESSOR_CONFIG",
    "PROCESSOR_CONFIG",
    "SETTINGS_FILES",
    "SHARD_INDEX",
    "TOKENIZER",
    "WEIGHTS",
    "WEIGHT_LAYOUTS",
]

CONFIG = "config.json"
"""What a folder of any format has."""
GENERATION_CONFIG = "generation_config.json"
PREPROCESSOR_CONFIG = "preprocessor_config.json"
PROCESSOR_CONFIG = "processor_config.json"
"""Where transformers 5 keeps the settings of the image processor."""
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
WEIGHT_LAYOUTS = ((WEIGHTS, SHARD_INDEX), ("pytorch_model.bin", "pytorch_model.bin.index.json"))
"""Where weights may be, in the order in which they are looked for: one file, or an index of shards."""
MANIFEST = "manifest.json"
"""Sizes and sha256 of what a save wrote; written last."""
CARD = "README.md"
"""The one file of a save that people are meant to edit."""
SETTINGS_FILES = re.compile(
    r"(config|generation_config|preprocessor_config|processor_config|tokenizer|tokenizer_config|special_tokens_map"
    r"|added_tokens|vocab|manifest)\.json|(merges|vocab)\.txt|(sentencepiece\.bpe|spiece|tokenizer)\.model"
)
"""What a model needs beside its weights: settings, the tokenizer, the manifest."""
MODEL_FILES = re.compile(
    SETTINGS_FILES.pattern + r"|model\.safetensors\.index\.json|model(-\d{5}-of-\d{5})?\.safetensors"
)
"""What a folder of a model may hold: files of these names are read, so none of an earlier model may stay."""
