"""A model of latents, end to end: trained, resumed, drawn from, judged; its autoencoder told from others."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import evaluate_text2video
import utils.pretrained.autoencoder as autoencoder_module
from models.autoencoder import VideoAutoencoder
from models.unet3d import UNet3D
from tests.text2video.running import generate, losses, train
from tests.tiny_autoencoders import TINY_AUTOENCODERS, tiny_autoencoder
from utils.cli import UserError
from utils.decoding.probe import probe_video
from utils.logs.metrics import read_metrics
from utils.pretrained.autoencoder import load_autoencoder, unpack_autoencoder
from utils.runs.checkpoint import load_checkpoint
from utils.runs.model_file import load_model, unpack_model

FRAMES = {"AutoencoderKLLTXVideo": 5, "AutoencoderKLWan": 5, "AutoencoderKLCogVideoX": 8}  # of the others 4
STEPS = ("--max_train_steps", "4", "--checkpoint_every", "2", "--validate_every", "2")


def save(kind: str, folder: Path, seed: int = 0) -> Path:
    tiny_autoencoder(kind, seed).save_pretrained(folder)
    return folder


def flags(vae: Path, *more: str, frames: int = 4, size: int = 32) -> list[str]:
    return ["--vae", str(vae), "--num_frames", str(frames), "--frame_size", str(size), *more]


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    return save("PatchAutoencoder", tmp_path_factory.mktemp("vae") / "vae")


@pytest.fixture(scope="module")
def latent_run(data, vae, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("latents") / "run"
    train(data, run_dir, *flags(vae), *STEPS)
    return run_dir


def test_a_run_in_latents_leaves_samples_losses_and_a_model_that_says_what_it_is(latent_run, vae):
    assert len(losses(latent_run)) == 4 and all(loss > 0 for loss in losses(latent_run))
    assert [row["step"] for row in read_metrics(latent_run / "metrics.jsonl") if "val/loss" in row] == [2, 4]
    samples = sorted((latent_run / "samples").rglob("*.mp4"))
    assert samples and all((info := probe_video(path)).frames == 4 and info.width == 32 for path in samples)
    model = load_model(latent_run)
    assert model["format"] == 2 and model["diffusion"]["latents"] is True and model["height"] == 32
    assert model["autoencoder"]["name"] == str(vae) and model["unet_config"]["in_channels"] == 8
    assert model["autoencoder"]["config"]["_class_name"] == "PatchAutoencoder" and "weights" in model["autoencoder"]


def test_the_models_latents_have_mean_0_and_deviation_1(latent_run, data):
    from video_dataset import TextVideoDataset

    stored = load_model(latent_run)["autoencoder"]
    autoencoder = unpack_autoencoder(stored)
    clips = [sample["video"] for sample in TextVideoDataset(data, 4, 32, split="train", augment=False)]
    values = torch.cat([autoencoder.encode(clip[None])[0].flatten(1) for clip in clips], dim=1)
    assert values.mean(1).abs().max() < 0.3 and (values.std(1) - 1).abs().max() < 0.3
    raw = load_autoencoder(stored["name"])
    values = torch.cat([raw.encode(clip[None])[0].flatten(1) for clip in clips], dim=1)
    assert (values.std(1) - 1).abs().max() > 0.5  # as the autoencoder gives them they have not


def test_a_resumed_run_equals_an_uninterrupted_one(latent_run, data, vae, tmp_path):
    shutil.copytree(latent_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-00000004")
    train(data, tmp_path / "run", *flags(vae), *STEPS, "--resume", "latest")
    assert losses(tmp_path / "run") == losses(latent_run)
    (whole, state), (parts, other) = (
        load_checkpoint(folder / "checkpoint-00000004") for folder in (latent_run, tmp_path / "run")
    )
    assert state == other and state["latents_mean"]
    for group in whole:
        for name in whole[group]:
            assert torch.equal(whole[group][name], parts[group][name]), (group, name)
    first, second = (load_model(folder)["autoencoder"] for folder in (latent_run, tmp_path / "run"))
    assert torch.equal(first["mean"], second["mean"]) and torch.equal(first["std"], second["std"])


def test_a_run_is_not_resumed_with_another_autoencoder_in_the_same_place(latent_run, data, vae, tmp_path):
    folder = shutil.copytree(vae, tmp_path / "vae")
    train(data, tmp_path / "run", *flags(folder), "--max_train_steps", "1")
    tiny_autoencoder("PatchAutoencoder", seed=1).save_pretrained(folder)
    with pytest.raises(UserError, match="--vae: .* is another autoencoder than this run began with; give that one"):
        train(data, tmp_path / "run", *flags(folder), "--max_train_steps", "2", "--resume", "latest")


@pytest.mark.parametrize("kind", sorted(TINY_AUTOENCODERS))
def test_every_class_trains_and_draws(data, tmp_path, kind):
    frames = FRAMES.get(kind, 4)
    more = ("--short_clips", "loop", "--max_samples", "3", "--max_train_steps", "1", "--batch_size", "1")
    train(data, tmp_path / "run", *flags(save(kind, tmp_path / "vae"), *more, frames=frames))
    shutil.rmtree(tmp_path / "vae")  # small ones are part of the model file
    out = ("--output_dir", tmp_path / "out", "--num_inference_steps", 2)
    generate("--checkpoint", tmp_path / "run", "--prompts", "a red circle", *out)
    (video,) = (tmp_path / "out").glob("*.mp4")
    assert (probe_video(video).frames, probe_video(video).height) == (frames, 32)
    assert json.loads(video.with_suffix(".json").read_text())["thresholding"] == "none"


def test_latents_are_clipped_nowhere(latent_run):
    diffusion, _ = unpack_model(load_model(latent_run))

    class Far(torch.nn.Module):
        config = diffusion.unet.config

        def forward(self, sample, *rest):
            return torch.full_like(sample, 7.0)

    diffusion.unet = Far()
    settings = {"num_frames": 1, "height": 4, "width": 4, "num_inference_steps": 3}
    for sampler in ("ddim", "euler", "dpmpp", "unipc", "dpmpp_sde"):
        assert diffusion.sample(torch.zeros(1, 1, 32), sampler=sampler, **settings).median() > 5, sampler
    with pytest.raises(ValueError, match="thresholding 'static' is for pixels, and these are latents"):
        diffusion.sample(torch.zeros(1, 1, 32), thresholding="static", **settings)


# What an autoencoder is kept apart from -------------------------------------------------------------------------------


@pytest.fixture
def large(data, tmp_path, monkeypatch) -> Path:
    """A run whose autoencoder is too large for the model file."""
    monkeypatch.setattr(autoencoder_module, "EMBEDDED_BYTES", 0)
    train(data, tmp_path / "run", *flags(save("AutoencoderTiny", tmp_path / "vae")), "--max_train_steps", "1")
    return tmp_path / "run"


def draw(run_dir: Path, out: Path, *more) -> None:
    generate("--checkpoint", run_dir, "--prompts", "a", "--output_dir", out, "--num_inference_steps", 1, *more)


def test_a_large_autoencoder_is_found_where_it_lies_now(large, tmp_path):
    assert "weights" not in load_model(large)["autoencoder"]
    draw(large, tmp_path / "before")
    (tmp_path / "vae").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="--vae: there is no folder .*vae; it should hold config.json"):
        draw(large, tmp_path / "out")
    draw(large, tmp_path / "out", "--vae", tmp_path / "moved")
    before, after = (next((tmp_path / name).glob("*.mp4")).read_bytes() for name in ("before", "out"))
    assert before == after


def test_another_autoencoder_than_that_of_the_training_is_refused(large, tmp_path):
    for kind, seed in (("AutoencoderTiny", 1), ("AutoencoderKL", 0)):
        other = save(kind, tmp_path / f"{kind}{seed}", seed)
        with pytest.raises(UserError, match=r"--vae: .* is another autoencoder than the model was trained with"):
            draw(large, tmp_path / "out", "--vae", other)


def test_a_pipelines_folder_and_half_precision_are_read(tmp_path):
    vae = tiny_autoencoder("AutoencoderKL")
    vae.save_pretrained(tmp_path / "pipeline" / "vae")
    vae.half().save_pretrained(tmp_path / "half" / "vae", variant="fp16")
    whole, half = (load_autoencoder(str(tmp_path / name)) for name in ("pipeline", "half"))
    assert not any(parameter.requires_grad for parameter in whole.parameters())
    assert isinstance(whole, VideoAutoencoder) and half.vae.dtype == torch.float32
    for name, tensor in whole.vae.state_dict().items():
        assert torch.allclose(tensor, half.vae.state_dict()[name], rtol=1e-3, atol=1e-4), name


# Bad input ------------------------------------------------------------------------------------------------------------


def refused(data, tmp_path, *more: str) -> str:
    with pytest.raises(UserError) as error:
        train(data, tmp_path / "run", *more)
    assert not (tmp_path / "run" / "best_model.pth").exists() and "\n" not in str(error.value)
    return str(error.value)


def test_sizes_and_lengths_that_do_not_fit_are_refused_at_once(data, tmp_path, vae):
    said = refused(data, tmp_path, *flags(vae, size=24))
    assert said.startswith("--frame_size: got 24x24, sides must be multiples of 32 (autoencoder ")
    assert refused(data, tmp_path, *flags(vae, frames=6)) == "--num_frames: 6 frames: the autoencoder takes 4 or 8"
    said = refused(data, tmp_path, *flags(vae), "--buckets", "32x32x4", "64x32x6")
    assert said == "--buckets 64x32x6: 6 frames: the autoencoder takes 4 or 8"


def test_what_is_no_autoencoder_is_refused(data, tmp_path, vae):
    assert "there is no folder ./nowhere; it should hold config.json" in refused(data, tmp_path, *flags("./nowhere"))
    broken = shutil.copytree(vae, tmp_path / "broken")
    (broken / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    assert "(UNet2DConditionModel is none of AutoencoderKL, " in refused(data, tmp_path, *flags(broken))
    other = save("AutoencoderTiny", tmp_path / "other")
    shutil.copy(vae / "diffusion_pytorch_model.safetensors", other)
    assert "--vae: " in refused(data, tmp_path, *flags(other))
    (shutil.copytree(vae, tmp_path / "half") / "diffusion_pytorch_model.safetensors").unlink()
    assert "lacks diffusion_pytorch_model.safetensors" in refused(data, tmp_path, *flags(tmp_path / "half"))


def test_a_schedule_that_cannot_be_followed_is_refused(data, tmp_path, vae):
    ddpm = {"num_train_timesteps": 100, "beta_start": 0.001, "beta_end": 0.02, "beta_schedule": "linear"}
    for config, said in (
        ({"num_train_timesteps": 8, "shift": 3.0}, "no scheduler_config.json of diffusers (it has no betas)"),
        (ddpm | {"prediction_type": "flow_prediction"}, "cannot be followed (prediction_type must be one of epsilon"),
        (ddpm | {"beta_schedule": "odd"}, "cannot be followed (odd is not implemented"),
        (ddpm | {"rescale_betas_zero_snr": True}, "zero_terminal_snr needs prediction_type"),
        (ddpm, "--loss_weighting snr_plus_one: grows without bound for epsilon, which "),
    ):
        file = tmp_path / "scheduler_config.json"
        file.write_text(json.dumps(config))
        assert said in refused(data, tmp_path, *flags(vae), "--scheduler_config", str(file)), config
    more = ("--scheduler_config", str(file), "--loss_weighting", "none", "--max_train_steps", "1")
    train(data, tmp_path / "good", *flags(vae), *more)
    assert load_model(tmp_path / "good")["diffusion"]["prediction_type"] == "epsilon"


def test_drawing_keeps_to_what_the_autoencoder_takes(latent_run, tmp_path):
    for more, said in (
        (("--num_frames", 6), "--num_frames: 6 frames: the autoencoder takes 4 or 8"),
        (("--frame_size", 40), "--height: got 40, must be a multiple of 32 for this model"),
        (
            ("--thresholding", "static"),
            "--thresholding: static is for pixels, and this model has latents; leave it out",
        ),
        (("--num_frames", 16, "--window_frames", 6), "--window_frames: 6 frames: the autoencoder takes 4 or 8"),
        (
            ("--num_frames", 16, "--window_frames", 4),
            "--window_frames: 4 frames are one of latents, and windows have to overlap",
        ),
        (
            ("--num_frames", 16, "--window_frames", 8, "--window_overlap", 8),
            "--window_overlap: got 8, must be less than --window_frames, 8",
        ),
    ):
        with pytest.raises(UserError) as error:
            draw(latent_run, tmp_path / "out", *more)
        assert str(error.value) == said


def test_longer_and_larger_clips_than_trained_can_be_drawn(latent_run, tmp_path):
    draw(latent_run, tmp_path / "out", "--num_frames", 12, "--height", 64)
    info = probe_video(next((tmp_path / "out").glob("*.mp4")))
    assert (info.frames, info.height, info.width) == (12, 64, 32)


def test_a_longer_clip_is_drawn_in_windows(latent_run, tmp_path, monkeypatch):
    seen, forward = set(), UNet3D.forward
    monkeypatch.setattr(UNet3D, "forward", lambda *args: (seen.add(args[1].shape[2]), forward(*args))[1])
    draw(latent_run, tmp_path / "out", "--num_frames", 20, "--window_frames", 8, "--window_overlap", 2)
    (file,) = (tmp_path / "out").glob("*.mp4")
    assert probe_video(file).frames == 20 and seen == {2}  # of latents, four frames each
    about = json.loads(file.with_suffix(".json").read_text())
    assert about["window_frames"] == 8 and about["window_overlap"] == 2
    draw(latent_run, tmp_path / "short", "--num_frames", 8, "--window_frames", 8)
    assert "window_frames" not in json.loads(next((tmp_path / "short").glob("*.json")).read_text())


def test_a_model_of_latents_is_evaluated_on_the_demo(latent_run, data, tmp_path):
    argv = ["--checkpoint", str(latent_run), "--data_dir", str(data), "--output_dir", str(tmp_path / "out")]
    argv += ["--num_prompts", "2", "--num_inference_steps", "1", "--mixed_precision", "no"]
    evaluate_text2video.main(evaluate_text2video.parse_args(argv))
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["groups"]
