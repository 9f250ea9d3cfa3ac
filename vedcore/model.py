"""The composed model: images in; logits and a loss out. How it writes text stands in `vedcore.generation`.

Shape letters: N images, B rows of text (N times the captions of an image), C channels, H x W pixels, S encoder tokens,
S' tokens after the projector, T text tokens, D width of the decoder, E that of its cross-attention, V vocabulary size.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vedcore.components import Projector, VisionEncoder, check_interpolation, parameters_of, torch_dtype
from vedcore.config import (
    MAX_VOCAB_SIZE,
    TOKEN_ID_FIELDS,
    ComponentConfig,
    ModelConfig,
    TokenIds,
    check_limit,
    token_id_tuple,
)
from vedcore.errors import IncompatibleError, TokenizerError, UsageError
from vedcore.generation.arguments import as_cache, as_encoder_output, check_pixels, check_tensors
from vedcore.generation.generate import generate, generate_text, stream
from vedcore.generation.options.config import GenerationConfig
from vedcore.generation.results import transition_scores
from vedcore.hf.generation import is_generation_config, read_generation_config
from vedcore.layers.cache import DecoderCache
from vedcore.layers.checkpointing import Checkpointing
from vedcore.layers.linear import pack, refresh, use_seam
from vedcore.layers.norm_statistics import keep_statistics
from vedcore.layers.sharing import Hold, SharedModule, alone, shares
from vedcore.layers.tracing import is_traced
from vedcore.loss import check_labels, cross_entropy, shift_tokens_right
from vedcore.outputs import EncoderOutput, VisionEncoderDecoderOutput
from vedcore.processing.processor import Processor, vocab_size_of
from vedcore.text_decoder import TextDecoder
from vedcore.transformers_names import SAVING
from vedcore.weights.checking import same_tensors

if TYPE_CHECKING:
    from vedcore.weights.loading import LoadReport

__all__ = ["VisionEncoderDecoder"]

PartName = Literal["encoder", "projector", "decoder"]
MAX_IMAGES_ENCODED = 8
"""Images that a CPU encodes at a time."""


def _joined(parts: Sequence[EncoderOutput]) -> EncoderOutput:
    """The outputs of several parts of a batch as one."""
    states, masks = [part.last_hidden_state for part in parts], [part.attention_mask for part in parts]
    if all(mask is None for mask in masks):
        return EncoderOutput(torch.cat(states))
    every = [s.new_ones(s.shape[:2], dtype=torch.bool) if m is None else m for s, m in zip(states, masks, strict=True)]
    return EncoderOutput(torch.cat(states), torch.cat(every))


def _name_shared_tensors(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put a tensor that layers share into a state under all of its names, where it has one; a hook."""
    for name, group in same_tensors(module).items():
        found = next((prefix + each for each in group if prefix + each in state), None)
        if found is not None:
            state.setdefault(prefix + name, state[found])


