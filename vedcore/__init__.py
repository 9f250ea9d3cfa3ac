"""Compose any vision encoder with any text decoder into one image-to-text model.

    import vedcore
    model = vedcore.compose("swin", "gpt2")

Importing this package loads neither torch nor timm: each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vedcore.deprecated_names import getattr_for
from vedcore.errors import UsageError as UsageError
from vedcore.transformers_names import TOP

if TYPE_CHECKING:
    from vedcore import data as data
    from vedcore import evaluation as evaluation
    from vedcore import export as export
    from vedcore import fields as fields
    from vedcore import formats as formats
    from vedcore import nn as nn
    from vedcore import testing as testing
    from vedcore import transformers_checkpoints as transformers_checkpoints
    from vedcore.checkpoints import load as load
    from vedcore.components import Projector as Projector
    from vedcore.components import VisionEncoder as VisionEncoder
    from vedcore.composer.build import compose as compose
    from vedcore.composer.plan import Plan as Plan
    from vedcore.composer.plan import plan as plan
    from vedcore.config import DecoderConfig as DecoderConfig
    from vedcore.config import EncoderConfig as EncoderConfig
    from vedcore.config import ModelConfig as ModelConfig
    from vedcore.config import Preprocessing as Preprocessing
    from vedcore.config import ProjectorConfig as ProjectorConfig
    from vedcore.config import TokenIds as TokenIds
    from vedcore.errors import *  # noqa: F403
    from vedcore.explaining.explanation import Explanation as Explanation
    from vedcore.generation.options.config import GenerationConfig as GenerationConfig
    from vedcore.hookspecs import hookimpl as hookimpl
    from vedcore.layers.cache import DecoderCache as DecoderCache
    from vedcore.model import VisionEncoderDecoder as VisionEncoderDecoder
    from vedcore.model.wiring import WiringReport as WiringReport
    from vedcore.outputs import DecoderOutput as DecoderOutput
    from vedcore.outputs import EncoderOutput as EncoderOutput
    from vedcore.outputs import GenerateOutput as GenerateOutput
    from vedcore.outputs import TextResult as TextResult
    from vedcore.outputs import VisionEncoderDecoderOutput as VisionEncoderDecoderOutput
    from vedcore.plugins import list_decoders as list_decoders
    from vedcore.plugins import list_encoders as list_encoders
    from vedcore.plugins import list_models as list_models
    from vedcore.plugins import list_projectors as list_projectors
    from vedcore.processing.processor import Processor as Processor
    from vedcore.processing.tokenizers import make_tokenizer as make_tokenizer
    from vedcore.registry import Entry as Entry
    from vedcore.testing.wiring import check_wiring as check_wiring
    from vedcore.text_decoder import TextDecoder as TextDecoder
    from vedcore.token_grids import TokenGrid as TokenGrid
    from vedcore.weights.loading import LoadReport as LoadReport

__version__ = "0.1.0"

_EXPORTS = {
    "checkpoints": ["load"],
    "components": ["Projector", "VisionEncoder"],
    "composer.build": ["compose"],
    "composer.plan": ["Plan", "plan"],
    "config": ["DecoderConfig", "EncoderConfig", "ModelConfig", "Preprocessing", "ProjectorConfig", "TokenIds"],
    "errors": [
        "CheckError",
        "CheckpointCorruptError",
        "CheckpointError",
        "CheckpointLimitError",
        "CheckpointMismatchError",
        "CheckpointNotFoundError",
        "CheckpointUnsafeError",
        "CheckpointWriteError",
        "ConfigError",
        "ConfigLimitError",
        "ConfigParseError",
        "ConfigSchemaError",
        "DataError",
        "GenerationError",
        "HubError",
        "ImageDecodeError",
        "ImageError",
        "ImageFormatError",
        "ImageLimitError",
        "IncompatibleError",
        "MissingExtraError",
        "MissingNameError",
        "NonFiniteError",
        "PluginApiError",
        "PluginConflictError",
        "PluginContractError",
        "PluginError",
        "PluginLoadError",
        "PluginMissingError",
        "ResumeError",
        "TokenizerError",
        "UnknownComponentError",
        "UsageError",
        "VedcoreError",
    ],
    "explaining.explanation": ["Explanation"],
    "generation.options.config": ["GenerationConfig"],
    "hookspecs": ["hookimpl"],
    "layers.cache": ["DecoderCache"],
    "model": ["VisionEncoderDecoder"],
    "model.wiring": ["WiringReport"],
    "outputs": ["DecoderOutput", "EncoderOutput", "GenerateOutput", "TextResult", "VisionEncoderDecoderOutput"],
    "plugins": ["list_decoders", "list_encoders", "list_models", "list_projectors"],
    "processing.processor": ["Processor"],
    "processing.tokenizers": ["make_tokenizer"],
    "registry": ["Entry"],
    "testing.wiring": ["check_wiring"],
    "text_decoder": ["TextDecoder"],
    "token_grids": ["TokenGrid"],
    "weights.loading": ["LoadReport"],
}
"""Submodules to the names that are exported from them."""
_SUBMODULES = ["data", "evaluation", "export", "fields", "formats", "nn", "testing", "transformers_checkpoints"]
"""Submodules that are public themselves."""
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted([*_MODULE_OF, *_SUBMODULES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"vedcore.{name}")
    if name in TOP:
        raise UsageError("vedcore has no such name", field=name, hint=TOP[name])
    if name not in _MODULE_OF:
        return getattr_for(__name__)(name)
    value = getattr(importlib.import_module(f"vedcore.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
