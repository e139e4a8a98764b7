"""The moving average of the weights."""

import torch
from diffusers.training_utils import EMAModel

from utils.training.ema import ema_weights


def test_moving_average_is_lent_and_the_live_weights_come_back():
    layer = torch.nn.Linear(2, 2)
    ema = EMAModel(layer.parameters(), decay=0.5)
    live = [parameter.clone() for parameter in layer.parameters()]
    with torch.no_grad():
        for shadow in ema.shadow_params:
            shadow.fill_(7)
    with ema_weights(ema, layer.parameters()):
        assert (layer.weight == 7).all()
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), live, strict=True))
