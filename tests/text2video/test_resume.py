"""A training that is stopped, refused or resumed."""

import os
import shutil
import signal

import pytest
import torch

from tests.text2video.running import losses, train
from utils.cli import Diverged, Stopped, UserError
from utils.demo_data.demo_dataset import write_demo_dataset
from utils.runs.checkpoint import list_checkpoints, load_checkpoint


def test_resumed_training_equals_uninterrupted_training(data, tmp_path):
    """Bit for bit on the CPU: losses, weights, moving average, optimizer; stopped in the middle of an epoch.

    With workers and accumulated gradients, and stopped by signals: tests/reliability/.
    """
    flags = ["--batch_size", "2", "--validate_every", "4", "--sample_every", "4"]
    flags += ["--max_train_steps", "9", "--checkpoint_every", "3"]
    train(data, tmp_path / "whole", *flags)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(list_checkpoints(tmp_path / "parts")[0])  # as if it had been stopped after step 6
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
    same = ("--resume", "latest", "--max_train_steps", "6", "--num_timesteps", "1000")
    with pytest.raises(UserError, match="started with other settings: --learning_rate 0.0001 -> 0.5"):
        train(data, run_dir, *same, "--learning_rate", "0.5")
    other = tmp_path / "other"
    write_demo_dataset(other, num_clips=12, num_frames=6, frame_size=32, seed=5)
    with pytest.raises(UserError, match="--data_dir: not the clips"):
        train(other, run_dir, *same)


def test_a_finished_run_is_left_alone_and_auto_starts_or_resumes(data, tmp_path, capsys):
    for expected in ("done: ", "has its 2 steps already"):
        train(data, tmp_path / "run", "--resume", "auto", "--max_train_steps", "2")
        assert expected in capsys.readouterr().out
    assert len(losses(tmp_path / "run")) == 2


def test_a_signal_stops_the_run_after_a_complete_checkpoint(data, tmp_path, monkeypatch):
    from models.diffusion.text2video import TextToVideoDiffusion

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
    from models.diffusion.text2video import TextToVideoDiffusion

    forward, calls = TextToVideoDiffusion.forward, []

    def broken(self, *args, **kwargs):
        calls.append(1)
        return forward(self, *args, **kwargs) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(TextToVideoDiffusion, "forward", broken)
    with pytest.raises(Diverged, match="step 4: loss nan"):
        train(data, tmp_path / "run", "--max_train_steps", "9", "--checkpoint_every", "3")
    tensors, state = load_checkpoint(list_checkpoints(tmp_path / "run")[0])
    assert state["step"] == 3 and all(torch.isfinite(t).all() for t in tensors["unet"].values())
