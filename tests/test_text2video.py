"""Train and generate, end to end through the scripts' main, on generated clips with the tiny preset."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import generate_text2video
import train_text2video
from models.diffusion import CaptionedDiffusion
from models.text_encoder import BUILTIN
from tests.test_text_encoder import clip_folder  # noqa: F401  (a fixture)
from tests.tiny_models import tiny_image_model
from utils.cli import Diverged, Stopped, UserError
from utils.logs.metrics import read_metrics
from utils.runs.checkpoint import list_checkpoints, load_checkpoint
from utils.runs.model_file import load_model, unpack_model
from utils.video.decode import probe_video, read_frames
from video_dataset import write_demo_dataset

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo_video_data"
    write_demo_dataset(folder, num_clips=12, num_frames=6, frame_size=32)
    return folder


def train(data, output_dir, *flags, preset="tiny"):
    argv = ["--data_dir", str(data), "--output_dir", str(output_dir), "--preset", preset, "--no_wandb"]
    train_text2video.main(train_text2video.parse_args([*argv, "--log_every", "1", *flags]))


@pytest.fixture(scope="session")
def run_dir(data, tmp_path_factory) -> Path:
    """A finished run of six steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "text2video_test"
    train(
        data,
        run_dir,
        "--max_train_steps",
        "6",
        "--validate_every",
        "3",
        "--sample_every",
        "6",
        "--checkpoint_every",
        "2",
    )
    return run_dir


def generate(*flags):
    generate_text2video.main(generate_text2video.parse_args([*map(str, flags), "--mixed_precision", "no"]))


def losses(run_dir) -> list[float]:
    return [row["train/loss"] for row in read_metrics(run_dir / "metrics.jsonl") if "train/loss" in row]


# The run folder


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


# Resuming


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (2, 1), (0, 3)])
def test_resumed_training_equals_uninterrupted_training(data, tmp_path, workers, accumulation):
    """Bit for bit on the CPU: losses, weights, moving average, optimizer; stopped in the middle of an epoch."""
    flags = ["--batch_size", "2", "--num_workers", str(workers), "--gradient_accumulation_steps", str(accumulation)]
    flags += ["--max_train_steps", "9", "--validate_every", "4", "--checkpoint_every", "3"]
    flags += ["--sample_every", "4" if accumulation == 1 else "9"]
    train(data, tmp_path / "whole", *flags)
    train(data, tmp_path / "parts", *flags)
    for run in (tmp_path / "parts",):  # as if it had been stopped after step 6
        for path in list_checkpoints(run)[:1]:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    assert list_checkpoints(tmp_path / "parts")[0].name == "checkpoint-00000006"
    train(data, tmp_path / "parts", *flags, "--resume", "latest")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    (whole, state), (parts, other) = (
        load_checkpoint(tmp_path / run / "checkpoint-00000009") for run in ("whole", "parts")
    )
    assert whole.keys() == parts.keys() == {"unet", "text_encoder", "ema", "optimizer"}
    for group in whole:
        for name in whole[group]:
            assert torch.equal(whole[group][name], parts[group][name]), (group, name)
    assert state == other


def test_changed_settings_and_data_are_refused_on_resume(run_dir, data, tmp_path):
    with pytest.raises(UserError, match="started with other settings: --learning_rate 0.0001 -> 0.5"):
        train(data, run_dir, "--resume", "latest", "--learning_rate", "0.5", "--max_train_steps", "6")
    other = tmp_path / "other"
    write_demo_dataset(other, num_clips=12, num_frames=6, frame_size=32, seed=5)
    with pytest.raises(UserError, match="--data_dir: not the clips"):
        train(other, run_dir, "--resume", "latest", "--max_train_steps", "6")


def test_a_finished_run_is_left_alone_and_auto_starts_or_resumes(data, tmp_path, capsys):
    for expected in ("done: ", "has its 2 steps already"):
        train(data, tmp_path / "run", "--resume", "auto", "--max_train_steps", "2")
        assert expected in capsys.readouterr().out
    assert len(losses(tmp_path / "run")) == 2


