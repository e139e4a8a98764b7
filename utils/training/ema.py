"""The moving average of the weights, which samples are drawn from and which a run leaves."""

from collections.abc import Iterable
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch.distributed.tensor import DTensor


def moving_average(parameters: list[torch.nn.Parameter], decay: float) -> EMAModel | None:
    """The exponential moving average of the parameters; None for a decay of 0."""
    if decay == 0:
        return None
    foreach = not any(isinstance(parameter, DTensor) for parameter in parameters)  # FSDP's lack some of its operations
    return EMAModel(parameters, decay=decay, foreach=foreach)


@contextmanager
def ema_weights(ema: EMAModel | None, parameters: Iterable[torch.nn.Parameter]):
    """Inside the block the parameters hold their moving average; on exit the live values come back."""
    parameters = list(parameters)
    if ema is not None:
        ema.store(parameters)
        ema.copy_to(parameters)
    try:
        yield
    finally:
        if ema is not None:
            ema.restore(parameters)


@contextmanager
def evaluation_mode(*modules: torch.nn.Module):
    """Inside the block the modules are in eval mode; on exit they train again."""
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module in modules:
            module.train()
