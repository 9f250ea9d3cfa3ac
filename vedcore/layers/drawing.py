"""Fresh weights, drawn once and side by side.

Building a model draws most of its numbers twice (torch's own initialisation, then the architecture's) and a truncated
normal in five passes over memory; it does so one after the other. `LateDraws` lets constructors say which law a
parameter follows, and draws at the end what was said last: in one pass, several parameters at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["LateDraws"]

FAR = 8.0
"""Standard deviations beyond which a cut changes nothing: one number in 10^15 lies there."""


@dataclass(frozen=True)
class _Law:
    """What a parameter's numbers follow: uniform between two bounds, or normal with mean and standard deviation."""

    normal: bool
    a: float
    b: float

    def moved(self, factor: float, shift: float) -> _Law:
        """The law of ``factor * x + shift``."""
        if self.normal:
            return replace(self, a=self.a * factor + shift, b=self.b * abs(factor))
        low, high = sorted((self.a * factor + shift, self.b * factor + shift))
        return replace(self, a=low, b=high)

    def draw(self, tensor: Tensor, generator: torch.Generator) -> None:
        if self.normal:
            tensor.normal_(self.a, self.b, generator=generator)
        else:
            tensor.uniform_(self.a, self.b, generator=generator)


def _kaiming(a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", *, shape: Sequence[int]) -> _Law:
    receptive = math.prod(shape[2:])
    fan = shape[1 if mode == "fan_in" else 0] * receptive
    bound = nn.init.calculate_gain(nonlinearity, a) * math.sqrt(3.0 / fan)  # type: ignore[arg-type]
    return _Law(False, -bound, bound)


def _erfinv(law: _Law) -> _Law | None:
    whole = not law.normal and abs(law.a + 1) < 1e-9 and abs(law.b - 1) < 1e-9
    return _Law(True, 0.0, math.sqrt(0.5)) if whole else None  # erfinv of it is normal


def _clamp(law: _Law, min: float = -math.inf, max: float = math.inf) -> _Law | None:
    low, high = (law.a - FAR * law.b, law.a + FAR * law.b) if law.normal else (law.a, law.b)
    return law if min <= low and high <= max else None


_SAYS: dict[str, Callable[..., _Law]] = {
    "normal_": lambda mean=0.0, std=1.0: _Law(True, mean, std),
    "uniform_": lambda a=0.0, b=1.0: _Law(False, a, b),
}
"""In-place functions that say a law, and forget what was said before."""
_CHANGES: dict[str, Callable[..., _Law | None]] = {
    "erfinv_": _erfinv,
    "mul_": lambda law, factor: law.moved(factor, 0.0),
    "div_": lambda law, divisor: law.moved(1 / divisor, 0.0),
    "add_": lambda law, shift: law.moved(1.0, shift),
    "clamp_": _clamp,
}
"""In-place functions that change a law into another, or into none that is known here."""
_CONSTANTS = {"zero_", "fill_", "constant_", "copy_"}
"""In-place functions that overwrite all numbers."""
_SETTERS = {*_SAYS, *_CHANGES, *_CONSTANTS, "kaiming_uniform_"}
_LOOKS = {
    "shape",
    "dtype",
    "device",
    "is_meta",
    "requires_grad",
    "grad",
    "grad_fn",
    "ndim",
    "layout",
    "is_leaf",
    "is_sparse",
}
"""Attributes that do not look at the numbers."""
_HARMLESS = {
    "size",
    "dim",
    "numel",
    "requires_grad_",
    "is_floating_point",
    "is_complex",
    "stride",
    "element_size",
    "nelement",
    "__len__",
    "__hash__",
    "is_contiguous",
    "has_names",
    "__repr__",
}


class LateDraws(TorchFunctionMode):
    """A context in which parameters are built; `draw` gives them their numbers.

    The numbers depend on torch's global generator as it is when the first parameter is set, and on the order in which
    parameters are; not on the number of threads. What needs a parameter's numbers before `draw` gets them, and what
    other functions do to a parameter is done. On the meta device there are no numbers, so nothing is done at all.
    """

    def __init__(self) -> None:
        super().__init__()
        self._laws: MutableMapping[Tensor, _Law] = WeakIdKeyDictionary()
        self._order: MutableMapping[Tensor, int] = WeakIdKeyDictionary()
        self._numbers = itertools.count()
        self._seed: int | None = None

    def forget(self, parameters: Iterable[Tensor]) -> None:
        """Do not draw these, which have got their numbers from elsewhere."""
        for parameter in parameters:
            self._laws.pop(parameter, None)

    def draw(self) -> None:
        """Draw all that is still to be drawn, as many parameters at a time as torch has threads."""
        waiting = sorted(self._laws.items(), key=lambda item: -item[0].numel())
        inference = torch.is_inference_mode_enabled()  # each thread has its own, and these may write there

        def draw(item: tuple[Tensor, _Law]) -> None:
            with torch.inference_mode(inference):
                self._draw(*item)

        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
            list(pool.map(draw, waiting))
        self._laws.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _SETTERS and isinstance(target := args[0] if args else kwargs.get("tensor"), nn.Parameter):
            if target.is_meta:
                return target
            law = self._law(name, target, args[1:], {k: v for k, v in kwargs.items() if k != "tensor"})
            if law is not None:
                self._laws[target] = law
                return target
            if name in _CONSTANTS:
                self._laws.pop(target, None)
        if self._laws and not _is_look(func, name):
            for used in _parameters((args, kwargs)):
                if used in self._laws:
                    self._draw(used, self._laws.pop(used))
        return func(*args, **kwargs)

    def _law(self, name: str, target: nn.Parameter, args: Sequence[Any], kwargs: dict[str, Any]) -> _Law | None:
        """The law that the call gives ``target``; None where it is another kind of call."""
        if kwargs.pop("generator", None) is not None or not all(
            isinstance(value, (int, float, str)) for value in (*args, *kwargs.values())
        ):
            return None
        if name == "kaiming_uniform_":
            law: _Law | None = _kaiming(*args, **kwargs, shape=target.shape)
        elif name in _SAYS:
            law = _SAYS[name](*args, **kwargs)
        elif name in _CHANGES and target in self._laws:
            return _CHANGES[name](self._laws[target], *args, **kwargs)
        else:
            return None
        if self._seed is None:
            self._seed = int(torch.randint(1 << 62, (), device="cpu"))
        if target not in self._order:
            self._order[target] = next(self._numbers)
        return law

    def _draw(self, parameter: Tensor, law: _Law) -> None:
        assert self._seed is not None
        number = (self._seed + self._order[parameter] * 0x9E3779B97F4A7C15) % (1 << 63)
        with torch.no_grad():
            law.draw(parameter, torch.Generator(parameter.device).manual_seed(number))


def _parameters(values: Any) -> Iterator[nn.Parameter]:
    """Those among nested arguments."""
    if isinstance(values, nn.Parameter):
        yield values
    elif isinstance(values, (list, tuple, dict)):
        for value in values.values() if isinstance(values, dict) else values:
            if not isinstance(value, (int, float, str)):
                yield from _parameters(value)


def _is_look(func: Callable[..., Any], name: str) -> bool:
    if name in ("__get__", "__set__"):
        return getattr(getattr(func, "__self__", None), "__name__", "") in _LOOKS
    return name in _HARMLESS
