"""wiring.json, the last result of `vedcore.check_wiring`: read from a folder, and put into one."""

from __future__ import annotations

import os
from pathlib import Path

from vedcore.checkpoints.formats import json_bytes
from vedcore.checkpoints.recognition import find_format
from vedcore.errors import CheckpointError
from vedcore.model.wiring import MAX_BYTES, WiringReport
from vedcore.model_files import CONFIG, MANIFEST, WIRING
from vedcore.weights.folder import save_folder
from vedcore.weights.snapshot import Snapshot, json_object, read_folder

__all__ = ["keep_wiring", "read_wiring"]


def read_wiring(snapshot: Snapshot) -> WiringReport | None:
    """The report that a folder keeps; None where there is none.

    Raises:
        CheckpointError: a file that is damaged, too large or of another version.
    """
    if not snapshot.has(WIRING):
        return None
    path = snapshot.path / WIRING
    return WiringReport.parse(json_object(snapshot.read(WIRING, MAX_BYTES), path), path=path)


def keep_wiring(folder: Path, report: WiringReport) -> str:
    """Put a report into a folder of the native format, which is replaced as a whole; its other files stay.

    Returns:
        Why the folder is left as it is; empty where it keeps the report.
    """
    found = find_format(folder)
    if found is None or not found.is_built_in or found.entry.name != "native":
        return "the folder is not of vedcore's native format"
    if any(os.path.islink(folder / name) for name in (CONFIG, MANIFEST)):
        return "the folder is a cache's"
    try:
        read_folder(folder, Snapshot.manifest)
        save_folder(folder, {WIRING: json_bytes(report.to_data())}, adds=True)
    except CheckpointError as error:  # read-only, or without a manifest
        return str(error)
    return ""
