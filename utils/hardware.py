"""What the hardware is good at."""

from functools import cache

import torch

from utils.cli import UserError


@cache
def multiplies_in_bf16(device_type: str) -> bool:
    """Whether a "cpu" or "cuda" device computes matrix products in bfloat16 itself. What only emulates it, as most CPUs
    do, is several times slower in it than in float32."""
    if device_type == "cpu":
        return torch.cpu._is_avx512_bf16_supported()
    return device_type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def choose_precision(name: str, on_cpu: bool) -> str:
    """`name`, or for "auto" bf16 where the hardware multiplies in it, else no. Raises UserError for fp16 on a CPU."""
    if name == "fp16" and on_cpu:
        raise UserError("--mixed_precision: fp16 needs a GPU; use bf16, or no")
    if name != "auto":
        return name
    return "bf16" if multiplies_in_bf16("cpu" if on_cpu else "cuda") else "no"
