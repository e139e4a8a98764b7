"""The processes of a training, and the devices they work on."""

import re
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from torch import nn

from utils.arguments.training import TRACKERS
from utils.cli import UserError
from utils.hardware import choose_precision

SPREAD = ("text2video", "svd")  # trainings that FSDP may spread; the others' networks are small


def make_accelerator(args, name: str, run_dir: Path) -> Accelerator:
    """Devices, precision and processes as the flags of utils/arguments/training.py ask for. name: of the training, see
    SPREAD. Raises UserError where FSDP cannot spread it."""
    # Without cpu=True the processes of torchrun on a CPU do not find each other, and each trains alone.
    on_cpu = not torch.accelerator.is_available()
    # An adopted image model leaves out what is over time where a batch is of pictures.
    unused = DistributedDataParallelKwargs(find_unused_parameters=bool(getattr(args, "image_share", 0)))
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=choose_precision(args.mixed_precision, on_cpu),
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=TRACKERS[args.report_to] or None,
        project_dir=run_dir,
        kwargs_handlers=[unused],
    )
    if accelerator.distributed_type == DistributedType.FSDP:
        if name not in SPREAD:
            raise UserError("FSDP spreads no network of this script; launch it with configs/accelerate/ddp.yaml")
        if args.optimizer == "muon":
            raise UserError(
                "--optimizer: muon needs whole matrices, which FSDP cuts up; use adamw, or another configuration"
            )
    return accelerator


def fit_fsdp(accelerator: Accelerator, model: nn.Module) -> None:
    """Say what of a model FSDP spreads over the processes; nothing without FSDP.

    Its configuration lists layers of all our networks, of which a model has some. Parts in which nothing learns (an
    autoencoder, a text encoder) stay whole: they are called by themselves, where FSDP would not gather them.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    frozen = [name for name, part in model.named_children() if not any(p.requires_grad for p in part.parameters())]
    plugin.ignored_modules = "|".join(map(re.escape, frozen)) or None
    layers = {type(module).__name__ for module in model.modules()}
    layers -= {type(module).__name__ for name in frozen for module in model.get_submodule(name).modules()}
    listed = [name.strip() for name in plugin.transformer_cls_names_to_wrap or ()]
    plugin.transformer_cls_names_to_wrap = [name for name in listed if name in layers]


def any_process(accelerator, flag: bool) -> bool:
    """Whether `flag` is set on any of the processes."""
    if accelerator.num_processes == 1:
        return flag
    return accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)).item() > 0
