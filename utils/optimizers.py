"""The optimizers of the text-to-video trainer: AdamW, or Muon for the matrices with AdamW for the rest."""

import torch
from torch import nn
from torch.optim.optimizer import ParamsT

OPTIMIZERS = ("adamw", "muon")
# Of the learning rate, for all but the matrices: what is best for these is too fast for AdamW.
REST = 0.5


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
        self.muon = torch.optim.Muon(
            matrices, lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
        )
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
