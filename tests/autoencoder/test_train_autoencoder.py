"""Training one's own autoencoder, end to end through the script's main, and learning in its latents."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ResNetBackbone, ResNetConfig

import train_autoencoder
from models.patch_autoencoder import PatchAutoencoder
from tests.text2video.running import generate
from tests.text2video.running import train as train_text2video
from utils.cli import UserError
from utils.decoding.probe import probe_video
from utils.demo_data.demo_dataset import write_demo_dataset
from utils.files import whole_files
from utils.logs.metrics import read_metrics
from utils.pretrained.autoencoder import load_autoencoder
from utils.runs.checkpoint import load_checkpoint

NETWORK = ("--model_channels", "32", "--encoder_layers", "1", "--decoder_layers", "1", "--patch_size", "8")
CROPS = ("--crop_size", "16", "--crops_per_clip", "2", "--crop_choices", "3", "--detail_channels", "4")
STEPS = ("--max_train_steps", "4", "--checkpoint_every", "2", "--validate_every", "2", "--sample_every", "4")


def train(data, run_dir, *flags):
    argv = ["--data_dir", str(data), "--output_dir", str(run_dir), "--num_frames", "4", "--frame_size", "32"]
    argv += ["--num_workers", "0", "--log_every", "1", "--mixed_precision", "no", "--no_wandb", *NETWORK]
    train_autoencoder.main(train_autoencoder.parse_args([*argv, *map(str, flags)]))


def rows(run_dir: Path, name: str) -> list[float]:
    return [row[name] for row in read_metrics(run_dir / "metrics.jsonl") if name in row]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    write_demo_dataset(folder, num_clips=12, num_frames=6, frame_size=32)
    return folder


@pytest.fixture(scope="module")
def run_dir(data, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "autoencoder"
    train(data, run_dir, *STEPS)
    return run_dir


def test_a_run_leaves_the_autoencoder_its_measures_and_clips_beside_what_came_back(run_dir):
    assert len(rows(run_dir, "train/loss_l1")) == 4 and len(rows(run_dir, "train/loss_mse")) == 4
    for name in ("psnr", "ssim", "judged"):
        assert len(rows(run_dir, f"val/{name}")) == 2, name
    (sheet,) = (run_dir / "samples").glob("*/contact_sheet.png")
    video = probe_video(next(sheet.parent.glob("*.mp4")))
    assert (video.width, video.height, video.frames) == (64, 32, 4)  # two, side by side
    assert isinstance(PatchAutoencoder.from_pretrained(run_dir / "vae"), PatchAutoencoder)
    assert (run_dir / "loss.png").stat().st_size > 5000


def test_it_learns_to_give_back_what_it_was_given(data, tmp_path):
    more = ("--max_train_steps", "60", "--validate_every", "60", "--max_samples", "4", "--latent_noise", "0")
    train(data, tmp_path / "run", *more, "--learning_rate", "0.03", "--ema_decay", "0.9")
    first, last = np.array(rows(tmp_path / "run", "train/loss"))[[0, -1]]
    assert last < 0.35 * first and rows(tmp_path / "run", "val/psnr")[-1] > 17


def test_the_best_weights_are_the_moving_average_and_give_the_psnr_that_was_logged(run_dir, data):
    from models.reconstruction import psnr
    from video_dataset import TextVideoDataset

    model = load_autoencoder(str(run_dir))
    val_set = TextVideoDataset(data, 4, 32, split="val")
    videos = torch.stack([val_set[n]["video"] for n in range(len(val_set))])
    found = psnr(model.decode(model.encode(videos)), videos).mean().item()
    assert found == pytest.approx(max(rows(run_dir, "val/psnr")), abs=1e-3)


@pytest.mark.parametrize(
    "more",
    [(), ("--adversarial_weight", "0.1", "--adversarial_start", "3", "--kl_weight", "1e-3", *CROPS)],
)
def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path, more):
    train(data, tmp_path / "whole", *STEPS, *more)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoint-00000004")
    train(data, tmp_path / "parts", *STEPS, *more, "--resume", "latest")
    (whole, state), (parts, other) = (
        load_checkpoint(tmp_path / name / "checkpoint-00000004") for name in ("whole", "parts")
    )
    assert state == other and ("discriminator" in whole) == bool(more)
    for group in whole:
        for name in whole[group]:
            assert torch.equal(whole[group][name], parts[group][name]), (group, name)
    for name in ("train/loss", "val/psnr"):
        assert rows(tmp_path / "whole", name) == rows(tmp_path / "parts", name)


def test_a_write_that_fails_leaves_the_autoencoder_of_before(run_dir, tmp_path, monkeypatch):
    folder = shutil.copytree(run_dir / "vae", tmp_path / "vae")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = PatchAutoencoder.from_pretrained(folder)
    write = PatchAutoencoder.save_pretrained

    def full(self, path, **more):
        write(self, path, **more)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(PatchAutoencoder, "save_pretrained", full)
        with pytest.raises(UserError, match="disk full writing .*vae"), whole_files(folder, 0) as partial:
            model.save_pretrained(partial)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]
    torch.nn.init.zeros_(model.patch_out.weight)
    with whole_files(folder, 0) as partial:
        model.save_pretrained(partial)
    assert not PatchAutoencoder.from_pretrained(folder).patch_out.weight.any()


def test_compiling_is_of_what_is_called(data, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    train(data, tmp_path / "run", "--max_train_steps", "1", "--compile")
    assert compiled == ["AutoencoderTraining"]


def test_all_terms_train_and_are_logged(data, tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetBackbone(config).save_pretrained(tmp_path / "backbone")
    more = ("--perceptual", tmp_path / "backbone", "--adversarial_weight", "0.1", "--adversarial_start", "1")
    train(data, tmp_path / "run", *STEPS, *more, "--kl_weight", "1e-4", "--gradient_checkpointing")
    for name in ("l1", "mse", "kl", "perceptual", "discriminator", "adversarial"):
        values = rows(tmp_path / "run", f"train/loss_{name}")
        assert len(values) == 4 and np.isfinite(values).all() and any(values), name
    assert load_autoencoder(str(tmp_path / "run")).vae.config.double_z


def test_clips_without_captions_and_pictures_train_too(data, tmp_path):
    from PIL import Image

    shutil.copytree(data / "videos", tmp_path / "data" / "videos")
    (tmp_path / "data" / "images").mkdir()
    for n in range(3):
        Image.new("RGB", (40, 40), (80 * n, 90, 9)).save(tmp_path / "data" / "images" / f"{n}.png")
        (tmp_path / "data" / "images" / f"{n}.txt").write_text("a colour")
    train(tmp_path / "data", tmp_path / "run", "--max_train_steps", "4", "--image_share", "0.5", "--batch_size", "2")
    assert len(rows(tmp_path / "run", "train/loss")) == 4 and not rows(tmp_path / "run", "val/judged")


def test_text_to_video_learns_in_its_latents(run_dir, data, tmp_path):
    flags = ("--vae", str(run_dir), "--frame_size", "32", "--num_frames", "4", "--max_train_steps", "1")
    train_text2video(data, tmp_path / "run", *flags)
    out = ("--output_dir", tmp_path / "out", "--num_inference_steps", 1)
    generate("--checkpoint", tmp_path / "run", "--prompts", "a red circle", *out)
    assert json.loads(next((tmp_path / "out").glob("*.json")).read_text())["thresholding"] == "none"


def test_what_cannot_be_is_refused_in_one_line(data, tmp_path, capsys):
    for flags, said in (
        (("--frame_size", "36"), "--frame_size: got 36x36, must be multiples of --patch_size, 8"),
        (("--num_frames", "6"), "--num_frames: got 6, must be a multiple of --patch_frames, 4"),
        (("--crop_size", "20"), "--crop_size: got 20, must be a multiple of --patch_size, 8"),
        (("--crops_per_clip", "2"), "--crops_per_clip: needs --crop_size"),
        (("--crop_choices", "2"), "--crop_choices: needs --crop_size"),
        (("--data_dir", tmp_path / "none"), "--data_dir: there is no folder"),
        (("--buckets", "32x32x4", "32x20x4"), "--buckets: got 32x20, must be multiples of --patch_size, 8"),
        (("--buckets", "32x32x4", "32x32x5"), "--buckets: got 5, must be a multiple of --patch_frames, 4"),
    ):
        with pytest.raises(SystemExit) as error:
            train(data, tmp_path / "run", *flags)
        assert error.value.code == 2 and said in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--perceptual: .* lacks config.json, model.safetensors; it should hold"):
        train(data, tmp_path / "run", "--perceptual", data)
