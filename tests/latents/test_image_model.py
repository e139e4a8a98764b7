"""An image model adopted whole: at the start each frame is its picture, and with its weights frozen a single one stays
so."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

import train_text2video
from models.diffusion.captioned import CaptionedDiffusion
from tests.text2video.running import generate, losses, train
from tests.tiny_models import TINY_SD_UNET, tiny_stable_diffusion
from utils.cli import UserError
from utils.pretrained.autoencoder import unpack_autoencoder
from utils.pretrained.image_model import adopted
from utils.runs.model_file import load_model, unpack_model
from utils.runs.new_model import make_autoencoder, make_diffusion, make_text_encoder, make_unet

SCHEDULERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "dpmpp": DPMSolverMultistepScheduler}
PROMPT, NEGATIVE = "a red circle moving right", "the green triangle"


def arguments(folder: Path, data: Path, *more: str) -> argparse.Namespace:
    return train_text2video.parse_args(["--data_dir", str(data), "--init_from_2d", str(folder), "--no_wandb", *more])


def untrained(folder: Path, data: Path, *more: str) -> CaptionedDiffusion:
    """The model as training makes it, before its first step."""
    args = adopted(arguments(folder, data, *more))
    autoencoder, _ = make_autoencoder(args, {})
    encoder = make_text_encoder(args, [])
    unet = make_unet(args, encoder.dim, autoencoder.channels)
    return CaptionedDiffusion(make_diffusion(args, unet, autoencoder), encoder, autoencoder).eval()


def pictures(folder: Path, sampler: str, noise: torch.Tensor, guidance_scale: float, steps: int = 8) -> torch.Tensor:
    """What StableDiffusionPipeline draws of each frame of the noise (4, T, h, w): (3, T, H, W) in [-1, 1]."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = SCHEDULERS[sampler].from_config(pipeline.scheduler.config)
    frames = [
        pipeline(
            PROMPT,
            negative_prompt=NEGATIVE,
            latents=noise[None, :, n],
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            height=8 * noise.shape[2],
            width=8 * noise.shape[3],
            output_type="pt",
        ).images[0]
        for n in range(noise.shape[1])
    ]
    return torch.stack(frames, dim=1) * 2 - 1


def video(model: CaptionedDiffusion, sampler: str, frames: int, guidance_scale: float, steps: int = 8) -> torch.Tensor:
    settings = {"num_frames": frames, "height": 64, "width": 64, "num_inference_steps": steps}
    return model.sample([PROMPT], [5], NEGATIVE, sampler=sampler, guidance_scale=guidance_scale, **settings)[0]


def noise(frames: int) -> torch.Tensor:
    """That from which video draws."""
    return torch.randn(4, frames, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_at_the_start_every_frame_is_the_picture_of_the_image_model(pipelines, data, kind, sampler, guidance_scale):
    found = video(untrained(pipelines[kind], data), sampler, 3, guidance_scale)
    expected = pictures(pipelines[kind], sampler, noise(3), guidance_scale)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected.clamp(-1, 1), rtol=0, atol=1e-4)


FLAGS = ("--num_frames", "3", "--frame_size", "64", "--max_train_steps", "3", "--batch_size", "1", "--num_workers", "0")
FLAGS += ("--learning_rate", "0.01", "--text_cache_mb", "100", "--lr_warmup_steps", "0", "--norm_num_groups", "8")