def test_sigterm_saves_and_leaves_with_143(data, tmp_path):
    command = [sys.executable, "-u", str(ROOT / "train_text2video.py"), "--data_dir", str(data), "--preset", "tiny"]
    command += ["--output_dir", str(tmp_path / "run"), "--no_wandb", "--max_train_steps", "100000", "--log_every", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(read_metrics(metrics)) >= 2):
        pass
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "continue with: " in output and "Traceback" not in output
    _, state = load_checkpoint(list_checkpoints(tmp_path / "run")[0])
    assert state["step"] == read_metrics(metrics)[-1]["step"]


def test_a_signal_stops_the_run_after_a_complete_checkpoint(data, tmp_path, monkeypatch):
    from models.diffusion import TextToVideoDiffusion

    forward, calls = TextToVideoDiffusion.forward, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(TextToVideoDiffusion, "forward", interrupted)
    with pytest.raises(Stopped) as stopped:
        train(data, tmp_path / "run", "--max_train_steps", "50")
    assert stopped.value.exit_status == 130
    assert load_checkpoint(list_checkpoints(tmp_path / "run")[0])[1]["step"] == 3


def test_a_loss_that_is_not_a_number_stops_before_the_weights_change(data, tmp_path, monkeypatch):
    from models.diffusion import TextToVideoDiffusion

    forward, calls = TextToVideoDiffusion.forward, []

    def broken(self, *args, **kwargs):
        calls.append(1)
        return forward(self, *args, **kwargs) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(TextToVideoDiffusion, "forward", broken)
    with pytest.raises(Diverged, match="step 4: loss nan"):
        train(data, tmp_path / "run", "--max_train_steps", "9", "--checkpoint_every", "3")
    tensors, state = load_checkpoint(list_checkpoints(tmp_path / "run")[0])
    assert state["step"] == 3 and all(torch.isfinite(t).all() for t in tensors["unet"].values())


# Ways to train


@pytest.mark.parametrize("clips", [1, 3])
def test_very_few_clips_still_train_and_validate(data, tmp_path, clips):
    train(data, tmp_path / "run", "--max_samples", str(clips), "--num_epochs", "2", "--batch_size", "1")
    steps = 2 * max(1, clips - 1)
    assert len(losses(tmp_path / "run")) == steps
    assert (tmp_path / "run" / "best_model.pth").exists()


def test_the_guides_network_and_a_frozen_clip_train_on_pixels(data, tmp_path, clip_folder, capsys):  # noqa: F811
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


def test_a_frozen_encoder_read_once_trains_as_one_read_in_every_step(data, tmp_path, clip_folder, capsys):  # noqa: F811
    flags = ["--text_encoder", str(clip_folder), "--mixed_precision", "no", "--max_train_steps", "4"]
    train(data, tmp_path / "once", *flags)
    assert "--text_cache_mb" not in capsys.readouterr().out
    train(data, tmp_path / "always", *flags, "--text_cache_mb", "0")
    assert "--text_cache_mb allows 0: computed in every step" in capsys.readouterr().out
    np.testing.assert_allclose(losses(tmp_path / "once"), losses(tmp_path / "always"), rtol=1e-5)
    once, always = (load_model(tmp_path / name) for name in ("once", "always"))
    assert once["val_loss"] == pytest.approx(always["val_loss"], rel=1e-5)


def test_a_larger_resolution_starts_from_the_weights_of_a_smaller_one(run_dir, data, tmp_path):
    flags = ["--init_from", str(run_dir), "--frame_size", "32", "--num_frames", "6", "--max_train_steps", "1"]
    train(data, tmp_path / "run", *flags, "--learning_rate", "1e-12")
    before, after = load_model(run_dir), load_model(tmp_path / "run")
    assert after["height"] == 32 and after["text_encoder"]["tokenizer"] == before["text_encoder"]["tokenizer"]
    for name, tensor in before["unet"].items():
        torch.testing.assert_close(after["unet"][name], tensor, rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="--init_from: .* has another network"):
        train(data, tmp_path / "other", *flags, "--model_channels", "32")


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


