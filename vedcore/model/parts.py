"""The parts of a composed model, and the settings that hold for all of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from vedcore.components import Projector, VisionEncoder, parameters_of
from vedcore.config import ComponentConfig, ModelConfig, TokenIds
from vedcore.errors import UsageError
from vedcore.generation.options.config import GenerationConfig
from vedcore.hf.generation import is_generation_config, read_generation_config
from vedcore.layers.linear import use_seam
from vedcore.layers.norm_statistics import keep_statistics
from vedcore.layers.sharing import SharedModule, alone
from vedcore.model.origins import OriginRecord
from vedcore.notebook import part_diagram
from vedcore.processing.processor import Processor
from vedcore.text_decoder import TextDecoder
from vedcore.transformers_names import MODEL, missing_attribute
from vedcore.weights.origins import Provenance

if TYPE_CHECKING:
    from vedcore.model.wiring import WiringReport
    from vedcore.weights.loading import LoadReport

__all__ = ["ComposedParts", "PartName"]

PartName = Literal["encoder", "projector", "decoder"]


class ComposedParts(SharedModule):
    """An encoder, a projector and a decoder with what they share: processor, token ids, generation options.

    Args:
        config: the complete settings of the parts.
        encoder: images to encoder states.
        projector: encoder states to the width of the decoder's cross-attention.
        decoder: projected states and text to logits.
        processor: images to pixels, text to ids and back.
        token_ids: for training, generation and saving.
        generation_config: defaults of `generate`.
    """

    _processor: Processor

    def __init__(
        self,
        config: ModelConfig,
        encoder: VisionEncoder,
        projector: Projector,
        decoder: TextDecoder,
        *,
        processor: Processor,
        token_ids: TokenIds,
        generation_config: GenerationConfig | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.decoder = decoder
        processor.token_ids = token_ids
        self.processor = processor
        self.token_ids = token_ids
        self.generation_config = generation_config or GenerationConfig()
        self.load_reports: Mapping[str, LoadReport] = {}
        """For each part that came from a checkpoint: the tensors that were loaded, are fresh, or were left out."""
        self.wiring: WiringReport | None = None
        """The last result of `vedcore.check_wiring`, or that of the folder; saved with the same structure."""
        self.origin_record = OriginRecord()
        self._config = config
        use_seam(self)
        keep_statistics(self)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                raise missing_attribute("a model", name, MODEL) or sys.exception() from None

    @property
    def config(self) -> ModelConfig:
        """The settings from which `vedcore.compose` makes this model.

        Token ids, vocabulary, preprocessing and type of the parameters are as they are now.
        """
        changes = {
            "decoder": ComponentConfig(name=self._config.decoder.name, **self.decoder.config.model_dump()),
            "token_ids": self.token_ids,
            "preprocessing": self.processor.preprocessing,
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        return self._config.model_copy(update=changes)

    @property
    def provenance(self) -> Provenance:
        """Where each tensor came from, by name: a file and its hash, random numbers, another tensor; and its changes.

        Files of a folder that has no hashes are read once, for their sha256.
        """
        return self.origin_record.provenance(self)

    @property
    def processor(self) -> Processor:
        """Images to pixels, text to ids and back; another one takes over the model's token ids."""
        return self._processor

    @processor.setter
    @alone
    def processor(self, processor: Processor) -> None:
        if hasattr(self, "_processor"):
            processor.token_ids = self._processor.token_ids
        processor.model_max_length = self.decoder.max_positions
        self._processor = processor

    @property
    def token_ids(self) -> TokenIds:
        """The ids that training, generation and saving read; set it to change them.

        They are those of the processor and its tokenizer, whose ``pad_token`` and ``eos_token`` can be set too.

        Raises:
            ConfigSchemaError: an id that the vocabulary does not have.
        """
        ids = self.processor.token_ids
        ids.check(self.decoder.vocab_size, built=True)
        return ids

    @token_ids.setter
    @alone
    def token_ids(self, ids: TokenIds) -> None:
        if not isinstance(ids, TokenIds):
            raise UsageError(
                f"TokenIds expected, got {type(ids).__name__}",
                field="token_ids",
                hint="model.token_ids.changed(eos=(1,)) gives such",
            )
        ids.check(self.decoder.vocab_size, built=True)
        self.processor.token_ids = ids

    @property
    def generation_config(self) -> GenerationConfig:
        """Defaults of `generate`; set it to change them, to transformers' object too. What is read is a copy.

        Raises:
            UsageError: on setting something else.
        """
        return self._generation_config.model_copy()  # Seq2SeqTrainer fills in lengths

    @generation_config.setter
    @alone
    def generation_config(self, config: object) -> None:
        self._generation_config = self.as_generation_config(config, GenerationConfig())

    def as_generation_config(self, given: object, base: GenerationConfig | None = None) -> GenerationConfig:
        """The options that a `GenerationConfig` of ours or of transformers means.

        Args:
            given: ours is returned as it is; transformers' is read like its JSON.
            base: the options of what is not set in transformers'; the model's own by default.

        Raises:
            UsageError: something else.
        """
        if isinstance(given, GenerationConfig):
            return given
        if not is_generation_config(given):
            raise UsageError(
                f"a GenerationConfig expected, got {type(given).__name__}",
                field="generation_config",
                hint="give vedcore.GenerationConfig(num_beams=4), or to a call its fields as keywords",
            )
        return read_generation_config(given, self.generation_config if base is None else base)

    def _repr_html_(self) -> str:
        height, width = self.processor.preprocessing.image_size
        tokenizer = self.processor.tokenizer
        parts: dict[str, dict[str, object]] = {
            name: {
                "": getattr(self._config, name).name,
                "class": type(getattr(self, name)).__name__,
                "parameters": f"{_count(getattr(self, name)):,}",
            }
            for name in ("encoder", "projector", "decoder")
        }
        parts["encoder"] |= {"images": f"{height} x {width}", "width": self.encoder.hidden_size}
        parts["decoder"] |= {"vocabulary": f"{self.decoder.vocab_size:,}", "width": self.decoder.hidden_size}
        notes = {
            "parameters": f"{self.num_parameters():,} of {self.dtype} on {self.device}".replace("torch.", ""),
            "tokenizer": "none" if tokenizer is None else f"{len(tokenizer):,} tokens",
        }
        return part_diagram(parts, notes)

    @property
    def takes_task_prompts(self) -> bool:
        """Whether prompts name a task in place of the start id, as Donut's do, so that it is not put before them."""
        return bool(getattr(self.encoder, "takes_task_prompts", False))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(parameters_of(self)).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        return next(parameters_of(self)).dtype

    @property
    def num_channels(self) -> int:
        """C, the channels of an image: 3 for RGB, 1 for grey."""
        channels: int = getattr(self.encoder, "num_channels", 3)
        return channels

    def get_encoder(self) -> VisionEncoder:
        """The encoder, by transformers' name."""
        return self.encoder

    def get_decoder(self) -> TextDecoder:
        """The decoder, by transformers' name."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """The decoder's embedding of tokens."""
        return self.decoder.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder's last layer."""
        return self.decoder.get_output_embeddings()

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of parameters; shared ones count once.

        Args:
            only_trainable: count those that are trained.
            exclude_embeddings: leave out the weights of embeddings.
        """
        tables = {id(m.weight) for m in self.modules() if exclude_embeddings and isinstance(m, nn.Embedding)}
        counted = (p for p in self.parameters() if p.requires_grad or not only_trainable)
        return sum(p.numel() for p in counted if id(p) not in tables)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the parameters; shared ones count once.

        Args:
            return_buffers: count buffers too.
        """
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(each.nbytes for each in tensors)


def _count(module: nn.Module) -> int:
    """Parameters of a module; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())
