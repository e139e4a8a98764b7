"""A training that is stopped, refused or resumed."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from tests.text2video.running import ROOT, losses, train
from utils.cli import Diverged, Stopped, UserError
from utils.data.demo_dataset import write_demo_dataset
from utils.logs.metrics import read_metrics
from utils.runs.checkpoint import list_checkpoints, load_checkpoint


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