def test_shuffled_captions_cost_more_after_training(data, tmp_path):
    """The text path works end to end: colours are learnt first, so a wrong caption must raise the loss."""
    from video_dataset import TextVideoDataset

    flags = ["--max_train_steps", "120", "--batch_size", "8", "--learning_rate", "3e-3", "--ema_decay", "0.9"]
    flags += ["--prediction_type", "sample", "--loss_weighting", "snr_plus_one", "--text_dropout", "0"]
    flags += [
        "--sample_every",
        "1000",
        "--validate_every",
        "1000",
        "--checkpoint_every",
        "1000",
        "--lr_warmup_steps",
        "5",
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


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_two_processes_share_the_work_and_agree(data, tmp_path):
    """torchrun on the CPU: really two processes, one set of weights; then the prompts are split over two as well."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    common = ["--data_dir", str(data), "--preset", "tiny", "--no_wandb", "--max_train_steps", "3", "--log_every", "1"]
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import hashlib, sys, torch, train_text2video\n"
        "from accelerate import PartialState\n"
        "from models.unet3d import UNet3D\n"
        "built = []\n"
        "init = UNet3D.__init__\n"
        "def remember(self, *args, **kwargs):\n"
        "    init(self, *args, **kwargs)\n"
        "    built.append((self, PartialState().process_index, PartialState().num_processes))\n"
        "UNet3D.__init__ = remember\n"
        "train_text2video.main(train_text2video.parse_args(sys.argv[1:]))\n"
        "unet, rank, processes = built[-1]\n"
        "weights = torch.cat([p.detach().flatten() for p in unet.parameters()])\n"
        "print('PROBE', rank, processes, hashlib.sha256(weights.numpy().tobytes()).hexdigest(), flush=True)\n"
    )
    run = tmp_path / "run"
    result = subprocess.run(
        [*torchrun, str(probe), *common, "--output_dir", str(run)], env=env, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = re.findall(r"PROBE (\d) 2 (\w{64})", result.stdout)
    assert sorted(rank for rank, _ in found) == ["0", "1"] and len({weights for _, weights in found}) == 1, (
        result.stdout
    )
    assert len(losses(run)) == 3
    command = [
        *torchrun,
        str(ROOT / "generate_text2video.py"),
        "--checkpoint",
        str(run),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    command += ["--prompts", "a red circle", "a blue square", "a green circle", "--num_inference_steps", "2"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 3 and (tmp_path / "out" / "index.html").exists()


def test_fsdp_trains_as_two_whole_copies_do_and_resumes(data, tmp_path):
    """With the settings of configs/accelerate/fsdp.yaml two processes that hold half of each weight take the same steps
    as two with whole ones, and their checkpoint and model files hold whole tensors.

    accelerate offers FSDP to accelerators alone, so the processes claim to be some; all the rest is as there.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    config = yaml.safe_load((ROOT / "configs/accelerate/fsdp.yaml").read_text())["fsdp_config"]
    names = {"fsdp_transformer_layer_cls_to_wrap": "fsdp_transformer_cls_to_wrap"}  # as accelerate launch calls it
    fsdp = {names.get(name, name).upper(): str(value).lower() for name, value in config.items()}
    fsdp["FSDP_TRANSFORMER_CLS_TO_WRAP"] = config["fsdp_transformer_layer_cls_to_wrap"]
    fsdp["ACCELERATE_USE_FSDP"] = "true"
    script = tmp_path / "fsdp.py"
    script.write_text(
        "import sys, torch\n"
        "from accelerate.state import PartialState\n"
        "from accelerate.utils import DistributedType\n"
        "init = PartialState.__init__\n"
        "def as_on_gpus(self, *args, **kwargs):\n"
        "    first = not PartialState._shared_state\n"
        "    init(self, *args, **kwargs)\n"
        "    if first:  # later ones share the state, in which it has become FSDP\n"
        "        self.distributed_type = DistributedType.MULTI_GPU\n"
        "PartialState.__init__ = as_on_gpus\n"
        "import train_text2video\n"
        "from utils import checkpoint\n"
        "whole = checkpoint.whole\n"
        "def count(tensor):\n"
        "    checkpoint.spread_tensors += isinstance(tensor, checkpoint.DTensor)\n"
        "    return whole(tensor)\n"
        "checkpoint.whole, checkpoint.spread_tensors = count, 0\n"
        "train_text2video.main(train_text2video.parse_args(sys.argv[1:]))\n"
        "print('SPREAD', checkpoint.spread_tensors, flush=True)\n"
    )

    def launch(program, run, steps, env, *flags):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
        command += [str(program), "--data_dir", str(data), "--preset", "tiny", "--no_wandb", "--mixed_precision", "no"]
        command += ["--output_dir", str(run), "--max_train_steps", str(steps), "--log_every", "1", *flags]
        command += ["--lr_scheduler", "constant", "--checkpoint_every", "2"]
        result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    launch(ROOT / "train_text2video.py", tmp_path / "ddp", 4, env)
    output = launch(script, tmp_path / "fsdp", 2, env | fsdp)
    assert int(re.search(r"SPREAD (\d+)", output)[1]) > 100, output
    launch(script, tmp_path / "fsdp", 4, env | fsdp, "--resume", "latest")
    np.testing.assert_allclose(losses(tmp_path / "fsdp"), losses(tmp_path / "ddp"), rtol=1e-4)
    expected, _ = load_checkpoint(list_checkpoints(tmp_path / "ddp")[0])
    found, _ = load_checkpoint(list_checkpoints(tmp_path / "fsdp")[0])
    for group in ("unet", "text_encoder", "ema"):
        torch.testing.assert_close(found[group], expected[group], rtol=1e-3, atol=1e-4)
    unpack_model(load_model(tmp_path / "fsdp"))


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


# Generating


def test_one_prompt_makes_every_kind_of_file(run_dir, tmp_path):
    out = tmp_path / "out"
    generate(
        "--checkpoint",
        run_dir / "best_model.pth",
        "--prompts",
        "a red circle moving right",
        "--output_dir",
        out,
        "--save_gif",
        "--save_frames",
        "--visualize",
        "--num_inference_steps",
        3,
        "--seed",
        5,
    )
    (video,) = out.glob("*.mp4")
    assert re.fullmatch(r"0000_5_a-red-circle-moving-right_[0-9a-f]{8}", video.stem)
    info = probe_video(video)
    assert (info.frames, info.width, info.height, info.fps) == (4, 16, 16, 8)
    assert len(list((out / f"{video.stem}_frames").glob("*.png"))) == 4
    assert probe_video(out / f"{video.stem}.gif").frames == 4
    assert (out / f"{video.stem}.png").exists() and (out / "contact_sheet.png").exists()
    sidecar = json.loads((out / f"{video.stem}.json").read_text())
    assert sidecar["prompt"] == "a red circle moving right" and sidecar["seed"] == 5
    assert len(sidecar["checkpoint_sha256"]) == 64 and sidecar["versions"]["torch"] == torch.__version__
    page = (out / "index.html").read_text()
    assert video.name in page and "a red circle moving right" in page
    assert not [path for path in out.rglob(".*")]


def test_the_same_command_makes_the_same_videos_and_skips_what_is_there(run_dir, tmp_path, capsys):
    flags = [
        "--checkpoint",
        run_dir,
        "--prompts",
        "a red circle",
        "a red circle",
        "a blue square",
        "--num_inference_steps",
        2,
    ]
    generate(*flags, "--output_dir", tmp_path / "a")
    generate(*flags, "--output_dir", tmp_path / "b", "--batch_size", 1)
    first, second = (sorted((tmp_path / name).glob("*.mp4")) for name in "ab")
    assert len(first) == 3 and [path.name for path in first] == [path.name for path in second]
    for a, b in zip(first, second, strict=True):
        frames = [read_frames(probe_video(path), range(4)).astype(int) for path in (a, b)]
        assert np.abs(frames[0] - frames[1]).mean() < 0.5  # rounding, of batches and in H.264
    times = [path.stat().st_mtime_ns for path in first]
    generate(*flags, "--output_dir", tmp_path / "a")
    assert [path.stat().st_mtime_ns for path in first] == times
    assert "3 of 3 videos are there already" in capsys.readouterr().out
    generate(*flags, "--output_dir", tmp_path / "a", "--overwrite")
    assert [path.stat().st_mtime_ns for path in first] != times


def test_settings_of_the_command_line_override_those_of_the_training(run_dir, tmp_path):
    generate(
        "--checkpoint",
        run_dir,
        "--prompts",
        "a red circle",
        "--output_dir",
        tmp_path,
        "--num_frames",
        6,
        "--height",
        24,
        "--width",
        32,
        "--fps",
        12,
        "--sampler",
        "ddim",
        "--num_inference_steps",
        2,
    )
    info = probe_video(next(tmp_path.glob("*.mp4")))
    assert (info.frames, info.height, info.width, info.fps) == (6, 24, 32, 12)


def test_ddpm_takes_the_guides_1000_steps_by_default(run_dir):
    args = generate_text2video.parse_args(["--checkpoint", str(run_dir), "--prompts", "x", "--sampler", "ddpm"])
    assert generate_text2video.Generator(args, run_dir, "cpu").num_inference_steps == 1000
    args = generate_text2video.parse_args(["--checkpoint", str(run_dir), "--prompts", "x"])
    assert generate_text2video.Generator(args, run_dir, "cpu").num_inference_steps == 25


@pytest.mark.parametrize(
    "prompt",
    [
        "../../escape",
        "/absolute",
        "C:\\x",
        "a" * 300,
        "红" * 90,
        'sl/ash: "quote" %02d\nnewline',
        "..",
        "CON",
        "🎥",
        "\x1b[2J",
    ],
)
def test_no_prompt_writes_outside_the_output_folder(run_dir, tmp_path, prompt):
    out = tmp_path / "out"
    generate("--checkpoint", run_dir, "--prompts", prompt, "--output_dir", out, "--num_inference_steps", 1)
    (video,) = out.glob("*.mp4")
    assert len(video.name.encode()) < 120 and {path.name for path in tmp_path.iterdir()} == {"out"}
    assert json.loads(video.with_suffix(".json").read_text())["prompt"] == prompt.strip()


def test_prompt_files_become_sections_of_the_page(run_dir, tmp_path):
    for name, text in (
        ("seen_prompts", "a red circle\n\n a blue square \n"),
        ("heldout_prompts", "\ufeffa <b>green</b> one"),
    ):
        (tmp_path / f"{name}.txt").write_text(text)
    files = [tmp_path / "seen_prompts.txt", tmp_path / "heldout_prompts.txt"]
    generate(
        "--checkpoint", run_dir, "--prompts_file", *files, "--output_dir", tmp_path / "out", "--num_inference_steps", 1
    )
    page = (tmp_path / "out" / "index.html").read_text()
    assert "seen prompts (2)" in page and "heldout prompts (1)" in page and "&lt;b&gt;green" in page
    assert page.count("<video ") == 3


def test_unknown_and_cut_words_are_named(run_dir, tmp_path, capsys):
    generate(
        "--checkpoint",
        run_dir,
        "--prompts",
        "a red elephant",
        "circle " * 90,
        "--output_dir",
        tmp_path,
        "--num_inference_steps",
        1,
    )
    errors = capsys.readouterr().err
    assert "no training caption had the word(s) elephant" in errors
    assert "longer than 77 tokens; used: circle circle" in errors and "; cut off: circle circle" in errors


def interact(monkeypatch, lines: str, *flags):
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    generate(*flags)


def test_interactive_mode_asks_until_quit(run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    Path("checkpoints/text2video_test").symlink_to(run_dir)
    lines = "\nnot/there.pth\n7\n1\n\n\x1b[2J\na red circle\na blue \x07square\nquit\nnever read\n"
    interact(monkeypatch, lines, "--output_dir", "out", "--num_inference_steps", 1)
    output = capsys.readouterr().out
    assert "1  checkpoints/text2video_test/best_model.pth" in output and "there is no file not/there.pth" in output
    prompts = [json.loads(path.read_text())["prompt"] for path in sorted(Path("out").glob("*.json"))]
    assert prompts == ["[2J", "a red circle", "a blue square"]


@pytest.mark.parametrize("lines", ["", "1\n", "quit\n", "1\nexit\n"])
def test_end_of_input_leaves_with_zero(run_dir, tmp_path, monkeypatch, lines):
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    Path("checkpoints/text2video_test").symlink_to(run_dir)
    interact(monkeypatch, lines, "--output_dir", "out")
    assert not list(Path().glob("out/*.mp4"))


def test_weights_that_do_not_fit_their_description_are_refused(run_dir, tmp_path):
    model = torch.load(run_dir / "best_model.pth", weights_only=True)
    model["unet_config"]["model_channels"] = 32
    torch.save(model, tmp_path / "model.pth")
    with pytest.raises(UserError, match="weights do not fit its own description"):
        generate("--checkpoint", tmp_path / "model.pth", "--prompts", "x", "--output_dir", tmp_path / "out")
