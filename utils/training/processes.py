"""The processes of a training, and the devices they work on."""

from pathlib import Path

import torch
from accelerate import Accelerator

from utils.arguments.training import TRACKERS
from utils.hardware import choose_precision


def make_accelerator(args, run_dir: Path) -> Accelerator:
    """Devices, precision and processes as the flags of utils/arguments/training.py ask for."""
    # Without cpu=True the processes of torchrun on a CPU do not find each other, and each trains alone.
    on_cpu = not torch.accelerator.is_available()
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=choose_precision(args.mixed_precision, on_cpu),
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=TRACKERS[args.report_to] or None,
        project_dir=run_dir,
    )


def any_process(accelerator, flag: bool) -> bool:
    """Whether `flag` is set on any of the processes."""
    if accelerator.num_processes == 1:
        return flag
    return accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)).item() > 0