@pytest.fixture(scope="module")
def temporal_run(pipelines, data, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("adopted") / "run"
    train(data, run_dir, "--init_from_2d", str(pipelines["v1"]), "--trainable", "temporal", *FLAGS, preset="base")
    return run_dir


def trained(run_dir: Path) -> CaptionedDiffusion:
    model = load_model(run_dir)
    return CaptionedDiffusion(*unpack_model(model), unpack_autoencoder(model["autoencoder"])).eval()


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_with_its_weights_frozen_a_single_frame_stays_the_picture(temporal_run, pipelines, data, sampler):
    model = trained(temporal_run)
    found = video(model, sampler, 1, 6.0)
    torch.testing.assert_close(found, pictures(pipelines["v1"], sampler, noise(1), 6.0).clamp(-1, 1), rtol=0, atol=1e-4)
    moving = video(model, sampler, 3, 6.0)
    assert (moving - pictures(pipelines["v1"], sampler, noise(3), 6.0).clamp(-1, 1)).abs().max() > 0.01  # it has learnt


def test_temporal_keeps_every_weight_of_the_image_model_to_the_bit(temporal_run, pipelines, data):
    image = UNet2DConditionModel.from_pretrained(pipelines["v1"] / "unet").state_dict()
    model = load_model(temporal_run)["unet"]
    for name, value in image.items():
        assert torch.equal(model[name].reshape(value.shape), value), name
    start = untrained(pipelines["v1"], data).diffusion.unet.state_dict()
    changed = [name for name in model if name not in image and not torch.equal(model[name], start[name])]
    assert any("temporal_attentions" in name for name in changed) and any("temporal_conv" in name for name in changed)
    assert len(losses(temporal_run)) == 3


def test_all_trains_the_image_model_too(pipelines, data, tmp_path):
    train(data, tmp_path / "run", "--init_from_2d", str(pipelines["v1"]), *FLAGS, preset="base")
    image = UNet2DConditionModel.from_pretrained(pipelines["v1"] / "unet").state_dict()
    model = load_model(tmp_path / "run")["unet"]
    assert sum(not torch.equal(model[name].reshape(value.shape), value) for name, value in image.items()) > 20


def test_what_it_brings_is_taken_from_its_folder(pipelines, data):
    args = adopted(arguments(pipelines["v2"], data))
    assert args.vae == args.text_encoder == str(pipelines["v2"])
    model = untrained(pipelines["v2"], data)
    assert model.diffusion.prediction_type == "v_prediction" and model.diffusion.latents
    scale = json.loads((pipelines["v2"] / "vae" / "config.json").read_text())["scaling_factor"]
    assert model.autoencoder.std.tolist() == pytest.approx([1 / scale] * 4) and not model.autoencoder.mean.any()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    torch.testing.assert_close(model.diffusion.alphas_cumprod, (1 - betas).cumprod(0))


def test_it_goes_on_as_any_model(temporal_run, pipelines, data, tmp_path):
    """Resumed, drawn from where its folder lies, and not without it."""
    shutil.copytree(temporal_run, tmp_path / "run")
    more = ("--init_from_2d", str(pipelines["v1"]), "--trainable", "temporal", *FLAGS, "--resume", "latest")
    train(data, tmp_path / "run", *more, "--max_train_steps", "4", preset="base")
    assert len(losses(tmp_path / "run")) == 4
    out = ("--output_dir", tmp_path / "out", "--num_inference_steps", 2)
    generate("--checkpoint", tmp_path / "run", "--prompts", "a red circle", *out)
    assert list((tmp_path / "out").glob("*.mp4"))


def test_other_pipelines_and_broken_ones_are_refused(pipelines, data, tmp_path):
    other = shutil.copytree(pipelines["v1"], tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(UserError, match="is a StableDiffusionXLPipeline, which has parts that there is no place for"):
        adopted(arguments(other, data))
    (other / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(other / "scheduler")
    with pytest.raises(UserError, match="--init_from_2d: .* lacks scheduler/"):
        adopted(arguments(other, data))


def test_another_autoencoder_beside_it_is_refused_and_another_schedule_taken(pipelines, data, tmp_path):
    with pytest.raises(UserError, match="--vae: .* brings its own autoencoder; leave --vae out"):
        adopted(arguments(pipelines["v1"], data, "--vae", "./other"))
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"num_train_timesteps": 500, "beta_start": 0.001}))
    args = adopted(arguments(pipelines["v1"], data, "--scheduler_config", str(tmp_path / "scheduler_config.json")))
    assert make_diffusion(args, make_unet(args, 32, 4)).num_timesteps == 500


def test_pictures_beside_a_frozen_image_model_are_refused(pipelines, data, capsys):
    with pytest.raises(SystemExit):
        arguments(pipelines["v1"], data, "--trainable", "temporal", "--image_share", "0.5")
    assert "--image_share: pictures teach nothing while the image model is frozen" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "weighting"), [("v1", "min_snr"), ("v2", "snr_plus_one")])
def test_the_loss_weighting_changes_only_where_it_would_grow_without_bound(pipelines, data, kind, weighting):
    assert adopted(arguments(pipelines[kind], data)).loss_weighting == weighting


def test_class_embeddings_have_no_place(data, tmp_path):
    folder = tiny_stable_diffusion(tmp_path / "sd", unet=TINY_SD_UNET | {"num_class_embeds": 3})
    with pytest.raises(UserError, match="UNet3D has no place for the image model's parameter class_embedding"):
        untrained(folder, data)