def _require_grad_of_input(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Pixels that require a gradient, in place of the given ones; a hook."""
    if not arguments or not torch.is_grad_enabled() or arguments[0].requires_grad:
        return None
    return (arguments[0].detach().requires_grad_(), *arguments[1:])


def _require_grad_of_output(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
    """Let embedded tokens require a gradient; a hook."""
    if torch.is_grad_enabled():
        output.requires_grad_()


class VisionEncoderDecoder(SharedModule):
    """A vision encoder, a projector and a text decoder in a row.

    `vedcore.compose` and `vedcore.load` build it. Threads may share it.

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
    main_input_name = "pixel_values"
    """transformers' name of the argument that holds the images."""
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_save = None  # transformers' Trainer reads it where a checkpoint lacks a tensor

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
        self._config = config
        self.register_load_state_dict_pre_hook(_name_shared_tensors)  # type: ignore[no-untyped-call]
        self._frozen: set[PartName] = set()
        self._input_hooks: list[RemovableHandle] = []
        use_seam(self)
        keep_statistics(self)

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
    def processor(self) -> Processor:
        """Images to pixels, text to ids and back; another one takes over the model's token ids."""
        return self._processor

    @processor.setter
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

    def tie_weights(self) -> None:
        """Nothing: layers that share weights share them always."""

    def resize_token_embeddings(self, *_: object, **__: object) -> NoReturn:
        """Not here: `resize_vocabulary` is the method.

        Raises:
            UsageError: always.
        """
        raise UsageError("no such method", field="resize_token_embeddings", hint="call model.resize_vocabulary(n)")

    # -- training -----------------------------------------------------------------------------------------------

    @shares
    def encode(
        self,
        pixel_values: Tensor,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> EncoderOutput:
        """Images (N, C, H, W) to encoder states (N, S, D_encoder), to be passed on as ``encoder_outputs``.

        A frozen encoder runs without a graph. With ``interpolate_pos_encoding`` images may have another size: the
        encoder resamples its positions for this call.
        """
        check_pixels(pixel_values, self.num_channels)
        check_tensors(encoder_attention_mask=encoder_attention_mask)
        return self.run_encoder(
            pixel_values, encoder_attention_mask, output_attentions, output_hidden_states, interpolate_pos_encoding
        )

    def run_encoder(
        self,
        pixel_values: Tensor,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> EncoderOutput:
        """`encode` for arguments that were checked."""
        options = {}  # an encoder of a third party may not know the argument
        if interpolate_pos_encoding:
            check_interpolation(self.encoder)
            options = {"interpolate_pos_encoding": True}
        no_graph = "encoder" in self._frozen and not any(p.requires_grad for p in parameters_of(self.encoder))
        with torch.no_grad() if no_graph else contextlib.nullcontext():
            pixel_values = pixel_values.to(self.dtype)
            more = encoder_attention_mask is not None or output_attentions or output_hidden_states
            if not more and self._pays_in_parts(pixel_values):
                parts = pixel_values.chunk(-(-pixel_values.shape[0] // MAX_IMAGES_ENCODED))
                return _joined([self.encoder(part, **options) for part in parts])
            out: EncoderOutput = self.encoder(
                pixel_values,
                attention_mask=encoder_attention_mask,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                **options,
            )
        return out

    def _pays_in_parts(self, pixel_values: Tensor) -> bool:
        """Whether to encode few images at a time: more would leave the CPU's cache. Dropout would draw differently."""
        whole = torch.is_grad_enabled() or self.encoder.training or is_traced()
        return not whole and pixel_values.shape[0] > MAX_IMAGES_ENCODED and pixel_values.is_cpu

    @shares
    def forward(
        self,
        pixel_values: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutput | Sequence[Any] | None = None,
        past_key_values: DecoderCache | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        encoder_attention_mask: Tensor | None = None,
        num_items_in_batch: int | Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **more: Any,
    ) -> VisionEncoderDecoderOutput | tuple[Any, ...]:
        """Logits for a text about each image, and the loss where ``labels`` are given.

        Args:
            pixel_values: (N, C, H, W), prepared as ``model.processor`` does.
            decoder_input_ids: (B, T); B may be a multiple of N: so many texts for each image, side by side.
            decoder_attention_mask: (B, T), or with a cache (B, T so far); 0 or False marks padding.
            encoder_outputs: what `encode` gave, in place of ``pixel_values``; a tuple counts by position.
            past_key_values: the cache of an earlier call; then only the new tokens are given.
            decoder_inputs_embeds: (B, T, D) in place of ``decoder_input_ids``.
            labels: (B, T) the target text, without the start id; -100 is ignored. The decoder's input is by default
                the labels shifted right behind the start id.
            use_cache: return a cache; by default in eval mode without labels.
            output_attentions: return all attention weights.
            output_hidden_states: return all states between layers.
            return_dict: False returns the set fields as a tuple.
            encoder_attention_mask: (N, S) 0 or False marks tokens that show only padding of the image.
            num_items_in_batch: divides the summed loss, in place of the number of labels that count; for gradient
                accumulation.
            interpolate_pos_encoding: take images of another size than the encoder's own; its positions are resampled
                for this call.
            more: ``label_smoothing``, the share of the target that the loss spreads over the vocabulary, 0 by default
                (it has no place in the signature, where Trainer would take it for labels); any other name with None,
                as PEFT gives ``input_ids=None``.

        Raises:
            UsageError: arguments that contradict each other or are missing.
            IncompatibleError: sizes that do not fit.
            TypeError: an argument that there is not.
        """
        label_smoothing = more.pop("label_smoothing", 0.0)
        for name, value in more.items():
            if value is not None:
                raise TypeError(f"VisionEncoderDecoder.forward() got an unexpected keyword argument {name!r}")
        check_tensors(
            pixel_values=pixel_values,
            decoder_input_ids=decoder_input_ids,
            labels=labels,
            decoder_attention_mask=decoder_attention_mask,
            decoder_inputs_embeds=decoder_inputs_embeds,
            encoder_attention_mask=encoder_attention_mask,
        )
        past_key_values = as_cache(past_key_values)
        shifts = labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None
        if labels is not None:
            start = self.token_ids.start if shifts else None
            check_labels(labels, self.decoder.vocab_size, start, self.processor.tokenizer)
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            refresh(self.decoder)
        if labels is not None and shifts:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if use_cache is None:
            use_cache = past_key_values is not None or (labels is None and not self.training)
        attentions, hidden = bool(output_attentions), bool(output_hidden_states)
        cached = past_key_values is not None and past_key_values.length > 0
        if encoder_outputs is None and pixel_values is not None:
            encoder_outputs = self.encode(
                pixel_values, encoder_attention_mask, attentions, hidden, interpolate_pos_encoding
            )
        elif encoder_outputs is not None and pixel_values is not None:
            raise UsageError("give pixel_values or encoder_outputs, not both")
        elif encoder_outputs is None and not cached:
            raise UsageError("give pixel_values, or encoder_outputs from model.encode", field="pixel_values")
        encoded = as_encoder_output(encoder_outputs)
        states, mask = self.project(encoded, encoder_attention_mask) if encoded is not None else (None, None)

        out = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=attentions,
            output_hidden_states=hidden,
        )
        result = VisionEncoderDecoderOutput(
            loss=None if labels is None else cross_entropy(out.logits, labels, label_smoothing, num_items_in_batch),
            logits=out.logits,
            past_key_values=out.past_key_values,
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state if encoded is not None else None,
            encoder_hidden_states=encoded.hidden_states if encoded is not None else None,
            encoder_attentions=encoded.attentions if encoded is not None else None,
        )
        return result.to_tuple() if return_dict is False else result

    def project(
        self, encoded: EncoderOutput, encoder_attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Encoder states as the decoder takes them, (N, S', E), and their mask (N, S') or None.

        Raises:
            UsageError: states that are not the encoder's, or a mask that does not fit them.
        """
        mask = encoded.attention_mask if encoder_attention_mask is None else encoder_attention_mask
        states = encoded.last_hidden_state
        if states.ndim != 3 or states.shape[-1] != self.encoder.hidden_size:
            raise UsageError(
                f"states of shape {tuple(states.shape)} from an encoder of width {self.encoder.hidden_size}",
                field="encoder_outputs",
                hint="give what model.encode gave",
            )
        if mask is not None and mask.shape != states.shape[:2]:
            raise UsageError(
                f"a mask of shape {tuple(mask.shape)} for {states.shape[0]} images of {states.shape[1]} tokens",
                field="encoder_attention_mask",
                hint=f"give {tuple(states.shape[:2])}",
            )
        return self.projector(states), None if mask is None else self.projector.project_mask(mask.bool())

    @alone
    def freeze(self, part: PartName) -> Self:
        """Train without ``"encoder"``, ``"projector"`` or ``"decoder"``: no gradients, no graph, eval mode for good.

        An encoder runs without a graph; a frozen decoder still passes gradients on to what stands before it.
        """
        self._part(part).requires_grad_(False).eval()
        self._frozen.add(part)
        return self

    @alone
    def unfreeze(self, part: PartName) -> Self:
        """Train a frozen part again."""
        self._part(part).requires_grad_(True).train(self.training)
        self._frozen.discard(part)
        return self

    def _part(self, part: str) -> nn.Module:
        if part not in ("encoder", "projector", "decoder"):
            raise UsageError(f"no part {part!r}", hint="name encoder, projector or decoder")
        module: nn.Module = getattr(self, part)
        return module

    def train(self, mode: bool = True) -> Self:
        """Training mode, in which frozen parts, and batch norms whose weight is frozen, stay in eval mode."""
        with self.lock.held(alone=lambda: mode or self._is_partly_training()):
            super().train(mode)
            keep_statistics(self)  # of modules that came in since, such as synchronised ones
            for part in self._frozen:
                self._part(part).eval()
        return self

    def _is_partly_training(self) -> bool:
        return any(module.training for module in self.modules())

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Compute activations again in the backward pass: less memory, about a third more time.

        Args:
            activation_checkpointing_kwargs: of ``torch.utils.checkpoint.checkpoint``; ``use_reentrant`` is False by
                default, and True calls `enable_input_require_grads` too, as it needs that.
            every_n_layers: 2 does so in every other layer of a part, and so on.
            offload: keep the inputs of these layers in the CPU's memory meanwhile.

        Raises:
            UsageError: an option that torch does not have, or that the encoder's code does not take.
        """
        given = {} if activation_checkpointing_kwargs is None else activation_checkpointing_kwargs
        how = Checkpointing(given, every_n_layers, offload)
        self.activation_checkpointing_disable()
        for part in (self.encoder, self.decoder):
            part.checkpointing = how
        for part in (self.encoder, self.decoder):
            part.gradient_checkpointing = True
        if how.reentrant:
            self.enable_input_require_grads()

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """`activation_checkpointing_enable` by its older name.

        Args:
            gradient_checkpointing_kwargs: its ``activation_checkpointing_kwargs``.
            every_n_layers: as there.
            offload: as there.

        Raises:
            UsageError: as there.
        """
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, every_n_layers, offload)

    def activation_checkpointing_disable(self) -> None:
        """Keep activations for the backward pass, as by default."""
        if self.is_activation_checkpointing and getattr(self.decoder, "checkpointing", Checkpointing()).reentrant:
            self.disable_input_require_grads()
        for part in (self.encoder, self.decoder):
            part.gradient_checkpointing = False

    def gradient_checkpointing_disable(self) -> None:
        """`activation_checkpointing_disable` by its older name."""
        self.activation_checkpointing_disable()

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether a part computes its activations again in the backward pass."""
        return any(getattr(part, "gradient_checkpointing", False) for part in (self.encoder, self.decoder))

    @property
    def is_gradient_checkpointing(self) -> bool:
        """`is_activation_checkpointing` by its older name."""
        return self.is_activation_checkpointing

    def enable_input_require_grads(self) -> None:
        """Let images and embedded tokens require gradients.

        So gradients reach what is trained behind frozen weights, under ``use_reentrant=True``.
        """
        self.disable_input_require_grads()
        self._input_hooks = [
            self.encoder.register_forward_pre_hook(_require_grad_of_input),
            self.get_input_embeddings().register_forward_hook(_require_grad_of_output),
        ]

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        for hook in self._input_hooks:
            hook.remove()
        self._input_hooks = []

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The decoder's input (B, T) for ``labels`` (B, T): shifted right behind the start id, -100 as the pad id.

        Raises:
            UsageError: the model has no start or pad id.
        """
        start, pad = self.token_ids.required("start"), self.token_ids.required("pad")
        return shift_tokens_right(labels, pad, start)

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """As torch's, but a tensor that layers share, as tied embeddings do, has one name, as safetensors wants it.

        `load_state_dict` takes it by any of its names. With ``keep_vars=True`` all names are there.
        """
        state: dict[str, Any] = super().state_dict(*args, **options)
        if not options.get("keep_vars"):
            for name, (first, *_) in same_tensors(self).items():
                if name != first:
                    state.pop(options.get("prefix", "") + name, None)
            self.processor.settings_of_model = self.config, self.generation_config
        return state

    @alone
    def resize_vocabulary(self, vocab_size: int) -> None:
        """Give the decoder ``vocab_size`` tokens; kept rows stay as they are, ties stay tied.

        Raises:
            ConfigSchemaError: a token id that would fall outside.
        """
        if not isinstance(vocab_size, int):
            raise UsageError(f"a whole number expected, got {type(vocab_size).__name__}", field="vocab_size")
        check_limit(vocab_size, MAX_VOCAB_SIZE, "vocab_size", "the vocabulary of")
        if vocab_size < 1:
            raise UsageError(f"a vocabulary of {vocab_size} tokens", field="vocab_size", hint="give 1 or more")
        self.processor.token_ids.check(vocab_size)
        tokenizer = self.processor.tokenizer
        if tokenizer is not None and vocab_size_of(tokenizer) > vocab_size:
            raise IncompatibleError(
                f"the tokenizer has {vocab_size_of(tokenizer)} tokens, more than {vocab_size}",
                field="vocab_size",
                hint="change model.processor.tokenizer first",
            )
        self.decoder.resize_token_embeddings(vocab_size)
        config = self.decoder.config
        outside = [f for f in TOKEN_ID_FIELDS if max(token_id_tuple(getattr(config, f)), default=0) >= vocab_size]
        self.decoder.config = config.changed(**dict.fromkeys(outside))  # the family's own ids, which token_ids replaced

    @alone
    def add_tokens(self, tokens: str | Sequence[str | AddedToken], special_tokens: bool = False) -> int:
        """Add tokens to the tokenizer, and rows for them to the decoder.

        Args:
            tokens: a text or several, such as `vedcore.fields.tokens` gives; those that were added before stay.
            special_tokens: decoding leaves them out by default.

        Returns:
            Number of tokens that are new.

        Raises:
            TokenizerError: the model has no tokenizer.
            ConfigLimitError: more tokens than a vocabulary may have.
        """
        tokenizer = self.processor.tokenizer
        if tokenizer is None:
            raise TokenizerError(
                "the model has no tokenizer to add them to",
                field="tokenizer",
                hint="give tokenizer=, such as a tokenizer.json, to vedcore.load or compose",
            )
        known = {} if special_tokens else tokenizer.get_added_vocab()  # a special token stays one
        given = [tokens] if isinstance(tokens, (str, AddedToken)) else list(tokens)
        new = [token for token in given if str(token) not in known]
        check_limit(vocab_size_of(tokenizer) + len(new), MAX_VOCAB_SIZE, "vocab_size", "the vocabulary of")
        before = len(tokenizer)
        tokenizer.add_tokens(new, special_tokens=special_tokens)
        if (size := vocab_size_of(tokenizer)) > self.decoder.vocab_size:
            self.resize_vocabulary(size)
        return len(tokenizer) - before

    # -- inference ----------------------------------------------------------------------------------------------

    def prepare_inputs_for_generation(self, input_ids: Tensor, **inputs: Any) -> dict[str, Any]:
        """The arguments of `forward` for a step, as transformers' ``generate`` asks for them; PEFT wraps it.

        `generate` does not call it.

        Args:
            input_ids: (B, L) the texts so far.
            inputs: ``encoder_outputs``, ``past_key_values``, ``use_cache`` and ``decoder_attention_mask``.
        """
        past = inputs.get("past_key_values")
        names = ("encoder_outputs", "past_key_values", "use_cache", "decoder_attention_mask")
        return {"decoder_input_ids": input_ids[:, past.length if past else 0 :], **{n: inputs.get(n) for n in names}}

    generate = shares(generate)
    generate_text = shares(generate_text)
    stream = shares(stream)

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: Sequence[Tensor],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """The score by which each new token of `generate` was chosen, as transformers computes it.

        Args:
            sequences: (B, T) of `GenerateOutput`.
            scores: for each step (rows, V), with ``output_scores=True``.
            beam_indices: (B, L) of the same output, with beams.
            normalize_logits: make log-probabilities of the scores first; those of beams are such already.

        Returns:
            (B, L), 0 where a beam's text has ended.

        Raises:
            UsageError: arguments that are not of one output.
        """
        return transition_scores(sequences, scores, beam_indices, normalize_logits)

    @shares
    def optimize_for_inference(self, dtype: str | torch.dtype | None = None) -> Self:
        """Put the model into eval mode and lay its weights out for speed, as the first `generate` does by itself.

        On CPUs where it makes them faster, the decoder's linear layers then have a second copy of their weights, in
        blocks. It follows every change of the weights; `train` drops it.

        Args:
            dtype: the type to change the parameters to, such as ``"bfloat16"``; None leaves it.

        Raises:
            UsageError: not a type of weights.
        """
        if (type_ := torch_dtype(dtype)) not in (None, self.dtype):
            self.to(type_)
        self.eval()
        pack(self.decoder)
        return self

    @contextlib.contextmanager
    def ready_for_inference(self, compiled: bool = False) -> Iterator[Hold]:
        """Eval mode for a while, in which nobody changes the model; packed where it is in that mode already."""
        with self.lock.held(alone=self._is_partly_training) as hold:
            training = [module for module in self.modules() if module.training]
            if not compiled and not self.training:
                pack(self.decoder)
            for module in training:
                module.training = False
            try:
                yield hold
            finally:
                for module in training:
                    module.training = True

    # -- folders ------------------------------------------------------------------------------------------------

    @classmethod
    def from_encoder_decoder_pretrained(
        cls, encoder_pretrained_model_name_or_path: str, decoder_pretrained_model_name_or_path: str, **_: object
    ) -> NoReturn:
        """Not here: `vedcore.compose` is the function.

        Raises:
            UsageError: always.
        """
        encoder, decoder = (
            name if "/" not in name or os.path.isdir(name) else f"hub:{name}"
            for name in (encoder_pretrained_model_name_or_path, decoder_pretrained_model_name_or_path)
        )
        raise UsageError(
            "no such method",
            field="from_encoder_decoder_pretrained",
            hint=f"call vedcore.compose({encoder!r}, {decoder!r}, pretrained=True)",
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
    ) -> VisionEncoderDecoder:
        """`vedcore.load` by transformers' name.

        Args:
            pretrained_model_name_or_path: ``folder_or_name`` of `vedcore.load`.
            options: its keyword arguments.

        Raises:
            UsageError: an argument that `vedcore.load` does not have.
            VedcoreError: as `vedcore.load`.
        """
        load = importlib.import_module("vedcore.checkpoints").load  # it stands above this module
        model: VisionEncoderDecoder = load(pretrained_model_name_or_path, **options)
        return model

    @shares
    def save_pretrained(self, folder: str | os.PathLike[str], *, format: str = "native", **options: Any) -> None:
        """Write the model as a folder; `vedcore.load` reads it back bit for bit.

        Args:
            folder: created, or swapped as a whole for the new one; other files in it stay.
            format: a registered checkpoint format; ``"native"`` is vedcore's own, ``"transformers"`` that of its
                VisionEncoderDecoderModel.
            options: of the format, such as ``max_shard_size="5GB"``, or ``part="decoder"`` of transformers'.

        Raises:
            CheckpointWriteError: the folder cannot be written, or could not be loaded: it would hold adapters that were
                not merged, or layers that the config does not build. Nothing was changed.
        """
        from vedcore.plugins import load_component

        for name in options.keys() & SAVING.keys():
            raise UsageError("unknown argument", field=name, hint=SAVING[name])
        load_component("format", format)[0]().save(self, folder, **options)

    def load_adapter(
        self,
        folder_or_name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Merge adapters of LoRA that PEFT trained into the weights: W + scale * B A, computed in float32.

        Their names are those of a model of vedcore or of transformers' VisionEncoderDecoderModel, or of one part of it.
        Modules that PEFT stored whole (``modules_to_save``, biases) are replaced. An output layer that shares its
        weight with the embedding gets its own where the two are adapted differently. Nothing is changed on an error.
        To train adapters further, or to take them out again, open the folder with ``peft.PeftModel.from_pretrained``.

        Args:
            folder_or_name: a folder with ``adapter_config.json``, or a repository on the hub, as in `vedcore.load`.
            revision: branch, tag or commit of the repository.
            subfolder: the folder within the folder or repository.
            token: of the hub; by default that of ``HF_TOKEN`` or of the login.
            cache_dir: of the hub's files.
            local_files_only: use cached files only.

        Raises:
            IncompatibleError: adapters of another kind than plain LoRA; a model with adapters that were not merged.
            CheckpointError: files that are missing or damaged; tensors that are not those of the model's modules.
            ConfigSchemaError: a bad value in ``adapter_config.json``.
            NonFiniteError: NaN or Inf in them, or in a weight once merged.
            HubError: the repository cannot be fetched.
        """
        merge = importlib.import_module("vedcore.adapters").merge_adapter  # it stands above this module
        hub = {"subfolder": subfolder, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        merge(self, folder_or_name, revision, **hub)
        return self

    def push_to_hub(
        self,
        repo: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        commit_message: str = "Upload model",
        create_pr: bool = False,
        token: str | None = None,
        **options: Any,
    ) -> str:
        """Write the model to a repository of the hub, in one commit; a missing repository is created.

        Args:
            repo: ``org/name``.
            revision: the branch; main by default.
            private: whether a created repository is private.
            commit_message: of the commit.
            create_pr: open a pull request instead.
            token: of the hub; by default the one that ``hf auth login`` or ``HF_TOKEN`` set.
            options: as `save_pretrained` takes them, ``format`` too.

        Returns:
            The address of the commit.

        Raises:
            HubError: the hub refuses it.
        """
        from vedcore.hub import push_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(os.path.join(folder, "model"), **options)
            return push_folder(
                os.path.join(folder, "model"),
                repo,
                revision=revision,
                private=private,
                commit_message=commit_message,
                create_pr=create_pr,
                token=token,
            )
