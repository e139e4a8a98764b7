"""Training, end to end through the script's main, on generated clips with the tiny preset."""

import json
import re

import numpy as np
import pytest
import torch

import train_text2video
from models.diffusion.captioned import CaptionedDiffusion
from models.text_encoder import BUILTIN
from tests.text2video.running import generate, losses, train
from tests.tiny_autoencoders import tiny_autoencoder
from tests.tiny_models import tiny_image_model
from utils.cli import UserError
from utils.decoding.probe import probe_video
from utils.logs.metrics import read_metrics
from utils.runs import memory_report
from utils.runs.checkpoint import list_checkpoints, load_checkpoint
from utils.runs.model_file import load_model, unpack_model


def test_a_run_leaves_settings_metrics_samples_checkpoints_and_a_model(run_dir):
    settings = json.loads((run_dir / "args.json").read_text())
    assert settings["num_timesteps"] == 1000 and settings["text_encoder"] == BUILTIN
    rows = read_metrics(run_dir / "metrics.jsonl")
    for name in ("train/loss", "train/learning_rate", "train/grad_norm", "train/data_wait_share"):
        assert [row["step"] for row in rows if name in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "val/loss" in row] == [3, 6]
    assert [path.name for path in list_checkpoints(run_dir)] == ["checkpoint-00000006", "checkpoint-00000004"]
    videos = sorted((run_dir / "samples" / "step_000006").glob("*.mp4"))
    assert videos and all(probe_video(video).frames == 4 for video in videos)
    assert (run_dir / "samples" / "step_000006" / "contact_sheet.png").stat().st_size > 500
    assert (run_dir / "loss.png").stat().st_size > 5000


