"""The names of the files in a model's folder."""

from __future__ import annotations

import re

__all__ = [
    "CARD",
    "CONFIG",
    "FLAX_INDEX",
    "FLAX_WEIGHTS",
    "GENERATION_CONFIG",
    "MANIFEST",
    "MODEL_FILES",
    "PREPROCESSOR_CONFIG",
    "PROCESSOR_CONFIG",
    "PROVENANCE",
    "SETTINGS_FILES",
    "SHARD_INDEX",
    "TOKENIZER",
    "WEIGHTS",
    "WEIGHT_LAYOUTS",
    "WIRING",
]

CONFIG = "config.json"
"""The settings, in a folder of any format."""
GENERATION_CONFIG = "generation_config.json"
PREPROCESSOR_CONFIG = "preprocessor_config.json"
PROCESSOR_CONFIG = "processor_config.json"
"""The settings of the image processor, as transformers 5 names the file."""
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
FLAX_WEIGHTS = "flax_model.msgpack"
FLAX_INDEX = "flax_model.msgpack.index.json"
WEIGHT_LAYOUTS = (
    (WEIGHTS, SHARD_INDEX),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    (FLAX_WEIGHTS, FLAX_INDEX),
    ("tf_model.h5", "tf_model.h5.index.json"),
)
"""Pairs of a single file of weights and an index of shards, in order of precedence."""
MANIFEST = "manifest.json"
"""Sizes and sha256 of the files that a save wrote; written last."""
WIRING = "wiring.json"
"""The last result of `vedcore.check_wiring`, if there was one."""
PROVENANCE = "provenance.json"
"""The origin of each tensor, in a folder of vedcore."""
CARD = "README.md"
"""The model card: the one file of a save that users may edit."""
SETTINGS_FILES = re.compile(
    r"(config|generation_config|preprocessor_config|processor_config|tokenizer|tokenizer_config|special_tokens_map"
    r"|added_tokens|vocab|manifest|provenance|wiring)\.json|(merges|vocab)\.txt|(sentencepiece\.bpe|spiece|tokenizer)\.model"
)
"""Files that a model needs beside its weights: settings, tokenizer, manifest, origins."""
MODEL_FILES = re.compile(
    SETTINGS_FILES.pattern
    + r"|(model\.safetensors|flax_model\.msgpack)\.index\.json"
    + r"|(model(-\d{5}-of-\d{5})?\.safetensors|flax_model(-\d{5}-of-\d{5})?\.msgpack)"
)
"""All files that loading reads: a save removes those of an earlier model."""
