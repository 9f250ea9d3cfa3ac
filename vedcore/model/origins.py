"""What a model knows of the origins of its tensors, and how it tells that one was trained.

Nothing is told when an optimizer steps. So each tensor gets a mark: its version, which torch counts at every write in
place, and a few of its values, as neither fused optimizers nor writes to ``.data`` are counted. Another type or device
is not a change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from vedcore.errors import warn_caller
from vedcore.weights.origins import CHANGED, Origin, Provenance, Unhashed

__all__ = ["OriginRecord", "warns_untrained"]

MAX_VALUES = 16
"""Values of a tensor that its mark has, spread over its first axis."""
_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

Method = TypeVar("Method", bound=Callable[..., Any])


class _Mark(NamedTuple):
    """A tensor as it was."""

    identity: int
    version: int
    shape: tuple[int, ...]
    values: list[Any] | None
    """None where they cannot be read, as on the meta device."""

    @classmethod
    def of(cls, tensor: Tensor) -> _Mark:
        version = -1 if tensor.is_inference() else tensor._version
        return cls(id(tensor), version, tuple(tensor.shape), _values(tensor))

    def differs_from(self, tensor: Tensor) -> bool:
        """Whether the tensor has other values than when it was marked."""
        now = _Mark.of(tensor)
        if now.identity == self.identity and now.version != self.version:
            return True
        return now.values != self.values and not _is_cast(self.values, now.values, tensor.dtype)


def _values(tensor: Tensor) -> list[Any] | None:
    readable = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    if not readable or is_traceable_wrapper_subclass(tensor) or not tensor.numel():
        return None
    column = tensor.detach()
    while column.ndim > 1:
        column = column.select(-1, 0)
    found: list[Any] = column.reshape(-1)[:: -(-column.numel() // MAX_VALUES)].tolist()
    return found


def _is_cast(old: list[Any] | None, new: list[Any] | None, dtype: torch.dtype) -> bool:
    """Whether values are old ones in another type; NaN equals NaN."""
    if old is None or new is None or len(old) != len(new) or not dtype.is_floating_point:
        return False
    before, now = (torch.tensor(values, dtype=torch.float64).nan_to_num() for values in (old, new))
    return any(torch.equal(before.to(between).to(dtype).double().nan_to_num(), now) for between in _TYPES)


class OriginRecord:
    """The origins of a model's tensors, by name, and their marks. Copies and pickles keep it."""

    def __init__(self) -> None:
        self.origins: dict[str, Origin] = {}
        self._marks: dict[str, _Mark] = {}
        self._warned = False

    def begin(self, model: nn.Module, origins: Mapping[str, Origin], rest: Origin) -> None:
        """Take the origins of a model that was just made; ``rest`` is that of all other tensors."""
        tensors = _tensors(model)
        by_id = {id(tensors[name]): origin for name, origin in origins.items() if name in tensors}
        self.origins = {name: origins.get(name) or by_id.get(id(t), rest) for name, t in tensors.items()}
        self._marks = {name: _Mark.of(tensor) for name, tensor in tensors.items()}

    def settle(self, model: nn.Module, step: str = "", names: Iterable[str] = ()) -> None:
        """Note which tensors have changed since the last time.

        Args:
            model: the model.
            step: the change of the tensors of ``names``, and of those tied to them, which is known.
            names: their names.
        """
        tensors = _tensors(model)
        named = {id(tensors[name]) for name in names}
        for name, tensor in tensors.items():
            origin, mark = self.origins.get(name, Origin("unknown")), self._marks.get(name)
            if id(tensor) in named:
                origin = origin.then(step)
            elif mark is not None and mark.shape != tuple(tensor.shape):
                origin = origin.then(f"resized from {mark.shape}")
            elif mark is not None and mark.differs_from(tensor):
                origin = origin.then(CHANGED)
            elif mark is not None and mark.identity == id(tensor):
                continue
            self.origins[name], self._marks[name] = origin, _Mark.of(tensor)

    def provenance(self, model: nn.Module) -> Provenance:
        """The origins as they are now; reads the files whose sha256 is not known."""
        self.settle(model)
        tensors = _tensors(model)
        known: dict[Unhashed, str | None] = {}
        for name, origin in self.origins.items():
            if (file := origin.unhashed) is not None:
                if file not in known:
                    known[file] = file.sha256()
                self.origins[name] = replace(origin, sha256=known[file], unhashed=None)
        first: dict[int, str] = {}
        return Provenance(
            {
                name: self.origins[name] if first.setdefault(id(t), name) == name else _tied_to(first[id(t)])
                for name, t in tensors.items()
            }
        )

    def warn_untrained(self, model: Any) -> None:
        """Warn, once, where the cross-attention or the projector is random and was never trained."""
        if self._warned:
            return
        self._warned = True
        tensors = _tensors(model)

        def untrained(names: Iterable[str]) -> bool:
            found = [name for name in names if name in tensors]
            return bool(found) and all(self._is_untrained(name, tensors[name]) for name in found)

        groups = {
            "cross-attention": [f"decoder.{name}" for name in model.decoder.fresh_parameters()],
            "projector": [f"projector.{name}" for name, _ in model.projector.named_parameters()],
        }
        random = [what for what, names in groups.items() if untrained(names)]
        if random:
            warn_caller(
                f"the {' and the '.join(random)} of this model {'were' if random[1:] else 'was'} never trained, so its "
                "text does not depend on the image in any useful way; train the model, or load one that was trained, "
                "or compose both parts from one checkpoint"
            )

    def _is_untrained(self, name: str, tensor: Tensor) -> bool:
        origin, mark = self.origins.get(name), self._marks.get(name)
        return origin is not None and origin.is_untrained and mark is not None and not mark.differs_from(tensor)


def _tied_to(name: str) -> Origin:
    return Origin("tied", tied_to=name)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    found: Iterator[tuple[str, Any]] = iter(model.state_dict(keep_vars=True).items())
    return {name: tensor for name, tensor in found if isinstance(tensor, Tensor)}


def warns_untrained(method: Method) -> Method:
    """A method that writes text for people to read, and first warns where the model was never trained to."""

    @functools.wraps(method)
    def call(model: Any, *args: Any, **kwargs: Any) -> Any:
        model.origin_record.warn_untrained(model)
        return method(model, *args, **kwargs)

    return call  # type: ignore[return-value]
