"""Optimizers and their learning rates: AdamW, or Muon for the matrices with AdamW for the rest."""

import importlib.util
import math

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT
from transformers.optimization import get_wsd_schedule

from utils.cli import UserError
from utils.hardware import multiplies_in_bf16

OPTIMIZERS = ("adamw", "muon")
# Of the learning rate, for all but the matrices: what is best for these is too fast for AdamW.
REST = 0.5
# Of Newton and Schulz; torch takes 5. With 3 a step of the demo is a tenth cheaper and teaches as much.
NS_STEPS = 3
NS_COEFFICIENTS = (3.4445, -4.775, 2.0315)  # Jordan's


class BatchedMuon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) with momentum of Nesterov and the step size of AdamW (Liu et al. 2025, eq. 4 of
    arXiv:2502.16982), matrices of one shape at a time.

    A small U-Net has a hundred and more small matrices. One after the other they take a quarter of a training step on a
    CPU, together less than a tenth. State and result are those of torch.optim.Muon, which rounds to bfloat16 also where
    the hardware does not compute in it. That takes matrices alone; here a kernel (out, in, t, h, w) counts as a matrix
    (out, in*t*h*w), as in Jordan's own.
    """

    def __init__(self, params: ParamsT, lr: float, weight_decay: float = 0.01, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            for matrix in matrices:
                if not self.state[matrix]:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
            gradients = [matrix.grad for matrix in matrices]
            buffers = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
            torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, buffers, group["momentum"])
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])

            same_shape: dict[tuple[int, ...], list[tuple]] = {}
            for matrix, update in zip(matrices, updates, strict=True):
                same_shape.setdefault(tuple(matrix.shape), []).append((matrix, update))
            for shape, pairs in same_shape.items():
                directions = orthogonalise(torch.stack([update.flatten(1) for _, update in pairs]))
                step_size = 0.2 * math.sqrt(max(directions.shape[1:])) * group["lr"]
                directions = directions.reshape(-1, *shape).unbind()
                torch._foreach_add_([matrix for matrix, _ in pairs], directions, alpha=-step_size)


def orthogonalise(matrices: Tensor, num_steps: int = NS_STEPS, dtype: torch.dtype | None = None) -> Tensor:
    """Each of (N, rows, columns) with its singular values moved near to 1, by Newton and Schulz's iteration (Jordan et
    al. 2024), x <- (a + b x x' + c (x x')^2) x; returned in float32.

    dtype: what x is multiplied in. By default bfloat16, as in torch's Muon, where the hardware computes in it, else
    float32: a CPU that has to emulate bfloat16 takes eight times as long in it.

    All that multiplies x are polynomials of x x': for a long matrix it is cheaper to follow that small square alone, in
    float32 since its small eigenvalues are squares, and to touch x once.
    """
    a, b, c = NS_COEFFICIENTS
    dtype = dtype or (torch.bfloat16 if multiplies_in_bf16(matrices.device.type) else torch.float32)
    x = matrices.to(dtype)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if x.shape[2] >= 3 * x.shape[1]:
        gram = x.float() @ x.float().mT
        eye, total = torch.eye(x.shape[1], device=x.device), None
        for step in range(num_steps):
            factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * eye
            total = factor if total is None else factor @ total
            if step < num_steps - 1:
                gram = factor @ gram @ factor
        x = total.to(dtype) @ x
    else:
        for _ in range(num_steps):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for weight matrices and kernels of convolutions, and AdamW for all else, as one optimizer.

    The update of a matrix has all its singular values equal, so that rare directions, such as the one word that says
    where to go, are learnt as fast as common ones. matrices: parameters with two dimensions or more; rest: any others,
    with their learning rate halved. lr, betas (of AdamW) and weight_decay are as in AdamW; momentum is Muon's.
    """

    def __init__(
        self,
        matrices: ParamsT,
        rest: ParamsT,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ):
        self.muon = BatchedMuon(matrices, lr, weight_decay, momentum)
        self.adamw = torch.optim.AdamW(rest, REST * lr, betas, weight_decay=weight_decay, fused=True)
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """One set of groups (what a schedule changes) and one state (what a checkpoint holds) for both optimizers."""
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self.muon.state = self.adamw.state = self.state

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.muon.step()
        self.adamw.step()
        return loss


def adamw_of_bits(
    name: str,
    parameters: list[nn.Parameter],
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    device: torch.device,
) -> torch.optim.Optimizer:
    """AdamW over what will learn on this device: "adamw", or "adamw8bit" with states of 8 bits (Dettmers et al. 2021,
    arXiv:2110.02861), or "auto", which is that on a CUDA card with bitsandbytes. Raises UserError where that is not."""
    settings = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
    available = device.type == "cuda" and importlib.util.find_spec("bitsandbytes") is not None
    if name == "adamw8bit" and not available:
        raise UserError("--optimizer: adamw8bit needs a CUDA card and `pip install bitsandbytes`; use adamw, or auto")
    if name == "adamw" or not available:
        return torch.optim.AdamW(parameters, fused=True, **settings)
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(parameters, **settings)


def make_optimizer(
    name: str, model: nn.Module, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer of that name for all parameters of `model` that learn.

    Muon is for what lies inside; embeddings, and the convolutions from pixels and to pixels (conv_in and conv_out), are
    left to AdamW, as Jordan advises.
    """
    learning = {parameter for parameter in model.parameters() if parameter.requires_grad}
    if name == "adamw":
        parameters = [parameter for parameter in model.parameters() if parameter in learning]
        return torch.optim.AdamW(parameters, learning_rate, betas, weight_decay=weight_decay, fused=True)
    if name != "muon":
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {name!r}")
    ends = {
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        or (name.split(".")[-1] in ("conv_in", "conv_out") and isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear))
    }
    ordered = [parameter for parameter in model.parameters() if parameter in learning]
    matrices = [parameter for parameter in ordered if parameter.dim() >= 2 and parameter not in ends]
    chosen = set(matrices)
    rest = [parameter for parameter in ordered if parameter not in chosen]
    return MuonWithAdamW(matrices, rest, learning_rate, betas, weight_decay)


def learning_rate_schedule(name: str, optimizer: torch.optim.Optimizer, warmup: int, num_steps: int):
    """A schedule by its name in diffusers, or "warmup_stable_decay": constant, then linear to zero over the second half
    (Hu et al. 2024, arXiv:2404.06395). The warm-up takes at most a tenth of the steps."""
    warmup = min(warmup, num_steps // 10)
    if name == "warmup_stable_decay":
        decay = (num_steps + 1) // 2
        return get_wsd_schedule(optimizer, warmup, decay, num_training_steps=num_steps, decay_type="linear")
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)
