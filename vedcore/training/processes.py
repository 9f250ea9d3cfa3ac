"""The processes of a run: accelerate's object for each, with its trackers."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vedcore.errors import MissingExtraError, UsageError, warn_caller
from vedcore.training.config import TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["accelerator_for"]


def accelerator_for(config: TrainingConfig, output: Path) -> Accelerator:
    """accelerate's object for this process, with the trackers that the config names.

    Raises:
        UsageError: what several processes or FSDP cannot do.
        MissingExtraError: a tracker that is not installed.
    """
    for tracker in config.report_to:
        if importlib.util.find_spec(tracker) is None:  # accelerate would go on without it
            message, hint = f"{tracker} is not installed", f"pip install {tracker}"
            raise MissingExtraError(message, field="train.report_to", hint=hint)
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # as Trainer does: an earlier run of this process may have another precision
    precision = "bf16" if config.bf16 else "fp16" if config.fp16 else "no"
    found = Accelerator(
        mixed_precision=precision,
        cpu=not torch.accelerator.is_available(),  # else processes without a device do not find each other
        log_with=list(config.report_to) or None,
        project_dir=str(output),
        # a layer that LayerDrop leaves out has no gradient
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if config.unfreeze_at and found.num_processes > 1:
        message, hint = "several processes agree on what is trained when they begin", "leave it out, or run one process"
        raise UsageError(message, field="train.unfreeze_at", hint=hint)
    if found.distributed_type.value == "FSDP":
        check_sharding(found.state.fsdp_plugin)
    elif os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        warn_caller("each process has the whole model: accelerate shards only on GPUs, in processes of torchrun's")
    if config.report_to:
        found.init_trackers("vedcore", {k: v for k, v in config.to_dict().items() if isinstance(v, (int, float, str))})
    return found


def check_sharding(plugin: Any) -> None:
    """Refuse settings of FSDP under which a run would fail or go wrong.

    Raises:
        UsageError: FSDP 1; loading by the first process alone, which takes shared weights apart.
    """
    if plugin.fsdp_version != 2:
        hint = "set fsdp_version: 2 in accelerate's config"
        raise UsageError(f"FSDP {plugin.fsdp_version} is not supported", field="fsdp_version", hint=hint)
    if plugin.cpu_ram_efficient_loading:
        message, hint = "weights that layers share would be taken apart", "set it to false in accelerate's config"
        raise UsageError(message, field="fsdp_cpu_ram_efficient_loading", hint=hint)
