"""Every error that vedcore raises on purpose.

The tree (public names; each is importable from ``vedcore``)::

    VedcoreError
      ConfigError (ValueError)            a setting, in a file or in a call
        ConfigParseError                  text that is not YAML, TOML or JSON
        ConfigSchemaError                 a key or value that the schema does not have
        ConfigLimitError                  a size or depth beyond its limit
        UnknownComponentError (LookupError)   no encoder, decoder, … of that name
        IncompatibleError                 parts that do not fit together
        UsageError (TypeError)            arguments that are unknown or contradict each other
          MissingNameError (AttributeError)   a name of transformers that is another here
      CheckpointError                     a folder of weights
        CheckpointNotFoundError (FileNotFoundError)
        CheckpointCorruptError
        CheckpointMismatchError           names or shapes that the model does not have
        CheckpointUnsafeError             a path or payload that could be harmful
        CheckpointLimitError
        CheckpointWriteError (OSError)
      PluginError
        PluginLoadError                   its module fails to import
        PluginConflictError               two owners of one name
        PluginApiError                    written for another major version of the hooks
        PluginMissingError                a saved model needs a plugin that is not installed
        PluginContractError               hooks or components that break the contract
          CheckError (AssertionError)       a part that fails a check of `vedcore.testing`
      HubError
      TokenizerError
      ResumeError                         a folder that holds another run
      DataError (ValueError)              labelled images that cannot be used as a whole
      MissingExtraError (ImportError)     a package of an extra is not installed
      ImageError (ValueError)
        ImageDecodeError
        ImageLimitError
        ImageFormatError
      GenerationError
        NonFiniteError                    NaN or Inf

A message is one line of at most 300 characters: the problem, its location, and the next step. Control characters
from outside are escaped. ``details`` may hold further lines.
"""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable
from typing import Self

__all__ = [
    "CheckError",
    "CheckpointCorruptError",
    "CheckpointError",
    "CheckpointLimitError",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "CheckpointUnsafeError",
    "CheckpointWriteError",
    "ConfigError",
    "ConfigLimitError",
    "ConfigParseError",
    "ConfigSchemaError",
    "DataError",
    "GenerationError",
    "HubError",
    "ImageDecodeError",
    "ImageError",
    "ImageFormatError",
    "ImageLimitError",
    "IncompatibleError",
    "MissingExtraError",
    "MissingNameError",
    "NonFiniteError",
    "PluginApiError",
    "PluginConflictError",
    "PluginContractError",
    "PluginError",
    "PluginLoadError",
    "PluginMissingError",
    "ResumeError",
    "TokenizerError",
    "UnknownComponentError",
    "UsageError",
    "VedcoreError",
]

MAX_MESSAGE = 300


def printable(text: object) -> str:
    """``text`` with control, bidi and undecodable characters escaped, so that it is safe to print."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def close_matches(word: str, choices: Iterable[str]) -> list[str]:
    """At most three names of ``choices`` that are similar to ``word``, ignoring case, best first."""
    by_lower = {choice.lower(): choice for choice in sorted(choices, reverse=True)}
    return [by_lower[m] for m in difflib.get_close_matches(word.lower()[:100], by_lower, n=3, cutoff=0.5)]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A question that offers the nearest names; empty where none is near."""
    near = close_matches(word, choices)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


_INSIDE = ("vedcore", "pydantic", "torch", "contextlib")
"""Packages, and those with one of these names before an underscore, whose frames are not a user's."""


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """A warning at the line of the first caller outside vedcore, torch and pydantic, so that each line has its own."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0].partition("_")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def described(error: BaseException) -> str:
    """Type and text of any error; the type alone where its ``__str__`` fails."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def _shortened(text: str, limit: int) -> str:
    """A long path without its middle, of at most ``limit`` characters."""
    start = limit // 4
    return text if len(text) <= limit else f"{text[:start]}…{text[start + 1 - limit :]}"


