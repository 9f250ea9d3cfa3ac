"""Lazy initialisation: each parameter is sampled once, in one pass, several parameters at a time.

Building a model eagerly samples most parameters twice: torch's own initialisation, then the architecture's. A truncated
normal takes five passes over memory, and all of it runs on one core. `LazyInit` only records which distribution a
constructor asks for, and samples from the last one recorded when the model is built.
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

__all__ = ["LazyInit"]

MAX_DEVIATIONS = 8.0
"""Standard deviations past which clamping a normal changes nothing: one sample in 10^15 lies there."""


@dataclass(frozen=True)
class _Distribution:
    """A normal distribution, or a uniform one.

    Args:
        normal: whether it is normal.
        a: the mean of a normal, or the lower bound of a uniform.
        b: the standard deviation of a normal, or the upper bound of a uniform.
    """

    normal: bool
    a: float
    b: float

    def affine(self, factor: float, shift: float) -> _Distribution:
        """The distribution of ``factor * x + shift``."""
        if self.normal:
            return replace(self, a=self.a * factor + shift, b=self.b * abs(factor))
        low, high = sorted((self.a * factor + shift, self.b * factor + shift))
        return replace(self, a=low, b=high)

    def fill(self, tensor: Tensor, generator: torch.Generator) -> None:
        """Overwrite ``tensor`` with samples."""
        if self.normal:
            tensor.normal_(self.a, self.b, generator=generator)
        else:
            tensor.uniform_(self.a, self.b, generator=generator)


def _kaiming_uniform(
    a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", *, shape: Sequence[int]
) -> _Distribution:
    """The distribution of ``nn.init.kaiming_uniform_`` (He et al., https://arxiv.org/abs/1502.01852)."""
    receptive = math.prod(shape[2:])
    fan = shape[1 if mode == "fan_in" else 0] * receptive
    bound = nn.init.calculate_gain(nonlinearity, a) * math.sqrt(3.0 / fan)  # type: ignore[arg-type]
    return _Distribution(False, -bound, bound)


def _erfinv(given: _Distribution) -> _Distribution | None:
    """Of a uniform between -1 and 1 the inverse error function makes a normal."""
    full = not given.normal and abs(given.a + 1) < 1e-9 and abs(given.b - 1) < 1e-9
    return _Distribution(True, 0.0, math.sqrt(0.5)) if full else None


def _clamp(given: _Distribution, min: float = -math.inf, max: float = math.inf) -> _Distribution | None:
    """The distribution itself where clamping changes nothing."""
    margin = MAX_DEVIATIONS * given.b
    low, high = (given.a - margin, given.a + margin) if given.normal else (given.a, given.b)
    return given if min <= low and high <= max else None


_DISTRIBUTIONS: dict[str, Callable[..., _Distribution]] = {
    "normal_": lambda mean=0.0, std=1.0: _Distribution(True, mean, std),
    "uniform_": lambda a=0.0, b=1.0: _Distribution(False, a, b),
}
"""In-place functions that sample, whatever the tensor held before."""
_TRANSFORMS: dict[str, Callable[..., _Distribution | None]] = {
    "erfinv_": _erfinv,
    "mul_": lambda given, factor: given.affine(factor, 0.0),
    "div_": lambda given, divisor: given.affine(1 / divisor, 0.0),
    "add_": lambda given, shift: given.affine(1.0, shift),
    "clamp_": _clamp,
}
"""In-place functions that turn one distribution into another; None where that is neither normal nor uniform."""
_OVERWRITES = {"zero_", "fill_", "constant_", "copy_"}
"""In-place functions that replace all values by given ones."""
_INITIALIZERS = {*_DISTRIBUTIONS, *_TRANSFORMS, *_OVERWRITES, "kaiming_uniform_"}
_METADATA_ATTRIBUTES = {
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
"""Attributes that do not read values."""
_METADATA_METHODS = {
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
"""Methods that do not read values."""


class LazyInit(TorchFunctionMode):
    """A context in which parameters are built; `initialize` samples them afterwards.

    The samples depend on the state of torch's global generator when the first parameter is initialised, and on the
    order of the parameters, but not on the number of threads. A function that reads a parameter, or that is not known
    here, gets it sampled first and then runs as it is. On the meta device there are no values, so nothing is done.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending: MutableMapping[Tensor, _Distribution] = WeakIdKeyDictionary()
        self._order: MutableMapping[Tensor, int] = WeakIdKeyDictionary()
        self._counter = itertools.count()
        self._seed: int | None = None

    def skip(self, parameters: Iterable[Tensor]) -> None:
        """Do not sample these parameters, whose values come from a checkpoint."""
        for parameter in parameters:
            self._pending.pop(parameter, None)

    def initialize(self) -> None:
        """Sample all pending parameters, as many at a time as torch has threads."""
        largest_first = sorted(self._pending.items(), key=lambda item: -item[0].numel())
        inference = torch.is_inference_mode_enabled()  # the mode is per thread, and these threads start without it

        def sample(item: tuple[Tensor, _Distribution]) -> None:
            with torch.inference_mode(inference):
                self._sample(*item)

        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
            list(pool.map(sample, largest_first))
        self._pending.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _INITIALIZERS and isinstance(target := args[0] if args else kwargs.get("tensor"), nn.Parameter):
            if target.is_meta:
                return target
            options = {k: v for k, v in kwargs.items() if k != "tensor"}
            distribution = self._distribution(name, target, args[1:], options)
            if distribution is not None:
                self._pending[target] = distribution
                return target
            if name in _OVERWRITES:
                self._pending.pop(target, None)
        if self._pending and not _reads_metadata_only(func, name):
            for used in _parameters((args, kwargs)):
                if used in self._pending:
                    self._sample(used, self._pending.pop(used))
        return func(*args, **kwargs)

    def _distribution(
        self, name: str, target: nn.Parameter, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> _Distribution | None:
        """The distribution that ``target`` has after the call; None where it cannot be recorded."""
        if kwargs.pop("generator", None) is not None or not all(
            isinstance(value, (int, float, str)) for value in (*args, *kwargs.values())
        ):
            return None
        if name == "kaiming_uniform_":
            distribution = _kaiming_uniform(*args, **kwargs, shape=target.shape)
        elif name in _DISTRIBUTIONS:
            distribution = _DISTRIBUTIONS[name](*args, **kwargs)
        elif name in _TRANSFORMS and target in self._pending:
            return _TRANSFORMS[name](self._pending[target], *args, **kwargs)
        else:
            return None
        if self._seed is None:
            self._seed = int(torch.randint(1 << 62, (), device="cpu"))
        if target not in self._order:
            self._order[target] = next(self._counter)
        return distribution

    def _sample(self, parameter: Tensor, distribution: _Distribution) -> None:
        """Sample one parameter, with a generator seeded for it alone."""
        assert self._seed is not None
        seed = (self._seed + self._order[parameter] * 0x9E3779B97F4A7C15) % (1 << 63)  # 2^64 over the golden ratio
        with torch.no_grad():
            distribution.fill(parameter, torch.Generator(parameter.device).manual_seed(seed))


def _parameters(values: Any) -> Iterator[nn.Parameter]:
    """The parameters among nested arguments."""
    if isinstance(values, nn.Parameter):
        yield values
    elif isinstance(values, (list, tuple, dict)):
        for value in values.values() if isinstance(values, dict) else values:
            if not isinstance(value, (int, float, str)):
                yield from _parameters(value)


def _reads_metadata_only(func: Callable[..., Any], name: str) -> bool:
    """Whether the function reads shape, type or device of a tensor but none of its values."""
    if name in ("__get__", "__set__"):
        return getattr(getattr(func, "__self__", None), "__name__", "") in _METADATA_ATTRIBUTES
    return name in _METADATA_METHODS
