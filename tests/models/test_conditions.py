"""Conditions: identities at the start, nothing where absent, and what reaches the network where they are present."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from models.adapters.motion_unet import MotionUNet
from models.autoencoder import VideoAutoencoder
from models.conditions import FRAMES_OF_A_SUM, ConditionSettings, FrameEncoder, kept_places, without
from models.diffusion.known import held, known_places, map_places, on_the_grid, vector_steps
from models.diffusion.tasks import TASKS, draw_tasks
from models.diffusion.text2video import TextToVideoDiffusion
from models.patch_autoencoder import PatchAutoencoder
from models.unet3d import UNet3D
from tests.conftest import TINY_UNET
from tests.tiny_models import TINY_SD_UNET

SPEED = {"names": ["dx", "dy"], "mean": [1.0, 2.0], "std": [2.0, 4.0]}
SETTINGS = ConditionSettings(known=True, maps={"depth": 1, "flow": 2}, vectors={"speed": SPEED})
TEXT = 8
# Of the motion network also one from before there were sums.
KINDS = {"unet3d": SETTINGS, "motion": replace(SETTINGS, sums=True), "older motion": SETTINGS}


def networks() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    unet = UNet3D(**TINY_UNET | {"cross_attention_dim": TEXT, "patch_size": 2})
    torch.manual_seed(0)
    motion = MotionUNet.from_image_model(
        UNet2DConditionModel(**TINY_SD_UNET | {"cross_attention_dim": TEXT, "in_channels": 3, "out_channels": 3})
    )
    networks = {"unet3d": unet, "motion": motion, "older motion": motion}
    for network in networks.values():
        for parameter in network.parameters():  # a trained one: nothing is zero any more
            torch.nn.init.normal_(parameter, std=0.05)
    return networks


def given(batch: int = 2, frames: int = 3, size: int = 16) -> dict[str, torch.Tensor]:
    shape, present = (frames, size, size), torch.ones(batch)
    mask = (torch.rand(batch, 1, *shape) < 0.5).float()
    return {
        "known": known_places(torch.rand(batch, 3, *shape) * 2 - 1, mask, None),
        "depth": map_places(torch.rand(batch, 1, *shape), present, SETTINGS, frames),
        "flow": map_places(torch.rand(batch, 2, *shape), present, SETTINGS, frames),
        "speed": vector_steps(torch.rand(batch, frames, 2), present, SPEED, SETTINGS, frames),
    }


def inputs(batch: int = 2, frames: int = 3, size: int = 16) -> tuple:
    return torch.randn(batch, 3, frames, size, size), torch.tensor([3] * batch), torch.randn(batch, 2, TEXT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_condition_changes_nothing_to_the_bit(kind):
    network, clip = networks()[kind].eval(), inputs()
    before = network(*clip)
    network.add_conditions(KINDS[kind])
    assert torch.equal(network(*clip), before)
    assert torch.equal(network(*clip, conditions=given()), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETTINGS.names)
def test_an_absent_condition_changes_nothing_to_the_bit_after_training(kind, name):
    network, clip = networks()[kind].eval(), inputs()
    before = network(*clip)
    network.add_conditions(KINDS[kind])
    for parameter in network.conditions.parameters():
        torch.nn.init.normal_(parameter)
    known = given()
    assert not torch.equal(network(*clip, conditions={name: known[name]}), before)
    absent = without({name: known[name]}, name)
    assert torch.equal(network(*clip, conditions=absent), before)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_and_maps_reach_their_own_frame(kind):
    """A network without anything over time: what is given of the last frame changes that one alone."""
    network = networks()[kind]
    network.add_conditions(KINDS[kind])
    for parameter in network.conditions.parameters():
        torch.nn.init.normal_(parameter)
    one, two = given(1), given(1)
    for name in ("depth", "speed"):
        other = one[name].clone()
        last = (slice(None), -1) if name == "speed" else (slice(None), slice(None), -1)
        other[last] = two[name][last]
        for found, changed in zip(
            network.conditions({name: one[name]}), network.conditions({name: other}), strict=True
        ):
            if found is not None:
                time = 1 if found.dim() == 3 else 2
                same = [torch.equal(a, b) for a, b in zip(found.unbind(time), changed.unbind(time), strict=True)]
                assert same == [True, True, False]


@pytest.mark.parametrize("fold", [1, 2])
def test_sums_are_those_of_all_frames_up_to_each(fold):
    """The frames that a step in time holds count one by one, and an absent vector has none."""
    torch.manual_seed(0)
    encoder = FrameEncoder((2 + 1) * fold, fold, 16, sums=True)
    plain = FrameEncoder((4 + 1) * fold, fold, 16)
    for one in (encoder, plain):
        torch.nn.init.normal_(one.linear_out.weight)
    plain.load_state_dict(encoder.state_dict())
    vectors = torch.randn(2, 6, 2)
    summed = torch.from_numpy(np.cumsum(vectors.numpy(), axis=1)) / FRAMES_OF_A_SUM
    present = torch.ones(2, 6, 1)

    def steps(*parts: torch.Tensor) -> torch.Tensor:
        return torch.cat(parts, dim=2).unflatten(1, (6 // fold, fold)).flatten(2)

    found = encoder(steps(vectors, present))
    assert torch.allclose(found, plain(steps(vectors, summed, present)), atol=1e-5)
    assert encoder(torch.zeros_like(steps(vectors, present))).abs().max() == 0


def test_what_a_model_does_not_know_is_refused_with_what_it_does():
    network = networks()["unet3d"]
    network.add_conditions(ConditionSettings(maps={"depth": 1}))
    with pytest.raises(ValueError, match="no condition 'audio': this model knows depth"):
        network(*inputs(), conditions={"audio": torch.zeros(2, 3, 5)})
    with pytest.raises(ValueError, match="'depth' has 4 numbers, the model was trained with 2"):
        network(*inputs(), conditions={"depth": torch.zeros(2, 4, 3, 16, 16)})
    with pytest.raises(ValueError, match="letters, digits"):
        network.add_conditions(ConditionSettings(maps={"my.depth": 1}))


def test_settings_survive_as_plain_data():
    settings = ConditionSettings(True, {"depth": 1}, {"speed": SPEED}, (4, 16), {"text": 1.0})
    assert ConditionSettings.from_plain(settings.plain()) == settings


def test_frames_of_which_nothing_is_known_hold_the_nearest_that_is():
    videos = torch.arange(1.0, 6.0).reshape(1, 1, 5, 1, 1).expand(2, 1, 5, 2, 2)
    mask = torch.zeros(2, 1, 5, 2, 2)
    mask[0, :, [0, 4]] = 1
    mask[1, :, 2, 0] = 1
    found = held(videos, mask)
    assert found[0, 0, :, 0, 0].tolist() == [1, 1, 1, 5, 5]
    assert found[1, 0, :, 0, 0].tolist() == [3] * 5 and found[1, 0, :, 1].abs().max() == 0
    assert held(videos, torch.zeros_like(mask)).abs().max() == 0


def test_places_of_a_causal_autoencoder_repeat_the_first_frame():
    """Five frames are two places in time: the first frame alone, and the other four."""
    maps = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 1, 5, 8, 8)
    places = on_the_grid(maps, 2, 4, 8)
    assert places.shape == (1, 4 * 64, 2, 1, 1)
    in_time = places.reshape(4, 64, 2)[:, 0]
    assert in_time[:, 0].tolist() == [0, 0, 0, 0] and in_time[:, 1].tolist() == [1, 2, 3, 4]
    vectors = torch.arange(5.0).reshape(1, 5, 1)
    about, settings = {"names": ["t"], "mean": [0.0], "std": [1.0]}, ConditionSettings(fold=(4, 8))
    steps = vector_steps(vectors, torch.ones(1), about, settings, 2)
    assert steps[0].tolist() == [[0, 1, 0, 1, 0, 1, 0, 1], [1, 1, 2, 1, 3, 1, 4, 1]]


def test_known_places_in_latents_are_those_of_what_is_known():
    torch.manual_seed(0)
    autoencoder = VideoAutoencoder(PatchAutoencoder(latent_channels=4, patch_size=(2, 8), width=8).eval())
    videos, mask = torch.rand(2, 3, 4, 16, 16) * 2 - 1, torch.zeros(2, 1, 4, 16, 16)
    mask[0, :, 0] = 1
    found = known_places(videos, mask, autoencoder)
    still = autoencoder.encode(videos[:1, :, :1].expand(-1, -1, 4, -1, -1))
    assert torch.allclose(found[:1, :4], still, atol=1e-6)
    assert found[0, 4:, 0].sum() == 256 and found[0, 4:, 1].sum() == 0  # the mask: one frame of two in the first place
    assert found[1].abs().max() == 0
    clips, kept = kept_places({"known": found}, 4)
    assert torch.equal(clips, found[:, :4]) and kept.max() == 0  # half of a place is known, which cannot be kept
    whole = known_places(videos, torch.ones_like(mask), autoencoder)
    assert kept_places({"known": whole}, 4)[1].min() == 1 and kept_places({}, 4) is None
    settings = ConditionSettings(known=True, fold=(autoencoder.layout.time, autoencoder.layout.space))
    assert found.shape[1] == settings.channels(4)["known"]


def test_vectors_are_normalised_and_what_is_absent_is_zero():
    maps = map_places(torch.ones(2, 1, 1, 4, 4), torch.tensor([1.0, 0.0]), SETTINGS, 1)
    assert (maps[0] == 1).all() and (maps[1] == 0).all()
    vectors = torch.tensor([[[3.0, 2.0]], [[5.0, 6.0]]])
    steps = vector_steps(vectors, torch.tensor([1.0, 0.0]), SPEED, SETTINGS, 1)
    assert steps.tolist() == [[[1, 0, 1]], [[0, 0, 0]]]


class Linear(torch.nn.Module):
    """A network whose answer is the text plus ten times each condition."""

    config = type("Config", (), {"in_channels": 3})

    def forward(self, noisy, timesteps, text, mask=None, conditions=None):
        answer = text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1).expand_as(noisy).clone()
        for name, each in (conditions or {}).items():
            answer += {"depth": 10, "flow": 100}[name] * each.mean(dim=(1, 2, 3, 4)).reshape(-1, 1, 1, 1, 1)
        return answer


def test_each_condition_has_a_guidance_scale_of_its_own():
    diffusion = TextToVideoDiffusion(Linear(), prediction_type="sample", latents=True)
    seen = []
    diffusion.denoise = lambda *args: seen.append(TextToVideoDiffusion.denoise(diffusion, *args)) or seen[-1]
    one = torch.ones(1, 1, 2, 4, 4)
    settings = {"num_frames": 2, "height": 4, "width": 4, "num_inference_steps": 1, "guidance_scale": 3.0}
    conditions = {"conditions": {"depth": one, "flow": one}}
    text, negative = torch.full((1, 2, 4), 2.0), torch.full((1, 2, 4), 1.0)
    # negative + 3 (text - negative), then 10 and 100 for the conditions, once more 10 for a scale of 2
    for scales, expected in (({}, 114), ({"depth": 2.0}, 124), ({"depth": 0.0, "flow": 0.5}, 54)):
        diffusion.sample(text, None, negative, None, **settings, **conditions, condition_scales=scales)
        assert seen[-1].mean().item() == pytest.approx(expected)
    settings["guidance_scale"] = 1.0
    diffusion.sample(text, **settings, **conditions, condition_scales={"flow": 2.0})
    assert seen[-1].mean().item() == pytest.approx(212)
    with pytest.raises(ValueError, match="a scale for audio, which is not given"):
        diffusion.sample(text, **settings, **conditions, condition_scales={"audio": 2.0})


def test_windows_see_their_own_part_of_the_conditions():
    places = []

    class Network(Linear):
        def forward(self, noisy, timesteps, text, mask=None, conditions=None):
            places.append(conditions["depth"][0, 0, :, 0, 0].tolist())
            return noisy

    diffusion = TextToVideoDiffusion(Network(), prediction_type="sample", latents=True)
    depth = torch.arange(6.0).reshape(1, 1, 6, 1, 1).expand(1, 1, 6, 4, 4)
    size = {"num_frames": 6, "height": 4, "width": 4, "num_inference_steps": 1}
    diffusion.sample(torch.zeros(1, 1, 4), **size, window_frames=4, window_overlap=2, conditions={"depth": depth})
    assert places == [[0, 1, 2, 3], [2, 3, 4, 5]]


def test_replacement_keeps_what_is_known():
    diffusion = TextToVideoDiffusion(Linear(), prediction_type="sample", latents=True)
    clip, mask = torch.full((1, 3, 2, 4, 4), 7.0), torch.zeros(1, 1, 2, 4, 4)
    mask[:, :, 0] = 1
    size = {"num_frames": 2, "height": 4, "width": 4, "num_inference_steps": 4}
    found = diffusion.sample(torch.zeros(1, 1, 4), **size, sampler="ddim", replacement=(clip, mask))
    assert torch.allclose(found[:, :, 0], clip[:, :, 0]) and not torch.allclose(found[:, :, 1], clip[:, :, 1], atol=1)


@pytest.mark.parametrize("sampler", ["dpmpp_sde", "dpmpp", "unipc", "ddim", "euler", "ddpm"])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_a_start_is_left_as_far_as_strength_says(sampler, strength):
    """With a network that denoises perfectly for one value: what remains of the start is what the first step has."""
    calls = []

    class Network(Linear):
        def forward(self, noisy, timesteps, text, mask=None, conditions=None):
            calls.append((int(timesteps[0]), noisy.mean().item()))
            return torch.zeros_like(noisy)

    torch.manual_seed(0)
    diffusion = TextToVideoDiffusion(Network(), prediction_type="sample", latents=True)
    size = {"num_frames": 2, "height": 16, "width": 16, "num_inference_steps": 10}
    start = torch.full((1, 3, 2, 16, 16), 5.0)
    diffusion.sample(torch.zeros(1, 1, 4), **size, sampler=sampler, start=start, strength=strength)
    assert len(calls) == round(10 * strength)
    alpha = diffusion.alphas_cumprod[calls[0][0]].sqrt().item()
    assert calls[0][1] == pytest.approx(5 * alpha, abs=0.1)
    with pytest.raises(ValueError, match="strength"):
        diffusion.sample(torch.zeros(1, 1, 4), **size, start=start, strength=0.0)


# ---------------------------------------------------------------------------------------------------------- tasks

VIDEOS = torch.zeros(64, 3, 8, 16, 20)


def masks_of(task: str) -> torch.Tensor:
    torch.manual_seed(0)
    return draw_tasks({task: 1.0}, VIDEOS)[:, 0]


@pytest.mark.parametrize("task", TASKS)
def test_the_masks_of_a_task_are_what_its_name_says(task):
    masks = masks_of(task)
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    share = masks.mean(dim=(2, 3))  # of each frame (64, 8)
    whole = (share == 1).float() + 0.5 * ((share > 0) & (share < 1)).float()
    patterns = {"".join({0: ".", 0.5: "o", 1: "#"}[value] for value in row) for row in whole.tolist()}
    expected = {
        "text": {"........"},
        "first_frame": {"#......."},
        "continuation": {"#.......", "##......", "###.....", "####...."},
        "first_last": {"#......#"},
        "in_between": {"#.#.#.##", "#..#..##", "#...#..#"},
        "inpainting": {"oooooooo"},
        "outpainting": {"oooooooo"},
    }[task]
    assert patterns == expected


def test_holes_move_in_half_of_the_clips_and_what_outpainting_keeps_never_does():
    moved = (masks_of("inpainting").diff(dim=1).abs().amax(dim=(1, 2, 3)) > 0).float().mean()
    assert 0.3 < moved < 0.7
    assert (masks_of("outpainting").diff(dim=1) == 0).all()


def test_tasks_come_by_their_shares():
    torch.manual_seed(0)
    masks = draw_tasks({"text": 3.0, "first_frame": 1.0}, torch.zeros(4000, 3, 2, 2, 2))
    assert masks[:, 0, 0, 0, 0].mean().item() == pytest.approx(0.25, abs=0.03)
    with pytest.raises(ValueError, match="no task 'dance'"):
        draw_tasks({"dance": 1.0}, VIDEOS)
    with pytest.raises(ValueError, match="positive"):
        draw_tasks({"text": 0.0}, VIDEOS)
