"""What a GPU would see. On the meta device nothing can be read and nothing on the CPU can be mixed in: what runs there
keeps to its device, and never waits for it."""

import contextlib

import pytest
import torch

from benchmarks.svd.networks import make_pipeline, tiny_networks
from benchmarks.svd.recipes import VARIANTS, Clip
from benchmarks.svd.times import TrainingStep
from models import layers
from models.diffusion.sampling import SAMPLERS
from models.diffusion.text2video import PREDICTION_TYPES, TextToVideoDiffusion
from models.layers import attend
from models.unet3d import UNet3D
from tests.conftest import TINY_UNET
from utils.training.ema import moving_average
from utils.training.optimizers import BatchedMuon


def on_meta(**settings):
    diffusion = TextToVideoDiffusion(UNet3D(**TINY_UNET, patch_size=2), **settings).to("meta")
    video, text = torch.empty(2, 3, 4, 16, 16, device="meta"), torch.empty(2, 5, 16, device="meta")
    return diffusion, video, text, torch.empty(2, 5, dtype=torch.bool, device="meta")


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("sampling", ["uniform", "logit_normal"])
def test_a_training_step_keeps_to_its_device(prediction_type, sampling):
    weighting = "none" if prediction_type == "epsilon" else "snr_plus_one"
    settings = {"prediction_type": prediction_type, "loss_weighting": weighting, "timestep_sampling": sampling}
    diffusion, video, text, mask = on_meta(**settings)
    parameters = list(diffusion.parameters())
    diffusion(video, text, mask).backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    BatchedMuon([parameter for parameter in parameters if parameter.dim() > 1], 1e-3).step()
    moving_average(parameters, 0.9).step(parameters)
    assert {parameter.device.type for parameter in parameters} == {"meta"}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("thresholding", ["static", "dynamic"])
def test_a_sampling_step_keeps_to_its_device(sampler, thresholding):
    diffusion, _, text, _ = on_meta()
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    size = {"num_frames": 4, "height": 16, "width": 16, "num_inference_steps": 3}
    more = {"guidance_scale": 2.0, "guidance_rescale": 0.5, "thresholding": thresholding, "generators": generators}
    videos = diffusion.sample(text, negative_embeddings=text, sampler=sampler, **size, **more)
    assert videos.is_meta and videos.shape == (2, 3, 4, 16, 16)


@pytest.mark.parametrize("name", ["peer", "no cache"])
def test_a_step_of_svd_keeps_to_its_device(monkeypatch, name):
    """Noise, noise levels, dropped images, frame rates: all that is drawn on the CPU is brought there."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # the meta device has none
    step = TrainingStep(VARIANTS[name], make_pipeline(tiny_networks(), "meta"), Clip(64, 64, 4), bf16=False)
    step.forward(*step.inputs()).backward()
    assert all(parameter.grad.is_meta for parameter in step.parameters)


def test_nothing_is_sent_to_the_device_for_positions(monkeypatch):
    """A list that becomes a tensor on a GPU has to be waited for; it is sent once."""
    layers.fourier_features(2, 4, 4, "meta")
    monkeypatch.setattr(torch, "tensor", None)
    assert layers.fourier_features(2, 4, 4, "meta").shape == (2, 4, 4, layers.POSITION_DIM)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("limit", "most"), [("MOST_BATCH", 3), ("MOST_ELEMENTS", 3 * 2 * 128 * 32)])
def test_a_batch_too_large_for_a_kernel_is_attended_to_in_parts(monkeypatch, limit, most, masked):
    q, k, v = torch.randn(3, 7, 2, 5, 4, requires_grad=True).unbind()
    mask = torch.rand(7, 1, 1, 5) > 0.3 if masked else None
    if masked:
        mask[..., 0] = True
    sizes, kernel = [], layers.scaled_dot_product_attention

    def counted(q, k, v, attn_mask):
        sizes.append(len(q))
        return kernel(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(layers, "scaled_dot_product_attention", counted)
    expected = attend(q, k, v, mask)
    monkeypatch.setattr(layers, limit, most)
    torch.testing.assert_close(attend(q, k, v, mask), expected)
    assert sizes == [7, 3, 3, 1]
