"""An evaluation, which can be saved as a page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vedcore.errors import UsageError
from vedcore.evaluation.findings import Findings
from vedcore.evaluation.page import page

__all__ = ["Evaluation", "make_folder"]

PAGE, DATA = "evaluation.html", "evaluation.json"
"""Files that an evaluation is saved to."""


@dataclass(frozen=True)
class Evaluation(Findings):
    """The results of a model on labelled images; ``str()`` is a table."""

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``evaluation.html`` and ``evaluation.json`` into a folder, over those that are there.

        Returns:
            The page.

        Raises:
            MissingExtraError: matplotlib is not installed.
            UsageError: the folder cannot be written.
        """
        made = {PAGE: page(self), DATA: self.to_json() + "\n"}
        make_folder(folder)
        for name, text in made.items():
            part = Path(folder, f"{name}.part")
            try:
                part.write_text(text, encoding="utf-8", errors="backslashreplace")
                part.replace(Path(folder, name))
            except OSError as error:
                raise _unwritable(folder, error) from None
        return Path(folder, PAGE)


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder for `Evaluation.save`, where it is not there.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        probe = Path(folder, f"{DATA}.part")
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: str | os.PathLike[str], error: OSError) -> UsageError:
    return UsageError(str(error.strerror), path=folder, field="output", hint="name another folder")
