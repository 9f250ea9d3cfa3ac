"""Checks of encoders and decoders that open the checkpoints of a class of transformers."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vedcore.errors import CheckpointMismatchError
from vedcore.testing.calls import logits, states_of
from vedcore.testing.cases import Case, kind_of
from vedcore.testing.checks import NotApplicable, check, fail, same
from vedcore.transformers_class import TransformersClass
from vedcore.weights.keymap import to_ours, to_theirs, without_place

__all__: list[str] = []

PARITY = 2e-4
"""Largest difference from transformers, relative to the largest value."""


def _class_of(part: Any) -> TransformersClass:
    classes: tuple[TransformersClass, ...] = getattr(part, "transformers", ())
    if not classes:
        raise NotApplicable("it opens no checkpoints of transformers")
    fitting = [each for each in classes if not each.refusal(part)]
    if not fitting:
        raise NotApplicable(f"transformers' {classes[0].name} cannot hold it: {classes[0].refusal(part)}")
    return fitting[0]


@check("encoder", "decoder")
@torch.no_grad()
def key_map_is_total_both_ways(case: Case) -> None:
    """Every stored tensor is written under transformers' names, and read back with its own values in every row."""
    part = case.build()
    theirs = _class_of(part)
    state, marked, start = part.state_dict(keep_vars=True), dict[str, Tensor](), 0
    by_tensor = dict[int, Tensor]()
    for name, tensor in state.items():  # each number once, so that no two tensors and no two rows look alike
        if id(tensor) not in by_tensor:
            values = torch.arange(start, start + tensor.numel(), dtype=torch.float64)
            by_tensor[id(tensor)] = values.reshape(tensor.shape)
            start += tensor.numel()
        marked[name] = by_tensor[id(tensor)]
    try:
        written = to_theirs(marked, theirs.key_map)
        read = to_ours(written, theirs.key_map)
        again = to_theirs({**marked, **read}, theirs.key_map)
    except CheckpointMismatchError as error:
        fail(f"a row for every tensor, to {theirs.name} and back", error.message)
    absent = without_place(state, theirs.key_map)
    found = {id(state[name]) for name in (*read, *absent) if name in state}
    lost = [name for name, tensor in state.items() if id(tensor) not in found]
    if lost:
        fail("every tensor to be read back", f"lost: {', '.join(lost[:3])}")
    for names, first, second in (("read back as it was", marked, read), ("written again as before", written, again)):
        for name, tensor in second.items():
            if name not in first or not torch.equal(first[name], tensor):
                fail(f"{name} {names}", "other values" if name in first else "a tensor that was not there")


@check("encoder", "decoder")
@torch.no_grad()
def transformers_computes_the_same(case: Case) -> None:
    """Written to a folder, the part opens in transformers with every tensor taken, and gives the same there."""
    part = case.build()
    theirs = _class_of(part)
    if importlib.util.find_spec("transformers") is None:
        raise NotApplicable("transformers is not installed")
    library: Any = importlib.import_module("transformers")
    cls = getattr(library, theirs.name)
    decodes = kind_of(part) == "decoder"
    if decodes and "encoder_hidden_states" not in inspect.signature(cls.forward).parameters:
        raise NotApplicable(f"transformers' {theirs.name} takes no image")
    flags = dict.fromkeys((*theirs.flags, "is_decoder"), True) if decodes else {}
    tensors = {name: t.detach().clone().contiguous() for name, t in _written(part, theirs).items()}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = {**theirs.write(part, part.settings()), **flags}
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file(tensors, Path(folder) / "model.safetensors", {"format": "pt"})
        model, report = cls.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(what):
            fail(f"no {what} in transformers' {theirs.name}", ", ".join(map(str, list(report[what])[:3])))
    rebuilt = cls(model.config).eval()  # from_pretrained may lose tables that are not stored, such as TrOCR's sinusoids
    rebuilt.load_state_dict(model.state_dict(), strict=False)
    rebuilt.tie_weights()
    if decodes:
        ids, states = case.ids(part), case.states(part)
        expected, came = rebuilt(ids, encoder_hidden_states=states).logits, logits(part, ids, states)
    else:
        pixels = case.images(part)
        expected, came = rebuilt(pixels).last_hidden_state, states_of(part, pixels)
    same(f"the output of transformers' {theirs.name}", expected, came, PARITY)


def _written(part: Any, theirs: TransformersClass) -> dict[str, Tensor]:
    tensors = dict(to_theirs(part.state_dict(), theirs.key_map))
    for name, extra in theirs.extra(part).items():
        tensors[name] = extra if isinstance(extra, Tensor) else torch.full(*extra)
    return tensors