class VedcoreError(Exception):
    """Base of all errors of vedcore.

    Args:
        message: the problem; escaped and cut so that ``str(error)`` stays one line of 300 characters.
        path: the file or folder concerned, if any.
        field: the config key, option or tensor concerned, if any.
        plugin: the distribution concerned, if any.
        hint: the next step for the user, appended to the message.
        details: further lines, which the CLI shows below the message.

    The arguments are attributes too, under the same names.
    """

    def __init__(
        self,
        message: str,
        *,
        path: object = None,
        field: str | None = None,
        plugin: str | None = None,
        hint: str = "",
        details: str = "",
    ) -> None:
        self.message = message
        self.path = None if path is None else str(path)
        self.field = field
        self.plugin = plugin
        self.hint = hint
        self.details = details
        parts = ["", printable(hint)]
        room = max(60, MAX_MESSAGE - 2 - len(parts[1]))  # keep the hint whole, and cut the rest: first paths
        for limit in (100, 60):
            where = [_shortened(printable(part), limit) for part in (self.path, field) if part]
            parts[0] = ": ".join([*where, printable(message)])
            if len(parts[0]) <= room:
                break
        else:
            parts[0] = parts[0][: room - 1] + "…"
        super().__init__("; ".join(part for part in parts if part)[:MAX_MESSAGE])

    def __str__(self) -> str:
        return str(self.args[0])

    def at(self, path: object, field: str | None = None) -> Self:
        """The same error with another path, which may end in ``:`` and a line number, and another field if given."""
        return type(self)(
            self.message, path=path, field=field or self.field, plugin=self.plugin, hint=self.hint, details=self.details
        )

    def with_hint(self, hint: str) -> Self:
        """The same error with another hint."""
        return type(self)(
            self.message, path=self.path, field=self.field, plugin=self.plugin, hint=hint, details=self.details
        )


class ConfigError(VedcoreError, ValueError):
    """A setting that cannot be used."""


class ConfigParseError(ConfigError):
    """Text that is not valid YAML, TOML or JSON."""


class ConfigSchemaError(ConfigError):
    """A key or a value that the schema does not have."""


class ConfigLimitError(ConfigError):
    """A size, count or depth beyond its limit."""


class UnknownComponentError(ConfigError, LookupError):
    """No encoder, decoder, projector, model or choice of that name."""


class IncompatibleError(ConfigError):
    """Parts that do not fit together."""


class UsageError(ConfigError, TypeError):
    """A call whose arguments contradict each other or are unknown."""


class MissingNameError(UsageError, AttributeError):
    """An attribute that transformers has, and vedcore by another name."""


class CheckpointError(VedcoreError):
    """A folder of weights that cannot be read or written."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """A folder, or a file that it needs, is missing or not readable."""


class CheckpointCorruptError(CheckpointError):
    """A file that is damaged."""


class CheckpointMismatchError(CheckpointError):
    """Tensors whose names or shapes are not those of the model."""


class CheckpointUnsafeError(CheckpointError):
    """A path or a payload that could be harmful."""


class CheckpointLimitError(CheckpointError):
    """A file, or something in it, that is larger than its limit."""


class CheckpointWriteError(CheckpointError, OSError):
    """A folder that could not be written; what was there before is unchanged."""


class ResumeError(VedcoreError):
    """A folder that holds a run which is not the one to go on with."""


class PluginError(VedcoreError):
    """A plugin that cannot be used."""


class PluginLoadError(PluginError):
    """The plugin's module does not import."""


class PluginConflictError(PluginError):
    """Two owners of one name."""


class PluginApiError(PluginError):
    """The plugin was written for another major version of the hooks."""


class PluginMissingError(PluginError):
    """A saved model needs a plugin that is not installed."""


class PluginContractError(PluginError):
    """A plugin whose hooks or components break the contract."""


class CheckError(PluginContractError, AssertionError):
    """A part that fails a check of `vedcore.testing`; ``field`` is the check's name."""


class HubError(VedcoreError):
    """A repository or file that cannot be had from the hub or its cache."""


class TokenizerError(VedcoreError):
    """A tokenizer that cannot be read or used."""


class DataError(VedcoreError, ValueError):
    """Labelled images, or one of them, that cannot be used."""


class MissingExtraError(VedcoreError, ImportError):
    """A package that an extra of vedcore brings is not installed."""


class ImageError(VedcoreError, ValueError):
    """An image that cannot be used."""


class ImageDecodeError(ImageError):
    """Bytes or an array that are not an image."""


class ImageLimitError(ImageError):
    """More pixels than the limit."""


class ImageFormatError(ImageError):
    """An image format that is not on the allow-list."""


class GenerationError(VedcoreError):
    """Generation that cannot continue."""


class NonFiniteError(GenerationError):
    """NaN or Inf in weights, inputs or logits."""
