"""A run under FSDP on processors, stopped and resumed in one process: for torchrun.

accelerate shards on GPUs alone; torch's FSDP 2 does so anywhere.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from accelerate import state
from accelerate.utils import DistributedType

from vedcore.training import loop, train

begin, step = state.AcceleratorState.__init__, loop.TrainingLoop._step


def sharding(self: Any, *args: Any, **options: Any) -> None:
    begin(self, *args, **options)
    if "fsdp_plugin" in options:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, options["fsdp_plugin"]
        state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def stopping(self: Any, batches: Any) -> Any:
    values = step(self, batches)
    if self.position.step == 2 and self.accelerator.is_main_process:
        signal.raise_signal(signal.SIGINT)
    return values


if __name__ == "__main__":
    state.AcceleratorState.__init__ = sharding  # type: ignore[method-assign]
    config, rows, output = map(Path, sys.argv[1:])
    loop.TrainingLoop._step = stopping  # type: ignore[method-assign]
    try:
        train(config, rows, output)
    except KeyboardInterrupt:
        loop.TrainingLoop._step = step  # type: ignore[method-assign]
        train(config, rows, output)
