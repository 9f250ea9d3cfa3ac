"""The output of a processor and a tokenizer: a dictionary whose values are attributes too."""

from __future__ import annotations

from typing import Any, Self

import torch

from vedcore.errors import UsageError

__all__ = ["Batch", "check_return_tensors"]


class Batch(dict[str, Any]):
    """Tensors by the names of the model's arguments: ``model(**batch)``, ``batch["labels"]``, ``batch.labels``."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"no {name!r} in this batch, but {', '.join(self) or 'nothing'}")

    def to(self, device: str | torch.device | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move every tensor to ``device``, and change the type of floating-point ones to ``dtype``.

        Returns:
            The batch itself, as in transformers.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        for name, value in self.items():
            if isinstance(value, torch.Tensor):
                self[name] = value.to(device, dtype if value.is_floating_point() else value.dtype)
        return self


def check_return_tensors(value: object) -> None:
    """Refuse tensors of other frameworks than torch.

    Raises:
        UsageError: neither ``"pt"`` nor None.
    """
    if value not in ("pt", None):
        raise UsageError(
            f"{value!r} tensors cannot be made, only torch's", field="return_tensors", hint="give 'pt', or leave it out"
        )
