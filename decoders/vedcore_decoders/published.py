"""What the built-in decoders share: where their embeddings stand, and how they take published weights.

Shape letters: B rows of text, T tokens, D width, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vedcore.components import TextDecoder
from vedcore.errors import CheckpointCorruptError, CheckpointMismatchError, HubError, UsageError, printable
from vedcore.weights.keymap import Row, to_ours

__all__ = ["PublishedDecoder"]

WEIGHTS = "model.safetensors"


class PublishedDecoder(TextDecoder):
    """A decoder whose variants have weights on the hub, in the layout of a transformers class."""

    key_map: ClassVar[tuple[Row, ...]]
    """The names that transformers' class of this family has, and ours."""
    hub_repos: ClassVar[Mapping[str, str]]
    """Variants to the repositories of their published weights."""
    hub_prefix: ClassVar[str] = ""
    """What the decoder's names begin with in those repositories, where they hold an encoder too."""

    embedding: nn.Embedding
    """Tokens, (V, D)."""
    output: nn.Linear
    """D to V, the whole of the head unless a family says otherwise."""

    def get_input_embeddings(self) -> nn.Embedding:
        """(V, D)."""
        return self.embedding

    def get_output_embeddings(self) -> nn.Linear:
        """D to V."""
        return self.output

    def head(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) to (B, T, V)."""
        out: Tensor = self.output(hidden_states)
        return out

    def load_pretrained(self, variant: str | None) -> None:
        """Take the published weights of ``variant``; cross-attention, where they have none, stays fresh.

        Raises:
            UsageError: no such weights.
            HubError: the hub does not give them.
            CheckpointMismatchError: settings that are not those of the published weights.
        """
        repository = self.hub_repos.get(variant or "")
        if repository is None:
            raise UsageError(
                f"{type(self).__name__} has no published weights for {variant!r}", field="pretrained",
                hint=f"choose one of {', '.join(self.hub_repos)}",
            )  # fmt: skip
        try:
            path = hf_hub_download(repository, WEIGHTS)
        except Exception as error:
            reason = printable(str(error).splitlines()[0] if str(error) else type(error).__name__)
            raise HubError(f"{repository}: {reason}", field=WEIGHTS, hint="check the network and HF_TOKEN") from None
        try:
            stored = load_file(path)
        except SafetensorError as error:
            raise CheckpointCorruptError(printable(error), path=path, hint="delete the file and try again") from None
        theirs = {k.removeprefix(self.hub_prefix): t for k, t in stored.items() if k.startswith(self.hub_prefix)}
        self._take(to_ours(theirs, self.key_map, path=path), repository)

    def _take(self, tensors: Mapping[str, Tensor], repository: str) -> None:
        state, fresh = self.state_dict(keep_vars=True), self.fresh_parameters()
        filled = {id(state[name]) for name in tensors if name in state}  # a tied head is filled with its embedding
        missing = [n for n, t in state.items() if n not in tensors and n not in fresh and id(t) not in filled]
        wrong = [
            f"{n} is {tuple(t.shape)} there and {tuple(state[n].shape)} here"
            for n, t in tensors.items() if n in state and t.shape != state[n].shape
        ]  # fmt: skip
        unexpected = [name for name in tensors if name not in state]
        problems = wrong + [f"{n} is missing" for n in missing] + [f"{n} is unexpected" for n in unexpected]
        if problems:
            raise CheckpointMismatchError(
                f"{problems[0]}, and {len(problems) - 1} more" if problems[1:] else problems[0], path=repository,
                hint="leave sizes, vocabulary and tokenizer as published, or pretrained out",
                details="\n".join(problems),
            )  # fmt: skip
        with torch.no_grad():
            for name, tensor in tensors.items():
                state[name].copy_(tensor)
