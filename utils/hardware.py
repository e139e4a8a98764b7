"""What the hardware is good at."""

import torch

from utils.cli import UserError


def choose_precision(name: str, on_cpu: bool) -> str:
    """`name`, or for "auto" bf16 where the hardware multiplies in it, else no. Raises UserError for fp16 on a CPU."""
    if name == "fp16" and on_cpu:
        raise UserError("--mixed_precision: fp16 needs a GPU; use bf16, or no")
    if name != "auto":
        return name
    native = (
        torch.cpu._is_avx512_bf16_supported() if on_cpu else torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return "bf16" if native else "no"
