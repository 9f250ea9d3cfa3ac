"""Checks of any part: its tensors, its gradients, its state, its types."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vedcore.testing.calls import answer, held, inputs_of, unregistered
from vedcore.testing.cases import Case
from vedcore.testing.checks import (
    CLOSE,
    SAME,
    NotApplicable,
    all_finite,
    check,
    difference,
    each_differs,
    fail,
    same,
)

__all__ = ["dead_parameters"]

TRAINING_STEPS = 4
"""Steps in training mode, of which one reaches a parameter that dropout or LayerDrop leaves out in another."""
HALF = 0.1
"""Largest mean difference of bfloat16 from float32, relative to the spread."""
OWN_LAYERS = "vedcore.layers."
"""Modules whose notes on their inputs, by which they choose a kernel, are not a part's state."""
MAX_SHOWN = 4
"""Names in a message."""


def _shown(names: list[str]) -> str:
    return ", ".join(names[:MAX_SHOWN]) + (f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else "")


@check()
def output_is_finite(case: Case) -> None:
    """The output for noise has no NaN and no Inf, in training and in eval mode."""
    part = case.build()
    all_finite("output in eval mode", answer(case, part))
    all_finite("output in training mode", answer(case, part.train()))


@check()
def tensors_are_registered(case: Case) -> None:
    """Every tensor that a module holds, in a list too, is a parameter or a buffer."""
    names = list(unregistered(case.build()))
    if names:
        fail("parameters and buffers alone", f"unregistered tensors: {_shown(names)}")


@check()
def unstored_buffers_are_rebuilt(case: Case) -> None:
    """A buffer that is not stored has the same values whenever the part is built."""
    first, second = case.build(draw=1), case.build(draw=2)
    stored, other = first.state_dict(keep_vars=True), dict(second.named_buffers())
    kept = {id(tensor) for tensor in stored.values()}
    names = [
        name
        for name, buffer in first.named_buffers()
        if id(buffer) not in kept and not torch.equal(buffer, other[name])
    ]
    if names:
        fail("the same values of each buffer that is not stored", f"others in {_shown(names)}")


@check()
@torch.no_grad()
def saved_and_loaded_is_the_same(case: Case) -> None:
    """Built without a seed, and given the stored tensors, the part gives the same output, after training too."""
    part = case.build()
    answer(case, part.train())
    expected = answer(case, part.eval())
    stored = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    loaded = case.fresh()
    loaded.load_state_dict(stored)
    same("the output of before it was saved", expected, answer(case, loaded), SAME)


@check()
@torch.no_grad()
def eval_is_deterministic(case: Case) -> None:
    """Two calls in eval mode give the same output."""
    part = case.build()
    same("the output of the first call", answer(case, part), answer(case, part), SAME)


@check()
@torch.no_grad()
def eval_leaves_no_state(case: Case) -> None:
    """A call in eval mode changes neither tensors nor numbers of the modules, nor the output of a later call."""
    part = case.build()
    before = _state(part)
    first = answer(case, part)
    answer(case, part, draw=1, rows=3)
    after = _state(part)
    changed = [path for path in after if path not in before or not _equal(before[path], after[path])]
    if changed:
        fail("modules as they were before the call", f"changed: {_shown(changed)}")
    same("the output of the first call after another", first, answer(case, part), SAME)


@check()
def gradients_reach_every_parameter(case: Case) -> None:
    """A step of training gives a gradient to every parameter that is trained."""
    dead = dead_parameters(case)
    if dead:
        fail("a gradient in every parameter", f"none in {_shown(dead)}")


@check("decoder", "projector")
def gradients_reach_the_input(case: Case) -> None:
    """A step of training gives a gradient to every image of the batch, so that what stands before the part trains."""
    part = case.build().train()
    call, inputs = inputs_of(case, part)
    inputs[-1].requires_grad_()
    weights = torch.randn_like(call(*inputs).detach())
    out = call(*inputs)
    if not out.requires_grad:
        fail("an output with gradients", "one without")
    (out * weights).sum().backward()
    gradient = inputs[-1].grad
    if gradient is None or not bool(gradient.flatten(1).any(1).all()):
        fail("a gradient in every image's input", "none")


