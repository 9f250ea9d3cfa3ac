"""A training run as data: the model, the settings of training and those of the data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

from vedcore.checkpoints import load
from vedcore.composer.build import compose
from vedcore.composer.request import PART_KINDS
from vedcore.config_files import apply_overrides, read_config_text
from vedcore.config_files.documents import FORMATS
from vedcore.data import Data, DataConfig, open_data, split
from vedcore.errors import ConfigSchemaError, DataError, UsageError
from vedcore.model import VisionEncoderDecoder
from vedcore.training.config import TrainingConfig

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """A model, the way to train it, and the data."""

    model: Any
    """A folder or name that `vedcore.load` opens, a mapping that `vedcore.compose` takes, or the model itself."""
    train: TrainingConfig
    data: DataConfig
    rows: Any = None
    """Source of the rows in Python, in place of ``data.train``; None where that names it."""

    @classmethod
    def of(cls, model_or_config: Any, data: Any = None, overrides: Iterable[str] = (), **settings: Any) -> Self:
        """The run that arguments describe.

        Args:
            model_or_config: a config file with ``train``, ``data``, and either ``model`` or what `vedcore.compose`
                takes, whose relative paths count from its folder; a mapping of that; a name or folder of a model; or a
                model.
            data: source of the labelled rows, in place of ``data.train``.
            overrides: texts such as ``train.max_steps=200``.
            settings: those of training, and ``data_…`` for those of the data.

        Raises:
            ConfigError: an unreadable file, an unknown setting (with the nearest), a bad value.
            UsageError: a malformed override, or no data.
        """
        path = None
        if isinstance(model_or_config, Mapping):
            document = dict(model_or_config)
        elif isinstance(model_or_config, str | os.PathLike) and Path(model_or_config).suffix in FORMATS:
            path = Path(model_or_config)
            document = _with_paths(read_config_text(path).data, lambda name: os.path.join(path.parent, name))
        else:
            document = {"model": model_or_config}
        plain = {
            key: value for key, value in document.items() if key != "model" or isinstance(value, str | os.PathLike)
        }
        for part in PART_KINDS:  # so that an override can set one of its fields
            if isinstance(plain.get(part), str):
                plain[part] = {"name": plain[part]}
        plain = apply_overrides(plain, overrides)
        train = {**_section(plain, "train", path)}
        rows = {**_section(plain, "data", path)}
        for name, value in settings.items():
            (rows if name.startswith("data_") else train)[name.removeprefix("data_")] = value
        if isinstance(data, str | os.PathLike):
            rows["train"] = os.fspath(data)
        model = plain.pop("model", document.get("model"))
        if model is None and "encoder" not in plain:
            hint = "add model: NAME_OR_FOLDER, or encoder: and decoder:"
            raise ConfigSchemaError("no model is named", path=path, field="model", hint=hint)
        if model is not None and plain:
            raise ConfigSchemaError(
                f"{next(iter(plain))} is set beside it", path=path, field="model", hint="leave out one of the two"
            )
        parsed = DataConfig.parse(rows, path=path, prefix="data.")
        if parsed.train is None and data is None:
            raise UsageError("no data is given", field="data.train", hint="name a folder of labelled images")
        return cls(
            plain if model is None else model,
            TrainingConfig.parse(train, path=path, prefix="train."),
            parsed,
            None if isinstance(data, str | os.PathLike) else data,
        )

    def open_rows(self) -> tuple[Data, Data]:
        """The rows for training, and those that are held back.

        Raises:
            DataError: sources that cannot be used; a stream without ``data.validation``.
        """
        rows = self._open(self.data.train if self.rows is None else self.rows)
        if self.data.validation is not None:
            return rows, self._held_back(self.data.validation)
        if rows.is_stream:
            hint = "name held-back rows with data.validation"
            raise DataError("a stream is not split", path=rows.source, field="data.validation", hint=hint)
        return split(rows, self.data.validation_fraction, self.data.seed)

    def open_more(self) -> dict[str, Data]:
        """Other data to evaluate beside the rows that are held back."""
        return {name: self._held_back(source) for name, source in self.data.also.items()}

    def _held_back(self, source: Any) -> Data:
        """Rows to evaluate; those of a stream are kept in memory, ``train.eval_rows`` at most."""
        data = self._open(source)
        if not data.is_stream:
            return data
        rows = list(islice(data, self.train.eval_rows))
        return Data(data.source, rows, problems=data.problems)

    def _open(self, source: Any) -> Data:
        return open_data(source, text_column=self.data.text_column, image_column=self.data.image_column)

    def make_model(self) -> VisionEncoderDecoder:
        """The model: loaded, composed with ``train.seed``, or the one that was given."""
        if isinstance(self.model, VisionEncoderDecoder):
            return self.model
        if isinstance(self.model, Mapping):
            return compose({"seed": self.train.seed, **self.model})
        return load(self.model)

    def resolved(self, model: VisionEncoderDecoder) -> dict[str, Any]:
        """The complete config of the run as plain data, as ``config.yaml`` has it."""
        if isinstance(self.model, Mapping):
            asked = {"seed": self.train.seed, **self.model}
            whole = {
                **model.config.to_dict(),
                **{k: asked[k] for k in ("pretrained", "seed", "tokenizer") if k in asked},
            }
        else:
            whole = {"model": None if self.model is model else os.fsdecode(self.model)}
        return _with_paths({**whole, "train": self.train.to_dict(), "data": self.data.to_dict()}, os.path.abspath)


def _with_paths(document: Mapping[str, Any], place: Callable[[str], str]) -> dict[str, Any]:
    """A config whose paths are placed: the sources of its data, a tokenizer.json, and a model that is a folder."""
    placed = dict(document)
    if isinstance(name := placed.get("tokenizer"), str) and name.endswith(".json"):
        placed["tokenizer"] = place(name)
    if isinstance(name := placed.get("model"), str) and os.path.isdir(place(name)):
        placed["model"] = place(name)
    if isinstance(data := placed.get("data"), Mapping):
        sources = {name: _placed(data[name], place) for name in ("train", "validation", "also") if name in data}
        placed["data"] = {**data, **sources}
    return placed


def _placed(source: Any, place: Callable[[str], str]) -> Any:
    if isinstance(source, Mapping):
        return {name: _placed(each, place) for name, each in source.items()}
    if isinstance(source, list | tuple):
        return [_placed(each, place) for each in source]
    return place(source) if isinstance(source, str) else source


def _section(document: dict[str, Any], name: str, path: Path | None) -> Mapping[str, Any]:
    value = document.pop(name, {})
    if not isinstance(value, Mapping):
        raise ConfigSchemaError(f"object expected, got {type(value).__name__}", path=path, field=name)
    return value
