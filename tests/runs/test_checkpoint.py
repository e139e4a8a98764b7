"""Checkpoints are whole or absent."""

import json

import pytest
import torch

from utils.cli import UserError
from utils.runs.checkpoint import (
    Resumed,
    find_run,
    list_checkpoints,
    newest_checkpoint,
    restore_training_state,
    save_checkpoint,
    training_state,
)
from utils.training.optimizers import learning_rate_schedule


def some_tensors(value: float) -> dict:
    return {"unet": {"a": torch.full((3,), value), "b": torch.arange(4)}, "ema": {"0": torch.ones(2)}}


def test_checkpoint_round_trip_keeps_the_newest(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, some_tensors(step), {"step": step}, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-00000003", "checkpoint-00000002"]
    folder, tensors, state = newest_checkpoint(tmp_path)
    assert folder.name == "checkpoint-00000003" and state == {"step": 3}
    assert torch.equal(tensors["unet"]["a"], torch.full((3,), 3.0)) and tensors["unet"]["b"].dtype == torch.int64
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_resumed_from_an_older_checkpoint_the_later_ones_give_way_and_foreign_folders_stay(tmp_path):
    """What was just written is never the one that is removed, and it is what resumes next."""
    for step in (2, 4, 6):
        save_checkpoint(tmp_path, step, some_tensors(step), {"step": step}, keep=3)
    for name in ("checkpoint-00000006-good", "checkpoint-best", "damaged-checkpoint-00000008"):
        (tmp_path / name).mkdir()
    save_checkpoint(tmp_path, 3, some_tensors(3), {"step": 3}, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-00000003", "checkpoint-00000002"]
    assert newest_checkpoint(tmp_path)[2] == {"step": 3}
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("name", ["unet.safetensors", "ema.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over_by_name(tmp_path, capsys, name, damage):
    save_checkpoint(tmp_path, 1, some_tensors(1), {"step": 1}, keep=2)
    file = save_checkpoint(tmp_path, 2, some_tensors(2), {"step": 2}, keep=2) / name
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-1])
    else:
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :])
    assert newest_checkpoint(tmp_path)[2] == {"step": 1}
    assert "checkpoint-00000002" in capsys.readouterr().err


def test_a_run_whose_checkpoints_are_all_damaged_never_starts_over(tmp_path):
    (save_checkpoint(tmp_path, 1, some_tensors(1), {"step": 1}, keep=2) / "state.json").write_text("{}")
    for resume in ("latest", "auto", str(tmp_path)):
        with pytest.raises(UserError, match="no checkpoint of .* can be used"):
            find_run(resume, tmp_path, tmp_path.parent, "text2video")


def test_failed_writing_leaves_the_old_checkpoint_and_no_rest(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, some_tensors(1), {"step": 1}, keep=2)
    monkeypatch.setattr("utils.runs.checkpoint.sha256", lambda path: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(UserError, match="disk full writing .*checkpoint-00000002: needs 64 bytes, .* are free"):
        save_checkpoint(tmp_path, 2, some_tensors(2), {"step": 2}, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001"]


def test_resume_finds_the_run_or_says_why_not(tmp_path):
    root = tmp_path / "checkpoints"
    run_dir, resumed = find_run(None, None, root, "text2video")
    assert run_dir.parent == root and run_dir.name.startswith("text2video_2") and resumed is None
    assert find_run("auto", tmp_path / "new", root, "text2video") == (tmp_path / "new", None)
    with pytest.raises(UserError, match="--resume: there is no checkpoint in"):
        find_run("latest", None, root, "text2video")
    with pytest.raises(UserError, match="--resume: there is no checkpoint in"):
        find_run(str(tmp_path), None, root, "text2video")
    old, new = root / "text2video_20260101_000000", root / "text2video_20260102_000000"
    save_checkpoint(old, 5, some_tensors(5), {"step": 5}, keep=2)
    save_checkpoint(new, 7, some_tensors(7), {"step": 7}, keep=2)
    save_checkpoint(new, 9, some_tensors(9), {"step": 9}, keep=2)
    for resume, expected in (("latest", (new, 9)), (str(old), (old, 5)), (str(new / "checkpoint-00000007"), (new, 7))):
        run_dir, resumed = find_run(resume, None, root, "text2video")
        assert (run_dir, resumed.state["step"]) == expected
    with pytest.raises(UserError, match="holds a run; continue it with --resume latest"):
        find_run(None, new, root, "text2video")


def test_optimizer_state_survives_as_plain_tensors():
    def trained(steps, optimizer, layer):
        for step in range(steps):
            layer(torch.full((1, 2), 1.0 + step)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    trained(3, optimizer, layer)
    schedule = learning_rate_schedule("constant", optimizer, 0, 10)
    tensors, plain = training_state(optimizer, schedule, None, None)
    tensors = {"optimizer": {key: value.clone() for key, value in tensors["optimizer"].items()}}
    twin = torch.nn.Linear(2, 2)
    twin.load_state_dict(layer.state_dict())
    other = torch.optim.AdamW(twin.parameters(), lr=0.5, fused=True)
    resumed = Resumed(tensors, json.loads(json.dumps(plain)))
    restore_training_state(resumed, other, learning_rate_schedule("constant", other, 0, 10), None, None)
    trained(3, optimizer, layer)
    trained(3, other, twin)
    assert torch.equal(layer.weight, twin.weight)
