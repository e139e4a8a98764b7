"""The network: shapes, what sees what, what starts as the identity, and that it saves and reloads."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.diffusion.text2video import TextToVideoDiffusion
from models.layers import (
    POSITION_DIM,
    Attention,
    ResnetBlock3D,
    SpatialTransformer,
    TemporalAttention,
    attend,
    attend_nearby,
    fourier_features,
)
from models.unet3d import UNet3D
from tests.conftest import TINY_UNET, awaken


@pytest.mark.parametrize("size", [(3, 32, 32), (16, 16, 32), (20, 40, 24)])
def test_one_set_of_weights_takes_any_length_and_size(tiny_unet, text, size):
    sample = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert tiny_unet(sample, torch.tensor([5]), text[:1]).shape == sample.shape


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_patch_stem_keeps_the_shape_and_covers_every_pixel(clip, text, patch_size):
    unet = awaken(UNet3D(**TINY_UNET, patch_size=patch_size))
    sample = clip.requires_grad_()
    output = unet(sample, torch.tensor([5, 6]), text)
    output.square().sum().backward()
    assert output.shape == clip.shape
    assert (sample.grad.abs() > 0).all()


def test_a_head_over_single_pixels_starts_as_nothing_and_then_sees_every_pixel(clip, text):
    plain, timesteps = awaken(UNet3D(**TINY_UNET, patch_size=4)), torch.tensor([5, 600])
    unet = UNet3D(**TINY_UNET, patch_size=4, pixel_channels=8)
    unet.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(unet(clip, timesteps, text), plain(clip, timesteps, text), rtol=0, atol=0)
        awaken(unet)
        changed = clip.clone()
        changed[:, :, :, 5, 5] += 1e-2
        head = unet(changed, timesteps, text) - unet(clip, timesteps, text)
        for parameter in unet.pixel_head.conv_out.parameters():
            parameter.zero_()
        patches = unet(changed, timesteps, text) - unet(clip, timesteps, text)
    local = (head - patches).abs().mean(dim=(0, 1, 2))
    assert local[5, 5] > 3 * local[0, 0] and local[5, 5] > 3 * local.mean()


def test_sizes_that_do_not_divide_are_refused_by_name(tiny_unet, text):
    with pytest.raises(ValueError, match="sides must divide by 2"):
        tiny_unet(torch.randn(2, 3, 4, 16, 17), torch.tensor([5, 6]), text)


def test_text_changes_the_output_and_masked_text_does_not(tiny_unet, clip, text):
    timesteps = torch.tensor([5, 600])
    mask = torch.tensor([[True, True, True, False, False]] * 2)
    other_padding = torch.cat([text[:, :3], torch.randn(2, 2, 16)], dim=1)
    other_text = torch.cat([torch.randn(2, 3, 16), text[:, 3:]], dim=1)
    with torch.no_grad():
        output = tiny_unet(clip, timesteps, text, mask)
        torch.testing.assert_close(output, tiny_unet(clip, timesteps, other_padding, mask), rtol=0, atol=1e-5)
        assert (output - tiny_unet(clip, timesteps, other_text, mask)).abs().max() > 1e-3


@pytest.mark.parametrize("length", [8, 9, 12, 31])
def test_attention_nearby_is_attention_with_a_mask_of_blocks(length):
    q, k, v = (torch.randn(3, 2, length, 8, requires_grad=True) for _ in range(3))
    block = torch.arange(length) // 4
    mask = (block[:, None] - block).abs() <= 1
    found, expected = attend_nearby(q, k, v, 4), attend(q, k, v, mask)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((each * weight).sum(), (q, k, v)) for each in (found, expected)]
    for own, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("joint", [False, True])
def test_a_window_is_all_frames_up_to_its_length_and_costs_linearly_beyond(joint):
    layer = awaken(TemporalAttention(16, 2, POSITION_DIM, joint, window=4))
    dense = TemporalAttention(16, 2, POSITION_DIM, joint)
    dense.load_state_dict(layer.state_dict())

    def run(layer, frames):
        torch.manual_seed(0)
        x, positions = torch.randn(2, 16, frames, 2, 3), fourier_features(frames, 2, 3)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # of others it counts nothing
            out = layer(x, positions)
        return out, counter.get_total_flops()

    torch.testing.assert_close(run(layer, 4)[0], run(dense, 4)[0])
    torch.testing.assert_close(run(layer, 3)[0], run(dense, 3)[0])
    assert (run(layer, 16)[0] - run(dense, 16)[0]).abs().max() > 1e-3
    assert run(layer, 32)[1] == 2 * run(layer, 16)[1]
    assert run(dense, 32)[1] > 2 * run(dense, 16)[1]


def test_default_has_cross_attention_in_every_residual_block():
    unet = UNet3D(**{**TINY_UNET, "channel_mult": (1, 2, 4), "layers_per_block": 2})
    modules = list(unet.modules())
    residual = sum(isinstance(module, ResnetBlock3D) for module in modules)
    assert residual == 2 * 3 + 2 + 3 * 3
    assert sum(isinstance(module, SpatialTransformer) for module in modules) == residual
    assert sum(isinstance(module, TemporalAttention) for module in modules) == residual


def test_levels_of_attention_can_be_chosen():
    unet = UNet3D(**TINY_UNET, cross_attention_levels=(False, True), temporal_attention_levels=(True, False))
    assert unet.down_blocks[0].attentions[0] is None and unet.down_blocks[1].attentions[0] is not None
    assert unet.down_blocks[0].temporal_attentions[0] is not None and unet.up_blocks[0].temporal_attentions[0] is None
    with pytest.raises(ValueError, match="cross_attention_levels has 3 entries for 2 levels"):
        UNet3D(**TINY_UNET, cross_attention_levels=(True, True, False))


def test_convolutions_reach_over_space_and_time():
    for conv_type, kernel in (("full", (3, 3, 3)), ("factorised", (3, 1, 1))):
        unet = UNet3D(**TINY_UNET, conv_type=conv_type)
        assert any(isinstance(module, nn.Conv3d) and module.kernel_size == kernel for module in unet.modules())


@pytest.mark.parametrize("conv_type", ["full", "factorised"])
def test_frames_influence_each_other_through_temporal_layers_alone(clip, text, conv_type):
    """With temporal attention, temporal taps and nothing else silenced, frame 3 cannot change frame 0."""
    unet = awaken(UNet3D(**TINY_UNET, conv_type=conv_type)).eval()
    changed = clip.clone()
    changed[:, :, 3] += 1
    timesteps = torch.tensor([5, 600])

    def influence() -> float:
        with torch.no_grad():
            difference = unet(clip, timesteps, text) - unet(changed, timesteps, text)
        return difference[:, :, 0].abs().max().item()

    assert influence() > 1e-3
    with torch.no_grad():
        for module in unet.modules():
            if isinstance(module, TemporalAttention):
                module.attn.to_out[0].weight.zero_()
            if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3:
                module.weight[:, :, [0, 2]] = 0
    assert influence() < 1e-5


def test_temporal_attention_alone_reaches_from_the_last_frame_to_the_first(clip, text):
    """Far frames meet in attention: five convolutions with three taps would not reach across 24 frames."""
    layer = awaken(TemporalAttention(8, 2, POSITION_DIM))
    x = torch.randn(1, 8, 24, 2, 2)
    changed = x.clone()
    changed[:, :, 23, 0, 0] += torch.randn(8)
    positions = fourier_features(24, 2, 2)
    difference = (layer(x, positions) - layer(changed, positions)).abs().amax(dim=1)[0]
    assert difference[0, 0, 0] > 1e-4
    assert difference[:, 1].max() == 0 and difference[:, 0, 1].max() == 0  # other places see nothing of it
    joint = awaken(TemporalAttention(8, 2, POSITION_DIM, joint=True))
    difference = (joint(x, positions) - joint(changed, positions)).abs().amax(dim=1)[0]
    assert difference[0, 1, 1] > 1e-5


def test_order_of_frames_matters_only_through_position_features(text):
    x, positions = torch.randn(1, 8, 6, 2, 2), fourier_features(6, 2, 2)
    layer = awaken(TemporalAttention(8, 2, POSITION_DIM))
    blind = awaken(TemporalAttention(8, 2, 0))
    assert not torch.allclose(layer(x.flip(2), positions), layer(x, positions).flip(2), atol=1e-3)
    torch.testing.assert_close(blind(x.flip(2), positions), blind(x, positions).flip(2), rtol=0, atol=1e-5)


def test_attention_in_bfloat16_on_the_cpu_equals_the_fused_kernel():
    q, k, v = torch.randn(3, 2, 4, 7, 8)
    mask = torch.tensor([[True] * 5 + [False] * 2] * 2)[:, None, None]
    expected = attend(q, k, v, mask)
    result = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)
    torch.testing.assert_close(result.float(), expected, rtol=0, atol=3e-2)


def test_attention_to_an_empty_text_is_finite():
    attention = Attention(8, 2, context_dim=4)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    assert torch.isfinite(attention(torch.randn(2, 5, 8), torch.randn(2, 3, 4), mask)).all()


def test_fourier_features_do_not_depend_on_the_resolution():
    coarse, fine = fourier_features(3, 4, 4), fourier_features(9, 12, 12)
    torch.testing.assert_close(fine[1::3, 1::3, 1::3], coarse)  # the centres of the coarse cells


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("conv_type", ["full", "factorised"])
def test_an_inflated_image_model_does_the_same_to_every_frame(conv_type, linear):
    image_unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32, 32),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=(2, 4, 4),
        norm_num_groups=8,
        use_linear_projection=linear,
    ).eval()
    unet = UNet3D.from_unet2d(image_unet, conv_type=conv_type).eval()
    sample, timesteps, text = torch.randn(2, 4, 3, 16, 16), torch.tensor([3, 800]), torch.randn(2, 7, 24)
    with torch.no_grad():
        frames = [image_unet(sample[:, :, i], timesteps, text).sample for i in range(3)]
        torch.testing.assert_close(unet(sample, timesteps, text), torch.stack(frames, dim=2), rtol=0, atol=1e-5)
        one = unet(sample[:, :, :1], timesteps, text)
    torch.testing.assert_close(one[:, :, 0], frames[0], rtol=0, atol=1e-5)  # a one-frame video is an image


def test_an_image_model_with_other_parts_is_refused_by_name():
    image_unet = UNet2DConditionModel(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=8,
        class_embed_type="timestep",
    )
    with pytest.raises(ValueError, match="no place for the image model's parameter class_embedding"):
        UNet3D.from_unet2d(image_unet)


def test_gradient_checkpointing_changes_no_gradient(tiny_unet, clip, text):
    def gradients():
        tiny_unet.zero_grad()
        tiny_unet(clip, torch.tensor([5, 600]), text).square().mean().backward()
        return [parameter.grad.clone() for parameter in tiny_unet.parameters()]

    plain = gradients()
    tiny_unet.enable_gradient_checkpointing()
    assert tiny_unet.is_gradient_checkpointing
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_every_parameter_is_trained(tiny_unet, clip, text):
    tiny_unet(clip, torch.tensor([5, 600]), text).square().mean().backward()
    assert [name for name, p in tiny_unet.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_saved_unet_reloads_with_config_and_weights(tiny_unet, tmp_path):
    tiny_unet.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    loaded = UNet3D.from_pretrained(tmp_path)
    assert loaded.config.channel_mult == [1, 2]
    same(tiny_unet, loaded)
    assert UNet3D.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).dtype == torch.bfloat16


class ConditionalUNet3D(UNet3D):
    """The guide's example, as printed there."""

    def __init__(self, additional_condition_dim, **kwargs):
        super().__init__(**kwargs)
        self.condition_proj = nn.Linear(additional_condition_dim, self.model_channels)


def test_the_guides_subclass_is_trained_saved_and_reloaded(tmp_path, clip, text):
    unet = ConditionalUNet3D(7, **TINY_UNET)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    before = unet.conv_in.weight.clone()
    TextToVideoDiffusion(unet)(clip, text).backward()
    optimizer.step()
    assert not torch.equal(before, unet.conv_in.weight)
    unet.save_pretrained(tmp_path)
    loaded = ConditionalUNet3D.from_pretrained(tmp_path)
    assert loaded.config.additional_condition_dim == 7 and loaded.config.model_channels == 16
    assert loaded.condition_proj.weight.shape == (16, 7)
    same(unet, loaded)


def same(a: nn.Module, b: nn.Module) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
