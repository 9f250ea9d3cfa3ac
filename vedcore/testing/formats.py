"""Checks of checkpoint formats: the folders that they claim, write and read."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vedcore.errors import VedcoreError
from vedcore.testing.cases import Case
from vedcore.testing.checks import NotApplicable, check, fail
from vedcore.testing.format_models import contents, copied, load, make_model, refuse_others, saved, text_of

__all__: list[str] = []

SETTINGS = ("token_ids", "generation_config")
"""Settings of a model that a format keeps, beside those of its parts and its processor."""
NOTES = b"what a user keeps here\n"


@check("format")
def claims_what_it_saved(case: Case) -> None:
    """``recognises`` gives True for a folder that ``save`` wrote, wherever it is moved."""
    format = case.build()
    with saved(case, format) as (_, folder):
        for place in (folder, copied(folder, "moved")):
            answer = format.recognises(place)
            if answer is not True:
                fail("True for a folder that it saved", repr(answer))


@check("format")
def claims_nothing_else(case: Case) -> None:
    """``recognises`` gives False for folders of other formats, of other files and of none, and does not raise."""
    format = case.build()
    with tempfile.TemporaryDirectory() as place:
        for what, folder in _others(case, format, Path(place)):
            answer = format.recognises(folder)
            if answer is not False:
                fail(f"False for {what}", repr(answer))


@check("format")
def recognises_never_raises(case: Case) -> None:
    """``recognises`` gives a bool for a folder with files that are damaged or missing."""
    format = case.build()
    with saved(case, format) as (_, folder):
        for _, _, damaged in _damages(folder):
            if not isinstance(format.recognises(damaged), bool):
                fail("a bool", type(format.recognises(damaged)).__name__)


@check("format")
def loaded_has_the_same_tensors(case: Case) -> None:
    """``load`` gives the tensors that were saved, bit for bit, in a model in eval mode."""
    format = case.build()
    with saved(case, format) as (model, folder):
        came = load(format, folder)
    if came.training:
        fail("a model in eval mode", "one in training mode")
    refuse_others(model, came)  # the folder is gone by now


@check("format")
def loaded_has_the_same_settings(case: Case) -> None:
    """``load`` gives the parts' settings, the token ids, the tokenizer, the preprocessing, ``generate``'s options."""
    format = case.build()
    with saved(case, format) as (model, folder):
        came = load(format, folder)
    for name, expected, found in _settings(model, came):
        if expected != found:
            fail(f"{name} as it was saved, {str(expected)[:80]}", str(found)[:80])


@check("format")
def types_of_tensors_are_kept(case: Case) -> None:
    """A model in bfloat16 comes back in bfloat16."""
    format = case.build()
    model = make_model(case, format).to(torch.bfloat16)
    with tempfile.TemporaryDirectory() as place:
        format.save(model, Path(place) / "model")
        refuse_others(model, load(format, Path(place) / "model"))


@check("format")
def saving_twice_gives_the_same_files(case: Case) -> None:
    """Two saves of a model are equal, byte for byte, and so is a save of the loaded model."""
    format = case.build()
    with saved(case, format) as (model, folder):
        first = contents(folder)
        for what, again in (("model", model), ("loaded model", load(format, folder))):
            target = folder.with_name("again")
            shutil.rmtree(target, ignore_errors=True)
            format.save(again, target)
            second = contents(target)
            wrong = [n for n in {**first, **second} if first.get(n) != second.get(n)]
            if wrong:
                fail(f"the same files of the {what}", f"another {wrong[0]}")


@check("format")
def saving_leaves_the_model(case: Case) -> None:
    """``save`` changes neither tensors, nor settings, nor the mode of the model."""
    format = case.build()
    model = make_model(case, format).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = model.config.model_dump()
    with tempfile.TemporaryDirectory() as place:
        format.save(model, Path(place) / "model")
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    if changed or model.config.model_dump() != config or not model.training:
        fail("the model as it was", f"another {(changed or ['mode or config'])[0]}")


@check("format")
def save_replaces_the_model_of_before(case: Case) -> None:
    """A save into a folder that has a model replaces it, and keeps the files of the user."""
    format = case.build()
    other = make_model(case, format, seed=1)
    with saved(case, format) as (_, folder):
        (folder / "notes.txt").write_bytes(NOTES)
        format.save(other, folder)
        refuse_others(other, load(format, folder))
        if contents(folder).get("notes.txt") != NOTES:
            fail("notes.txt of the user to stay", "it has gone")


@check("format")
def failed_save_changes_nothing(case: Case) -> None:
    """Where a file cannot be written, ``save`` raises an error of vedcore, and leaves what was there, or nothing."""
    format = case.build()
    other = make_model(case, format, seed=1)
    with saved(case, format) as (_, folder):
        before, beside = contents(folder), set(folder.parent.iterdir())
        limit = max(map(len, before.values())) // 2
        for what, target in (("the old folder", folder), ("no folder", folder.with_name("new"))):
            came = "no error"
            with _files_limited(limit):
                try:
                    format.save(other, target)
                except Exception as error:
                    came = "" if isinstance(error, VedcoreError) else type(error).__name__
            left = contents(target) if target.is_dir() else {}
            if left != (before if target == folder else {}):
                wrong = [name for name in {**before, **left} if before.get(name) != left.get(name)]
                fail(f"{what}, after a save that failed", f"half of another: {(wrong or list(left))[0]}")
            if came:
                fail("an error of vedcore for a file that cannot be written", came)
        more = [p.name for p in set(folder.parent.iterdir()) - beside if p.is_dir() or p.stat().st_size]
        if more:
            fail("nothing beside the folder, after a save that failed", ", ".join(sorted(more)))


@check("format")
def damaged_files_are_refused_by_name(case: Case) -> None:
    """A file that is cut, garbled or missing is an error of vedcore that names it, or changes no tensor."""
    format = case.build()
    with saved(case, format) as (model, folder):
        files = contents(folder)
        weights = max(files, key=lambda name: len(files[name]))
        for what, name, damaged in _damages(folder):
            try:
                came = load(format, damaged)
            except VedcoreError as error:
                if Path(name).name not in text_of(error):
                    fail(f"an error that names {name}, which is {what}", str(error)[:120])
                continue
            except Exception as error:
                fail(f"an error of vedcore for {name}, which is {what}", f"{type(error).__name__}: {error}"[:120])
            if name == weights:
                fail(f"an error for {name}, which is {what}", "a model")
            refuse_others(model, came)


@check("format")
def wrong_paths_are_refused(case: Case) -> None:
    """``load`` of a missing or an empty folder, and ``save`` to a file or a missing parent, are errors of vedcore."""
    format = case.build()
    model = make_model(case, format)
    with tempfile.TemporaryDirectory() as place:
        empty, file = Path(place) / "empty", Path(place) / "file"
        empty.mkdir()
        file.write_text("a file")
        calls = {
            "load of a missing folder": lambda: load(format, empty / "missing"),
            "load of an empty folder": lambda: load(format, empty),
            "load of a file": lambda: load(format, file),
            "save to a file": lambda: format.save(model, file),
            "save into a missing folder": lambda: format.save(model, empty / "missing" / "model"),
        }
        for what, call in calls.items():
            try:
                call()
                came = "none"
            except VedcoreError:
                continue
            except Exception as error:
                came = type(error).__name__
            fail(f"an error of vedcore for a {what}", came)
        if file.read_text() != "a file":
            fail("the file to stay", "another")


@check("format")
def unknown_options_of_save_are_refused(case: Case) -> None:
    """An option that ``save`` does not have is a TypeError, such as `vedcore.UsageError`, and nothing is written."""
    format = case.build()
    model = make_model(case, format)
    with tempfile.TemporaryDirectory() as place:
        try:
            format.save(model, Path(place) / "model", option_of_no_format=1)
        except TypeError:
            if (Path(place) / "model").exists():
                fail("nothing to be written", "a folder")
            return
    fail("an error for an option that it does not have", "none")


def _settings(model: Any, came: Any) -> Iterator[tuple[str, Any, Any]]:
    """Names and values of the settings of two models."""
    for part in ("encoder", "projector", "decoder"):
        first, second = getattr(model, part), getattr(came, part)
        yield f"the class of the {part}", type(first), type(second)
        yield from ((f"{part}_{k}", v, second.settings().get(k)) for k, v in first.settings().items() if k != "variant")
    yield from ((name, getattr(model, name), getattr(came, name)) for name in SETTINGS)
    yield "preprocessing", model.processor.preprocessing, came.processor.preprocessing
    texts = [None if m.processor.tokenizer is None else m.processor.tokenizer.to_str() for m in (model, came)]
    yield "tokenizer", *texts


def _others(case: Case, format: Any, place: Path) -> Iterator[tuple[str, Path]]:
    """Folders that are not of the format, with what they are."""
    from vedcore.plugins import make_format

    for what, files in {
        "an empty folder": {},
        "a folder of images and notes": {"a.png": b"\x89PNG", "notes.txt": NOTES, "data.json": b"{}"},
        "a model of another library": {"config.json": b'{"model_type": "nobodys"}', "tokenizer.json": b"{}"},
    }.items():
        folder = place / what.replace(" ", "-")
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if b"nobodys" in files.get("config.json", b""):
            save_file({"weight": torch.zeros(2, 3)}, folder / "model.safetensors")
            (folder / "model.json").write_text(json.dumps({"layers": 2}))
        yield what, folder
    for name in ("native", "transformers"):
        other = make_format(name)
        if type(other.format) is not type(format):
            with saved(replace(case, make_model=None), other.format) as (_, folder):
                yield f"a folder of the format {name}", folder
    yield "a folder that is not there", place / "missing"


def _damages(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Copies of the folder in each of which a file is damaged: how, the file, and the copy."""
    for name, content in contents(folder).items():
        damaged = copied(folder, "damaged")
        (damaged / name).write_bytes(content[: len(content) // 2])
        yield "cut", name, damaged
        (damaged / name).write_bytes(bytes(reversed(content)))
        yield "garbled", name, damaged
        (damaged / name).unlink()
        yield "missing", name, damaged


@contextlib.contextmanager
def _files_limited(size: int) -> Iterator[None]:
    """No file of this process may grow past so many bytes, as on a disk that is full."""
    try:
        import resource
    except ImportError:
        raise NotApplicable("no size of files can be set on this system") from None
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