def test_learning_rate_is_the_cosine_with_warm_up(data, tmp_path):
    train(data, tmp_path / "run", "--max_train_steps", "20", "--lr_warmup_steps", "2", "--learning_rate", "0.001")
    rates = [row["train/learning_rate"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if "train/loss" in row]
    expected = [0.5e-3, *(0.5e-3 * (1 + np.cos(np.pi * (step - 2) / 18)) for step in range(2, 21))]
    np.testing.assert_allclose(rates, expected, atol=1e-9)


def test_best_model_describes_itself_and_holds_the_moving_average(run_dir):
    model = torch.load(run_dir / "best_model.pth", weights_only=True)
    assert model["num_frames"] == 4 and model["height"] == 16 and model["unet_config"]["model_channels"] == 16
    diffusion, text_encoder = unpack_model(model)
    assert not diffusion.training and text_encoder.unknown_words("a red elephant") == ["elephant"]
    if model["step"] == 6:
        tensors, _ = load_checkpoint(run_dir / "checkpoint-00000006")
        names = [name for name, _ in diffusion.unet.named_parameters()]
        for i, name in enumerate(names):
            assert torch.equal(model["unet"][name], tensors["ema"][str(i)])


def test_validation_loss_does_not_depend_on_what_was_drawn_before(run_dir, data):
    from video_dataset import TextVideoDataset

    diffusion, text_encoder = unpack_model(load_model(run_dir))
    val_set = TextVideoDataset(data, 4, 16, split="val")
    model = CaptionedDiffusion(diffusion, text_encoder)
    first = train_text2video.validation_loss(model, val_set, batch_size=2, seed=0)
    torch.randn(17)
    assert train_text2video.validation_loss(model, val_set, batch_size=2, seed=0) == first


@pytest.mark.parametrize("clips", [1, 3])
def test_very_few_clips_still_train_and_validate(data, tmp_path, clips):
    train(data, tmp_path / "run", "--max_samples", str(clips), "--num_epochs", "2", "--batch_size", "1")
    steps = 2 * max(1, clips - 1)
    assert len(losses(tmp_path / "run")) == steps
    assert (tmp_path / "run" / "best_model.pth").exists()


def test_the_guides_network_and_a_frozen_clip_train_on_pixels(data, tmp_path, clip_folder, capsys):
    """Default preset and prediction as the guide has them, shrunk by its own flags; then generated from."""
    flags = ["--text_encoder", str(clip_folder), "--num_frames", "4", "--frame_size", "16", "--model_channels", "32"]
    flags += ["--prediction_type", "epsilon", "--loss_weighting", "none", "--patch_size", "1", "--noise_shift", "1"]
    flags += ["--num_workers", "0"]
    train(data, tmp_path / "run", *flags, "--max_train_steps", "2", "--batch_size", "1", preset="base")
    model = load_model(tmp_path / "run")
    assert "weights" not in model["text_encoder"] and model["unet_config"]["cross_attention_dim"] == 768
    generate(
        "--checkpoint",
        tmp_path / "run",
        "--prompts",
        "a red circle",
        "--output_dir",
        tmp_path / "out",
        "--num_inference_steps",
        2,
    )
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 1


def test_a_frozen_encoder_read_once_trains_as_one_read_in_every_step(data, tmp_path, clip_folder, capsys):
    flags = ["--text_encoder", str(clip_folder), "--mixed_precision", "no", "--max_train_steps", "4"]
    train(data, tmp_path / "once", *flags)
    assert "--text_cache_mb" not in capsys.readouterr().out
    train(data, tmp_path / "always", *flags, "--text_cache_mb", "0")
    assert "--text_cache_mb allows 0: computed in every step" in capsys.readouterr().out
    np.testing.assert_allclose(losses(tmp_path / "once"), losses(tmp_path / "always"), rtol=1e-5)
    once, always = (load_model(tmp_path / name) for name in ("once", "always"))
    assert once["val_loss"] == pytest.approx(always["val_loss"], rel=1e-5)


def test_dry_run_counts_without_data_weights_or_a_run_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = train_text2video.parse_args(["--preset", "tiny", "--dry_run", "--batch_size", "3"])
    found, count = {}, memory_report.counted  # of one and of two clips, once

    def counted(*how) -> dict[str, int]:
        if how[3:5] not in found:
            found[how[3:5]] = count(*how)
        return found[how[3:5]]

    monkeypatch.setattr(memory_report, "counted", counted)
    train_text2video.main(args)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 frames of 16x16, to the network 3x4x16x16; batch 3, without")
    table = [line.split(", ")[0].strip() for line in lines if line.endswith("yes")]
    assert table == [str(batch) for batch in (1, 2, 3, 4, 8, 16) for _ in range(2)] and not list(tmp_path.iterdir())
    assert found.keys() == {(batch, checkpointing) for batch in (1, 2) for checkpointing in (False, True)}
    unet, width, _ = memory_report.meta_unet(args)
    how = unet, memory_report.clip_shape(args)[0], width
    assert memory_report.ledgers(*how, [5], args)[5, True] == counted(*how, 5, True, args)


def test_dry_run_counts_the_conditions(data, capsys):
    """Their layers, and what is given of each clip in the sizes that a training has it."""
    flags = ["--data_dir", str(data), "--preset", "tiny", "--dry_run"]
    asked = ["--tasks", "text=1", "first_frame=1", "--maps", "videos", "--vectors", "captions", "--audio"]
    said = {}
    for name, more in (("plain", []), ("known", asked[:3]), ("all", asked)):
        train_text2video.main(train_text2video.parse_args([*flags, *more]))
        said[name] = capsys.readouterr().out
    counts = [int(re.search(r"parameters: ([\d,]+)", text)[1].replace(",", "")) for text in said.values()]
    totals = [float(re.search(r"total +([\d.]+) GiB", text)[1]) for text in said.values()]
    assert sorted(set(counts)) == counts and sorted(totals) == totals
    assert "conditions: known, videos, captions, audio" in said["all"] and "conditions" not in said["plain"]
    assert "captions, taken for vectors of 8 numbers" in said["all"]


def test_a_larger_resolution_starts_from_the_weights_of_a_smaller_one(run_dir, data, tmp_path, capsys):
    flags = ["--init_from", str(run_dir), "--frame_size", "32", "--num_frames", "6", "--max_train_steps", "1"]
    train(data, tmp_path / "run", *flags, "--learning_rate", "1e-12")
    assert "of the U-Net kept; frames 4 -> 6; size 16x16 -> 32x32\n" in capsys.readouterr().out
    before, after = load_model(run_dir), load_model(tmp_path / "run")
    assert after["height"] == 32 and after["text_encoder"]["tokenizer"] == before["text_encoder"]["tokenizer"]
    for name, tensor in before["unet"].items():
        torch.testing.assert_close(after["unet"][name], tensor, rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="--init_from: .* has another network"):
        train(data, tmp_path / "other", *flags, "--model_channels", "32")


def test_a_head_over_single_pixels_is_added_to_a_run_and_left_out_again(run_dir, data, tmp_path, capsys):
    flags = ["--max_train_steps", "1", "--learning_rate", "1e-12", "--ema_decay", "0"]
    train(data, tmp_path / "with", "--init_from", str(run_dir), *flags, "--pixel_channels", "4")
    assert "the head over single pixels is new" in capsys.readouterr().out
    before, after = load_model(run_dir), load_model(tmp_path / "with")
    assert after["format"] == 5 and before["format"] == 1  # which programs read that know of no head
    for name, tensor in before["unet"].items():
        torch.testing.assert_close(after["unet"][name], tensor, rtol=0, atol=1e-6)
    train(data, tmp_path / "kept", "--init_from", str(tmp_path / "with"), *flags, "--pixel_channels", "4")
    assert "single pixels" not in capsys.readouterr().out
    for channels, said in ((8, "another, and new"), (0, "left out")):
        run = tmp_path / str(channels)
        train(data, run, "--init_from", str(tmp_path / "with"), *flags, "--pixel_channels", str(channels))
        assert f"the head over single pixels is {said}" in capsys.readouterr().out
        assert load_model(run)["unet_config"]["pixel_channels"] == channels


def test_from_pixels_to_latents_the_first_and_the_last_layer_start_afresh(run_dir, data, tmp_path, capsys):
    flags = ["--init_from", str(run_dir), "--frame_size", "32", "--max_train_steps", "1", "--learning_rate", "1e-12"]
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    for folder, kind in ((first, "AutoencoderTiny"), (second, "AutoencoderKL")):
        tiny_autoencoder(kind).save_pretrained(folder)
    train(data, tmp_path / "latent", *flags, "--vae", first, "--patch_size", "1")
    assert "clips are latents, not pixels: the first and the last layer start afresh" in capsys.readouterr().out
    before, after = load_model(run_dir)["unet"], load_model(tmp_path / "latent")["unet"]
    assert before["conv_in.weight"].shape != after["conv_in.weight"].shape
    for name in before.keys() - {f"conv_{end}.{kind}" for end in ("in", "out") for kind in ("weight", "bias")}:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    flags[1] = str(tmp_path / "latent")
    train(data, tmp_path / "other", *flags, "--vae", second, "--patch_size", "1")
    assert "clips are latents of another autoencoder: the first" in capsys.readouterr().out
    train(data, tmp_path / "same", *flags, "--vae", first, "--patch_size", "1")
    assert "afresh" not in capsys.readouterr().out
    train(data, tmp_path / "back", *flags, "--patch_size", "2")
    assert "clips are pixels, not latents: the first" in capsys.readouterr().out


def test_an_image_model_is_inflated(data, tmp_path):
    from diffusers import UNet2DConditionModel

    image_unet = UNet2DConditionModel.from_pretrained(tiny_image_model(tmp_path / "image" / "unet"))
    train(
        data,
        tmp_path / "run",
        "--init_from_2d",
        str(tmp_path / "image"),
        "--max_train_steps",
        "1",
        "--learning_rate",
        "1e-12",
    )
    weights = load_model(tmp_path / "run")["unet"]
    kernel = image_unet.down_blocks[0].resnets[0].conv1.weight
    torch.testing.assert_close(
        weights["down_blocks.0.resnets.0.conv1.weight"][:, :, 0], kernel.detach(), rtol=0, atol=1e-6
    )
    with pytest.raises(UserError, match="--init_from_2d: .*it reads text 32 wide"):
        train(
            data,
            tmp_path / "other",
            "--init_from_2d",
            str(tmp_path / "image"),
            "--text_dim",
            "16",
            "--max_train_steps",
            "1",
        )


@pytest.mark.parametrize("flag", ["--gradient_checkpointing", "--zero_terminal_snr"])
def test_options_that_change_the_way_of_training_run(data, tmp_path, flag):
    train(data, tmp_path / "run", flag, "--max_train_steps", "2", "--mixed_precision", "bf16")
    assert len(losses(tmp_path / "run")) == 2


def test_epsilon_is_refused_with_the_weighting_that_grows_without_bound(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train(data, tmp_path / "run", "--prediction_type", "epsilon", "--max_train_steps", "1")
    assert stop.value.code == 2
    assert "--loss_weighting none" in capsys.readouterr().err
    train(data, tmp_path / "run", "--prediction_type", "epsilon", "--loss_weighting", "none", "--max_train_steps", "1")


@pytest.mark.slow
def test_shuffled_captions_cost_more_after_training(data, tmp_path):
    """The text path works end to end: colours are learnt first, so a wrong caption must raise the loss."""
    from video_dataset import TextVideoDataset

    flags = ["--max_train_steps", "70", "--optimizer", "muon", "--learning_rate", "1e-2", "--lr_warmup_steps", "5"]
    flags += ["--prediction_type", "sample", "--loss_weighting", "snr_plus_one", "--text_dropout", "0"]
    flags += [
        "--num_timesteps",
        "1000",
        "--ema_decay",
        "0.9",
        "--sample_every",
        "1000",
        "--validate_every",
        "1000",
        "--checkpoint_every",
        "1000",
    ]
    train(data, tmp_path / "run", *flags)
    diffusion, text_encoder = unpack_model(load_model(tmp_path / "run"))
    clips = TextVideoDataset(data, 4, 16, augment=False)
    videos = torch.stack([clips[i]["video"] for i in range(len(clips))]).repeat(4, 1, 1, 1, 1)
    noise, timesteps = torch.randn_like(videos), torch.full((len(videos),), 800)
    costs = []
    with torch.no_grad():
        for captions in (clips.captions(), np.roll(clips.captions(), 1).tolist()):
            embeddings, mask = text_encoder.encode(captions * 4)
            costs.append(diffusion(videos, embeddings, mask, noise=noise, timesteps=timesteps).item())
    assert costs[1] > 1.2 * costs[0]


def test_wandb_without_a_key_goes_offline_and_training_goes_on(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    argv = [
        "--data_dir",
        str(data),
        "--output_dir",
        str(tmp_path / "run"),
        "--preset",
        "tiny",
        "--max_train_steps",
        "2",
    ]
    train_text2video.main(train_text2video.parse_args(argv))
    assert "wandb: no API key, logging offline" in capsys.readouterr().out
    offline = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(offline) == 1
    _, state = load_checkpoint(list_checkpoints(tmp_path / "run")[0])
    assert offline[0].name.endswith(state["wandb_run_id"])


def test_tensorboard_gets_numbers_and_contact_sheets(data, tmp_path):
    pytest.importorskip("tensorboard")
    argv = [
        "--data_dir",
        str(data),
        "--output_dir",
        str(tmp_path / "run"),
        "--preset",
        "tiny",
        "--max_train_steps",
        "2",
    ]
    train_text2video.main(train_text2video.parse_args([*argv, "--report_to", "tensorboard"]))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    event_file = next((tmp_path / "run").rglob("events.out.tfevents.*"))
    events = EventAccumulator(str(event_file.parent)).Reload()
    assert "val/loss" in events.Tags()["scalars"] and events.Tags()["images"] == ["samples/contact_sheet"]
