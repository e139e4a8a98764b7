"""Vectors per frame for Stable Video Diffusion: actions, a camera's path, a speed, beside the picture that it animates.

SVD's network has one embedding of the noise level for all frames of a clip, repeated for each. What vectors say of a
frame, and their sums up to it, is added there, before every block, through layers that begin at zero (see
models/conditions.py): the pretrained model is left as it is until they are trained, and wherever vectors are absent.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from models.conditions import ConditionEncoder, ConditionSettings, steer_blocks


def add_steering(unet: nn.Module, settings: ConditionSettings) -> None:
    """Let a UNetSpatioTemporalConditionModel take the vectors of these settings, see `steered`. Raises ValueError for
    settings with known places or maps."""
    if settings.known or settings.maps:
        raise ValueError("Stable Video Diffusion takes vectors per frame, and no known places or maps")
    width, embedded = unet.conv_in.out_channels, unet.time_embedding.linear_2.out_features
    unet.conditions = ConditionEncoder(settings, unet.config.in_channels, 1, width, embedded if settings.sums else None)
    unet.conditions.given = {}

    def steering(embedding: Tensor) -> Tensor | None:
        if not unet.conditions.given:
            return None
        added = unet.conditions(unet.conditions.given)[1].flatten(0, 1)  # (B*T, embedded)
        return _repeated(added, embedding)

    def joined(conv_in: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        if not unet.conditions.given:
            return None
        added = unet.conditions(unet.conditions.given)[0].transpose(1, 2).flatten(0, 1)  # (B*T, width, 1, 1)
        return output + _repeated(added, output)

    if settings.sums:
        steer_blocks(unet, steering)
    else:
        unet.conv_in.register_forward_hook(joined)


def _repeated(added: Tensor, like: Tensor) -> Tensor:
    """For each half of a batch that guidance has doubled."""
    return added.repeat(len(like) // len(added), *[1] * (added.dim() - 1)).to(like.dtype)


@contextmanager
def steered(unet: nn.Module, given: dict[str, Tensor] | None) -> Iterator[None]:
    """Within the block the network is given vectors (B, T, D + 1), as vector_steps in models/diffusion/known.py makes
    them; None or {} for none."""
    encoder = getattr(unet, "conditions", None)
    if encoder is None:
        yield
        return
    encoder.given = {name: each.to(next(encoder.parameters()).device) for name, each in (given or {}).items()}
    try:
        yield
    finally:
        encoder.given = {}


def split_steering(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(weights of the network itself, those of the layers that take vectors) by name."""
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("conditions.")}
    return own, {name.removeprefix("conditions."): tensors[name] for name in tensors.keys() - own.keys()}
