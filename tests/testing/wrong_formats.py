"""Small wrong formats and models, each with the check that is its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.testing.right_parts import Marked
from vedcore import GenerationConfig
from vedcore.checkpoints.formats import LoadOptions
from vedcore.weights.folder import save_folder


class ClaimsAll(Marked):
    def recognises(self, folder: Path) -> bool:
        return True


class ClaimsAnyConfig(Marked):
    def recognises(self, folder: Path) -> bool:
        return (folder / "config.json").is_file()


class ClaimsNone(Marked):
    def recognises(self, folder: Path) -> bool:
        return False


class AnswersWithAPath(Marked):
    def recognises(self, folder: Path) -> Any:
        return folder if super().recognises(folder) else None


class RaisesForDamage(Marked):
    def recognises(self, folder: Path) -> bool:
        return super().recognises(folder) and bool(json.loads((folder / "config.json").read_text()))


class LosesATensor(Marked):
    def load(self, folder: Path, options: LoadOptions) -> Any:
        model = super().load(folder, options)
        with torch.no_grad():
            next(model.projector.parameters()).zero_()
        return model


class LoadsInTraining(Marked):
    def load(self, folder: Path, options: LoadOptions) -> Any:
        return super().load(folder, options).train()


class LosesTheOptions(Marked):
    def load(self, folder: Path, options: LoadOptions) -> Any:
        model = super().load(folder, options)
        model.generation_config = GenerationConfig()
        return model


class LosesTheTokenIds(Marked):
    def load(self, folder: Path, options: LoadOptions) -> Any:
        model = super().load(folder, options)
        model.token_ids = model.token_ids.changed(pad=None)
        return model


class Widens(Marked):
    def load(self, folder: Path, options: LoadOptions) -> Any:
        return super().load(folder, options).to(options["dtype"] or torch.float32)


class WritesRandomBytes(Marked):
    def save(self, model: Any, folder: Any, **options: Any) -> None:
        super().save(model, folder, **options)
        save_folder(folder, {"id.txt": os.urandom(8)}, adds=True)


class EndsTraining(Marked):
    def save(self, model: Any, folder: Any, **options: Any) -> None:
        super().save(model.eval(), folder, **options)


class RemovesTheUsersFiles(Marked):
    def save(self, model: Any, folder: Any, **options: Any) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        super().save(model, folder, **options)


class WritesInPlace(Marked):
    """The files are written one after the other into the folder itself."""

    def save(self, model: Any, folder: Any, **options: Any) -> None:
        if not (Path(folder) / "model.safetensors").exists():
            return super().save(model, folder, **options)
        save_file({name: t.clone() for name, t in model.state_dict().items()}, Path(folder) / "model.safetensors")


class HidesTheFile(Marked):
    """A damaged file is an error of Python."""

    def load(self, folder: Path, options: LoadOptions) -> Any:
        load_file(folder / "model.safetensors")
        return super().load(folder, options)


class SwallowsOptions(Marked):
    def save(self, model: Any, folder: Any, **options: Any) -> None:
        super().save(model, folder)


class MakesParents(Marked):
    def save(self, model: Any, folder: Any, **options: Any) -> None:
        Path(folder).parent.mkdir(parents=True, exist_ok=True)
        super().save(model, folder, **options)


def without(**fixed: Any) -> type[Marked]:
    """A format that loads with these options, whatever it is asked for."""

    class Fixed(Marked):
        def load(self, folder: Path, options: LoadOptions) -> Any:
            return super().load(folder, {**options, **fixed})  # type: ignore[typeddict-item]

    return Fixed


WRONG_FORMATS: list[tuple[type[Marked], str]] = [
    (ClaimsAll, "claims_nothing_else"),
    (ClaimsAnyConfig, "claims_nothing_else"),
    (ClaimsNone, "claims_what_it_saved"),
    (AnswersWithAPath, "claims_what_it_saved"),
    (RaisesForDamage, "recognises_never_raises"),
    (LosesATensor, "loaded_has_the_same_tensors"),
    (LoadsInTraining, "loaded_has_the_same_tensors"),
    (LosesTheOptions, "loaded_has_the_same_settings"),
    (LosesTheTokenIds, "loaded_has_the_same_settings"),
    (Widens, "types_of_tensors_are_kept"),
    (WritesRandomBytes, "saving_twice_gives_the_same_files"),
    (EndsTraining, "saving_leaves_the_model"),
    (RemovesTheUsersFiles, "save_replaces_the_model_of_before"),
    (WritesInPlace, "failed_save_changes_nothing"),
    (HidesTheFile, "damaged_files_are_refused_by_name"),
    (MakesParents, "wrong_paths_are_refused"),
    (SwallowsOptions, "unknown_options_of_save_are_refused"),
    (without(dtype=None), "load_takes_a_type"),
    (without(device=None), "load_takes_a_device"),
    (without(image_size=None), "load_takes_an_image_size"),
    (without(tokenizer=None), "load_takes_a_tokenizer_and_preprocessing"),
    (without(preprocessing=None), "load_takes_a_tokenizer_and_preprocessing"),
    (without(check_finite=False), "load_checks_numbers"),
    (without(strict=False), "load_is_strict"),
    (without(strict=True), "load_is_strict"),
    (without(verify=False), "load_verifies"),
]


def wrong_models(folder: Path, other: Path) -> list[tuple[Callable[[], Any], str]]:
    """Functions of models that are wrong, given two folders that are right, and the check of each.

    Args:
        folder: of a model.
        other: a copy of it, which may be damaged.
    """
    given = iter([folder, other] * 100)

    def damaged() -> Path:
        (other / "config.json").write_text("{")
        return other

    def unclean() -> Path:
        target = folder.parent / "unclean"
        if not target.exists():
            shutil.copytree(folder, target)
            (target / "tokenizer.json").unlink()
            settings = json.loads((target / "config.json").read_text())
            (target / "config.json").write_text(json.dumps({**settings, "tokenizer": None}))
            (target / "wiring.json").write_text("{}")
        return target

    return [
        (lambda: None, "gives_a_folder"),
        (lambda: folder / "nothing", "gives_a_folder"),
        (lambda: next(given), "gives_the_same_folder_again"),
        (unclean, "loads_without_warnings"),
        (damaged, "files_are_whole"),
    ]
