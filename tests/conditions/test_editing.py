"""Editing: what lies outside a mask stays to the bit, inversion comes back, and models of each kind can be edited."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import edit_text2video
from models.diffusion.editing import invert
from models.diffusion.text2video import TextToVideoDiffusion
from tests.conditions.conftest import KNOWN
from tests.text2video.running import train
from tests.tiny_autoencoders import tiny_autoencoder
from utils.cli import UserError
from utils.conditions.maps import read_map
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoInfo
from utils.drawing.masks import blended, feathered, mask_of
from utils.video.encode import write_image, write_video
from utils.video.frames import resize_frames

PROMPT = "a blue square moving right"


def edit(checkpoint: Path, video: Path, out: Path, *flags) -> tuple[np.ndarray, dict]:
    """(frames as they were before they were encoded, the sidecar)."""
    argv = ["--checkpoint", checkpoint, "--video", video, "--prompts", PROMPT, "--output_dir", out, "--save_frames"]
    argv += ["--num_inference_steps", 4, "--mixed_precision", "no", *flags]
    edit_text2video.main(edit_text2video.parse_args([*map(str, argv)]))
    (frames,), (sidecar,) = out.glob("*_frames"), out.glob("*.json")
    info = probe_video(frames)
    return read_frames(info, range(info.frames)), json.loads(sidecar.read_text())


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """A red disc of radius 6 at (10 + n, 16) over grey, 8 frames of 32x32."""
    frames = np.full((8, 32, 32, 3), 60, np.uint8)
    y, x = np.mgrid[:32, :32] + 0.5
    for n, frame in enumerate(frames):
        frame[np.hypot(x - 10 - n, y - 16) < 6] = (220, 30, 30)
    path = tmp_path_factory.mktemp("video") / "disc.mp4"
    write_video(path, frames, 8)
    return path


def before(video: Path, size: int = 16, count: int = 4) -> np.ndarray:
    info = probe_video(video)
    return resize_frames(read_frames(info, range(count)), size, size)


@pytest.mark.parametrize("kind", ["known places", "replacement"])
def test_what_lies_outside_a_box_stays_to_the_bit(known_run, plain_run, video, tmp_path, kind):
    run = known_run if kind == "known places" else plain_run
    frames, sidecar = edit(run, video, tmp_path / "out", "--box", 8, 4, 24, 28, "--feather", 1)
    inside = np.zeros((16, 16), bool)
    inside[2:14, 4:12] = True
    assert np.array_equal(frames[:, ~inside], before(video)[:, ~inside])
    assert np.abs(frames[:, 4:12, 6:10].astype(int) - before(video)[:, 4:12, 6:10]).mean() > 5
    assert (
        sidecar["mask"][1] == [8, 4, 24, 28]
        and (tmp_path / "out" / f"{next((tmp_path / 'out').glob('*.mp4')).stem}.png").exists()
    )


def test_a_picked_colour_is_followed_through_the_video(plain_run, video, tmp_path):
    frames, _ = edit(plain_run, video, tmp_path / "out", "--pick", 10, 16, "--feather", 0)
    changed = (frames != before(video)).any(axis=-1)
    red = before(video)[..., 0].astype(int) - before(video)[..., 1] > 100
    assert not changed[~red].any() and changed[red].mean() > 0.9


def test_a_picked_thing_is_told_from_another_of_its_colour():
    """It overlaps with where it was, step by step, though in the end no longer with where it began."""
    frames = np.full((8, 32, 64, 3), 60, np.uint8)
    y, x = np.mgrid[:32, :64] + 0.5
    for n, frame in enumerate(frames):
        frame[(np.hypot(x - 8 - 6 * n, y - 8) < 5) | (np.hypot(x - 20, y - 24) < 7)] = (220, 30, 30)
    info = VideoInfo("", 8, 8.0, 64, 32, "h264")
    args = argparse.Namespace(mask=None, box=None, pick=[8, 8], tolerance=60, grow=0)
    mask = mask_of(args, frames, info, np.arange(8))
    assert not mask[:, 18:].any() and all(abs(x[each].mean() - 8 - 6 * n) < 1 for n, each in enumerate(mask))


@pytest.mark.parametrize("kind", ["picture", "video", "npy"])
def test_masks_of_every_kind_mark_what_is_white(plain_run, video, tmp_path, kind):
    mask = np.zeros((8, 32, 32, 3), np.uint8)
    mask[:, 8:24, 8:24] = 255
    path = tmp_path / {"picture": "mask.png", "video": "mask.mp4", "npy": "mask.npy"}[kind]
    if kind == "picture":
        write_image(path, mask[0])
    elif kind == "video":
        write_video(path, mask, 8)
    else:
        np.save(path, mask[..., 0])
    frames, _ = edit(plain_run, video, tmp_path / "out", "--mask", path, "--feather", 0)
    changed = (frames != before(video)).any(axis=-1)
    inside = np.zeros((16, 16), bool)
    inside[4:12, 4:12] = True
    assert not changed[:, ~inside].any() and changed[:, inside].mean() > 0.9


def test_a_seam_is_soft_inside_the_mask_alone():
    mask = np.zeros((1, 9, 9), bool)
    mask[:, 2:7, 2:7] = True
    shares = feathered(mask, 2)[0]
    assert (shares[~mask[0]] == 0).all() and shares[4, 4] == 1 and 0 < shares[2, 4] < shares[3, 4] < 1
    old, new = np.zeros((1, 9, 9, 3), np.uint8), np.full((1, 9, 9, 3), 200, np.uint8)
    found = blended(old, new, mask, 2)
    assert (found[0][~mask[0]] == 0).all() and found[0, 4, 4, 0] == 200 and 0 < found[0, 2, 4, 0] < 200
    assert (blended(old, new, mask, 0)[mask] == 200).all()


def test_strength_says_how_much_of_the_video_is_left(plain_run, video, tmp_path):
    changes = []
    for strength in (0.25, 1.0):
        frames, sidecar = edit(plain_run, video, tmp_path / str(strength), "--strength", strength)
        changes.append(np.abs(frames.astype(int) - before(video)).mean())
        assert sidecar["strength"] == strength
    assert changes[0] < changes[1]


def test_maps_belong_to_the_video_that_is_changed(known_run, data, tmp_path, monkeypatch):
    from utils.drawing import given

    read = []
    monkeypatch.setattr(
        given, "read_map", lambda found, wanted, *rest: read.append(wanted) or read_map(found, wanted, *rest)
    )
    depth = ["--depth", data / "depth" / "clip_00001.mp4"]
    edit(known_run, data / "videos" / "clip_00001.mp4", tmp_path / "out", "--strength", "0.5", *depth)
    assert read[0].tolist() == [0, 1, 2, 3]


def test_a_pair_of_prompts_notes_how_well_the_video_comes_back(plain_run, video, tmp_path):
    _, sidecar = edit(plain_run, video, tmp_path / "out", "--source_prompt", "a red circle moving right")
    assert sidecar["sampler"] == "ddim" and np.isfinite(sidecar["round_trip_db"])


def test_latent_and_adopted_models_are_edited_too(data, pipelines, tmp_path):  # noqa: F811
    clip = data / "videos" / "clip_00000.mp4"
    tiny_autoencoder("PatchAutoencoder").save_pretrained(tmp_path / "vae")
    sizes = ["--num_frames", "4", "--frame_size", "32", "--max_train_steps", "1"]
    train(data, tmp_path / "latents", "--vae", str(tmp_path / "vae"), *sizes, *KNOWN)
    train(data, tmp_path / "plain", "--vae", str(tmp_path / "vae"), *sizes)
    image = [
        "--init_from_2d",
        str(pipelines["v1"]),
        "--num_frames",
        "3",
        "--frame_size",
        "64",
        "--max_train_steps",
        "1",
    ]
    train(data, tmp_path / "adopted", *image, "--batch_size", "2", preset="base")
    for name, size, count in (("latents", 32, 4), ("plain", 32, 4), ("adopted", 64, 3)):
        frames, _ = edit(tmp_path / name, clip, tmp_path / f"{name} box", "--box", 8, 8, 24, 24)
        scale = size // 32
        inside = np.zeros((size, size), bool)
        inside[8 * scale : 24 * scale, 8 * scale : 24 * scale] = True
        assert np.array_equal(frames[:, ~inside], before(clip, size, count)[:, ~inside]), name
        for how in (["--source_prompt", "a red circle"], ["--strength", "0.5"]):
            edit(tmp_path / name, clip, tmp_path / f"{name} {how[0]}", *how)


class Gaussian(torch.nn.Module):
    """The exact denoiser of independent normal numbers of mean 0.2 and deviation 0.5."""

    config = type("Config", (), {"in_channels": 3})
    diffusion: TextToVideoDiffusion

    def forward(self, noisy, timesteps, text, mask=None):
        alpha, sigma = self.diffusion.alpha_sigma(timesteps, noisy)
        gain = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)
        return 0.2 + gain * (noisy - alpha * 0.2)


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_an_inverted_clip_is_drawn_again(strength):
    torch.manual_seed(0)
    network = Gaussian()
    network.__dict__["diffusion"] = diffusion = TextToVideoDiffusion(network, prediction_type="sample", latents=True)
    clips, text = 0.2 + 0.5 * torch.randn(2, 3, 2, 8, 8), torch.zeros(2, 1, 4)
    how = {"num_inference_steps": 20, "strength": strength}
    noise = invert(diffusion, clips, text, generators=generators_of(2), **how)
    again = diffusion.sample(text, num_frames=2, height=8, width=8, sampler="ddim", noise=noise, **how)
    last = diffusion.num_timesteps // 20 - 1
    alpha, sigma = diffusion.alpha_sigma(torch.tensor([last]), clips)
    drawn = torch.stack([torch.randn(clips.shape[1:], generator=torch.Generator().manual_seed(n)) for n in range(2)])
    denoised = network(alpha * clips + sigma * drawn, torch.tensor([last, last]), text)  # all that the last step leaves
    assert (again - denoised).abs().mean() < 0.01
    shortcut = invert(diffusion, clips, text, generators=generators_of(2), iterations=1, **how)
    worse = diffusion.sample(text, num_frames=2, height=8, width=8, sampler="ddim", noise=shortcut, **how)
    assert (worse - denoised).abs().mean() > 2 * (again - denoised).abs().mean()
    if strength == 1.0:
        assert noise.std().item() == pytest.approx(1.0, abs=0.25)


def generators_of(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(n) for n in range(count)]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--box", "9", "4", "9", "8"], "--box: got 9 4 9 8, must be left, top, right, bottom"),
        (["--box", "1", "1", "9", "9", "--pick", "3", "3"], "--box: give one of --box, --pick"),
        (
            ["--box", "1", "1", "9", "9", "--source_prompt", "a"],
            "--source_prompt: is for a video that changes as a whole",
        ),
        (["--box", "1", "1", "9", "9", "--strength", "0.5"], "--strength: is for a video that changes as a whole"),
        (["--first_frame", "x.png"], "--first_frame: is for generate_text2video.py"),
        (["--source_prompt", "a", "--sampler", "euler"], "--sampler: --source_prompt is drawn with ddim"),
        (["--mask", "none.png"], "--mask: there is no none.png"),
    ],
)
def test_flags_that_cannot_be_are_refused(plain_run, video, capsys, flags, said):
    with pytest.raises(SystemExit) as stop:
        edit_text2video.parse_args(["--checkpoint", str(plain_run), "--video", str(video), "--prompts", "a", *flags])
    assert stop.value.code == 2 and said in capsys.readouterr().err


def test_masks_and_videos_that_do_not_fit_are_one_line(plain_run, video, tmp_path):
    write_image(tmp_path / "black.png", np.zeros((32, 32, 3), np.uint8))
    write_image(tmp_path / "wide.png", np.full((32, 64, 3), 255, np.uint8))
    for flags, said in (
        (["--mask", tmp_path / "black.png"], "--mask: nothing is marked"),
        (["--mask", tmp_path / "wide.png"], "--mask: .*wide.png is 64x32, the video 32x32"),
        (["--pick", 99, 3], "--pick: 99 3 lies outside"),
        (["--num_frames", 9], "--video: .* has 8 frames at this model's rate, it takes 9"),
    ):
        with pytest.raises(UserError, match=said):
            edit(plain_run, video, tmp_path / "out", *flags)
