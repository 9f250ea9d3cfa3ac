"""The state of a run on disk: everything that a stopped run needs to go on to the bit."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vedcore.errors import CheckpointWriteError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Position", "load_newest_state", "save_state"]

_STATE = re.compile(r"state-(\d+)")


@dataclass
class Position:
    """How far a run is; saved with its state."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """Epochs done."""
    data: dict[str, Any] | None = None
    """Place in the data of the last batch that was used; None at the head of an epoch."""
    best: float | None = None
    """Metric of the best evaluation so far."""
    best_step: int | None = None
    without_better: int = 0
    """Evaluations since the best one."""
    evaluated: int = 0
    """Step of the last evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for name, value in state.items():
            setattr(self, name, value)


def save_state(accelerator: Accelerator, output: Path, step: int) -> None:
    """Write ``state-STEP`` of all processes: weights, optimizer, random numbers, position; then drop older ones.

    It is written beside and renamed, so that a state is there whole or not at all.

    Raises:
        CheckpointWriteError: the disk is full or refuses; earlier states stay.
    """
    target, beside = output / f"state-{step}", output / f".state-{step}.tmp"
    if target.exists():
        return
    try:
        if accelerator.is_main_process:
            shutil.rmtree(beside, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(beside))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for file in beside.rglob("*"):
                if file.is_file():
                    with file.open("rb+") as opened:
                        os.fsync(opened.fileno())
            os.replace(beside, target)
        accelerator.wait_for_everyone()
    except Exception as error:  # safetensors has an error of its own for a full disk
        if accelerator.is_main_process:
            shutil.rmtree(beside, ignore_errors=True)
        raise CheckpointWriteError(
            f"the state was not written: {error}", path=target, hint="free some space, then do the same again"
        ) from error
    if accelerator.is_main_process:
        for older in _states(output):
            if older != target:
                shutil.rmtree(older, ignore_errors=True)


def load_newest_state(accelerator: Accelerator, output: Path) -> bool:
    """Put model, optimizer, random numbers and position back as in the newest state; False where there is none."""
    states = _states(output)
    if not states:
        return False
    accelerator.load_state(str(states[-1]))
    return True


def _states(output: Path) -> list[Path]:
    """The states in a folder, the newest last."""
    found = [path for path in output.glob("state-*") if _STATE.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("state-")))