@check()
@torch.no_grad()
def half_precision_is_near(case: Case) -> None:
    """In bfloat16 the output is of that type, finite, and near that of float32."""
    part = _with_tensors(case)
    expected = answer(case, part)
    came = answer(case, part.to(torch.bfloat16))
    if came.dtype != torch.bfloat16:
        fail("an output of torch.bfloat16", str(came.dtype))
    all_finite("output in bfloat16", came)
    found = float((came.float() - expected).abs().mean() / expected.std().clamp(min=1e-12))
    if not found < HALF:
        fail("the output of float32", f"a mean difference of {found:.2g} of its spread")


@check()
@torch.no_grad()
def types_go_there_and_back(case: Case) -> None:
    """In float64 the output is of that type and the same; back in float32 nothing has changed."""
    part = _with_tensors(case)
    expected = answer(case, part)
    wide = answer(case, part.to(torch.float64))
    if wide.dtype != torch.float64:
        fail("an output of torch.float64", str(wide.dtype))
    same("the output of float32", expected, wide, 10 * CLOSE)
    same("the output of before the trip to float64", expected, answer(case, part.to(torch.float32)), SAME)


@check()
@torch.no_grad()
def moves_to_another_device(case: Case) -> None:
    """Moved to another device, the part computes there, and gives the same."""
    part = _with_tensors(case)
    expected = answer(case, part)
    accelerators = [n for n in ("cuda", "mps") if getattr(getattr(torch, n), "is_available", lambda: False)()]
    for name in accelerators:
        same(f"the output of the CPU on {name}", expected, answer(case, part.to(name)).cpu(), 10 * CLOSE)
    try:
        answer(case, part.to("meta"))
    except RuntimeError as error:  # NotImplementedError is one
        if "same device" in str(error):
            fail("all tensors on the new device", str(error).splitlines()[0][:120])
        if not accelerators:
            raise NotApplicable("no accelerator is here, and it needs the values of tensors") from None


@check("encoder", "projector")
@torch.no_grad()
def each_row_has_its_own_output(case: Case) -> None:
    """The output of an image depends on that image."""
    part = case.build()
    call, inputs = inputs_of(case, part)
    other = [*inputs[:-1], inputs[-1].flip(0)]
    each_differs("another output for another image", call(*inputs), call(*other), 1)


@check()
@torch.no_grad()
def alone_is_as_in_a_batch(case: Case) -> None:
    """A row alone has the output that it has among others."""
    part = case.build()
    call, inputs = inputs_of(case, part, rows=3)
    together = call(*inputs)
    alone = [call(*(x[row : row + 1] for x in inputs)) for row in range(3)]
    same("the output in the batch", together, torch.cat(alone))


def dead_parameters(case: Case) -> list[str]:
    """Names of trained parameters that no gradient reaches.

    One whose gradient is zero is dead where another value of it gives the same output, bit for bit: the bias of
    attention's keys, whose gradient vanishes, is not.
    """
    part = case.build().train()
    trained = {name: p for name, p in part.named_parameters() if p.requires_grad}
    for step in range(TRAINING_STEPS if trained else 0):
        out = answer(case, part, draw=step)
        if not out.requires_grad:
            break
        (out * torch.randn_like(out)).sum().backward()  # type: ignore[no-untyped-call]
        if all(p.grad is not None and bool(p.grad.any()) for p in trained.values()):
            return []
    part.eval()
    return [
        name for name, p in trained.items() if p.grad is None or (not p.grad.any() and _has_no_effect(case, part, p))
    ]


@torch.no_grad()
def _has_no_effect(case: Case, part: nn.Module, parameter: Tensor) -> bool:
    before, kept = answer(case, part), parameter.detach().clone()
    parameter.add_(torch.randn_like(parameter))
    after = answer(case, part)
    parameter.copy_(kept)
    return torch.equal(before, after)


def _with_tensors(case: Case) -> Any:
    part = case.build()
    if not any(t.is_floating_point() for t in (*part.parameters(), *part.buffers())):
        raise NotApplicable("it has no tensors")
    return part


def _state(part: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {n: t.detach().clone() for n, t in (*part.named_parameters(), *part.named_buffers())}
    return found | {p: v.detach().clone() if isinstance(v, Tensor) else v for p, v in held(part, without=OWN_LAYERS)}


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and difference(first.float(), second.float()) == 0 if first.numel() else True
    return bool(first == second)
