"""The optimizers of the text-to-video trainer: AdamW, or Muon for the matrices with AdamW for the rest."""

import math

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

OPTIMIZERS = ("adamw", "muon")
# Of the learning rate, for all but the matrices: what is best for these is too fast for AdamW.
REST = 0.5
# Of Newton and Schulz; torch takes 5. With 3 a step of the demo is a tenth cheaper and teaches as much.
NS_STEPS = 3


class BatchedMuon(torch.optim.Muon):
    """torch's Muon with momentum of Nesterov and the step size of AdamW, matrices of one shape at a time.

    A small U-Net has a hundred and more small matrices. One after the other they take a quarter of a training step on a
    CPU, together less than a tenth. Parameters, state and result are torch's, rounding in bfloat16 apart.
    """

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
                directions = orthogonalise(
                    torch.stack([update for _, update in pairs]),
                    group["ns_coefficients"],
                    group["ns_steps"],
                    group["eps"],
                )
                step_size = 0.2 * math.sqrt(max(shape)) * group["lr"]  # "match_rms_adamw"
                torch._foreach_add_([matrix for matrix, _ in pairs], directions.unbind(), alpha=-step_size)


def orthogonalise(matrices: Tensor, coefficients: tuple[float, float, float], num_steps: int, eps: float) -> Tensor:
    """Each of (N, rows, columns) with its singular values moved near to 1, by Newton and Schulz's iteration (Jordan et
    al. 2024), in bfloat16 as torch's Muon does; returned in float32."""
    a, b, c = coefficients
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon (Jordan et al. 2024; scaled to the step size of AdamW, Liu et al. 2025, arXiv:2502.16982, eq. 4) for
    weight matrices, and its AdamW for all that is no matrix, as one optimizer.

    The update of a matrix has all its singular values equal, so that rare directions, such as the one word that says
    where to go, are learnt as fast as common ones. matrices: parameters with two dimensions; rest: any parameters, with
    their learning rate halved. lr, betas (of AdamW) and weight_decay are as in AdamW; momentum is Muon's.
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
        self.muon = BatchedMuon(matrices, lr, weight_decay=weight_decay, momentum=momentum, ns_steps=NS_STEPS)
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


def make_optimizer(
    name: str, model: nn.Module, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer of that name for all parameters of `model` that learn; embedding tables count as no matrices."""
    learning = {parameter for parameter in model.parameters() if parameter.requires_grad}
    if name == "adamw":
        parameters = [parameter for parameter in model.parameters() if parameter in learning]
        return torch.optim.AdamW(parameters, learning_rate, betas, weight_decay=weight_decay, fused=True)
    if name != "muon":
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {name!r}")
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    ordered = [parameter for parameter in model.parameters() if parameter in learning]
    matrices = [parameter for parameter in ordered if parameter.dim() == 2 and parameter not in tables]
    chosen = set(matrices)
    rest = [parameter for parameter in ordered if parameter not in chosen]
    return MuonWithAdamW(matrices, rest, learning_rate, betas, weight_decay)
