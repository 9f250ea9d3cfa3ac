"""Training of a composed model: frozen parts, checkpointed activations, weights that layers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vedcore.errors import UsageError
from vedcore.layers.checkpointing import Checkpointing
from vedcore.layers.norm_statistics import keep_statistics
from vedcore.layers.sharing import alone
from vedcore.loss import shift_tokens_right
from vedcore.model.parts import PartName
from vedcore.model.vocabulary import GrowingVocabulary
from vedcore.weights.checking import same_tensors

__all__ = ["TrainableModel"]


class TrainableModel(GrowingVocabulary):
    """Parts as trainers need them: those of transformers, accelerate, PEFT and Lightning too."""

    main_input_name = "pixel_values"
    """transformers' name of the argument that holds the images."""
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_save = None  # transformers' Trainer reads it where a checkpoint lacks a tensor

    _frozen: frozenset[PartName] = frozenset()
    _input_hooks: tuple[RemovableHandle, ...] = ()

    @alone
    def freeze(self, part: PartName) -> Self:
        """Train without ``"encoder"``, ``"projector"`` or ``"decoder"``: no gradients, no graph, eval mode for good.

        An encoder runs without a graph; a frozen decoder still passes gradients on to what stands before it.
        """
        self._part(part).requires_grad_(False).eval()
        self._frozen |= {part}
        return self

    @alone
    def unfreeze(self, part: PartName) -> Self:
        """Train a frozen part again."""
        self._part(part).requires_grad_(True).train(self.training)
        self._frozen -= {part}
        return self

    @property
    def frozen_parts(self) -> frozenset[PartName]:
        """The parts that `freeze` keeps out of training."""
        return self._frozen

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

    def activation_checkpointing_disable(self) -> None:
        """Keep activations for the backward pass, as by default."""
        if self.is_activation_checkpointing and getattr(self.decoder, "checkpointing", Checkpointing()).reentrant:
            self.disable_input_require_grads()
        for part in (self.encoder, self.decoder):
            part.gradient_checkpointing = False

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
        self._input_hooks = (
            self.encoder.register_forward_pre_hook(_require_grad_of_input),
            self.get_input_embeddings().register_forward_hook(_require_grad_of_output),
        )

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        for hook in self._input_hooks:
            hook.remove()
        self._input_hooks = ()

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

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As torch's, for a tensor that layers share under one of its names too."""
        for name, group in same_tensors(self).items():
            found = next((prefix + each for each in group if prefix + each in state_dict), None)
            if found is not None:
                state_dict.setdefault(prefix + name, state_dict[found])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _require_grad_of_input(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Pixels that require a gradient, in place of the given ones; a hook."""
    if not arguments or not torch.is_grad_enabled() or arguments[0].requires_grad:
        return None
    return (arguments[0].detach().requires_grad_(), *arguments[1:])


def _require_grad_of_output(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
    """Let embedded tokens require a gradient; a hook."""
    if torch.is_grad_enabled():
        output.requires_grad_()
