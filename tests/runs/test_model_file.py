"""The model file."""

import os

import pytest
import torch

from utils.cli import UserError
from utils.runs.checkpoint import (
    CheckpointError,
    load_checkpoint,
)
from utils.runs.model_file import load_model, save_model


def test_model_file_holds_plain_data_and_executes_nothing(tmp_path):
    path = tmp_path / "best_model.pth"
    save_model(path, {"format": 1, "unet": {"a": torch.ones(2)}, "step": 3})
    assert torch.load(path, weights_only=True)["step"] == 3
    assert load_model(tmp_path)["step"] == 3  # the run folder will do

    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"format": 1, "unet": Hostile()}, tmp_path / "hostile.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").touch()
    for name in ("hostile.pth", "text.pth", "empty.pth"):
        with pytest.raises(UserError, match=f"{name} is not a model"):
            load_model(tmp_path / name)
    assert not (tmp_path / "executed").exists()
    save_model(path, {"format": 99})
    with pytest.raises(UserError, match="format 99"):
        load_model(path)
    with pytest.raises(UserError, match="there is no file"):
        load_model(tmp_path / "missing.pth")


def test_damaged_checkpoint_is_an_error_of_its_own_kind(tmp_path):
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        load_checkpoint(tmp_path)
