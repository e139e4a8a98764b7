"""What the trainers share: order of samples, seeds, metrics, moving averages, signals, checkpoints."""

import json
import os
import signal
from itertools import islice

import pytest
import torch
from diffusers.training_utils import EMAModel

from utils.cli import Stopped, UserError
from utils.hardware import choose_precision
from utils.logs.metrics import Metrics
from utils.runs.checkpoint import (
    CheckpointError,
    Resumed,
    find_run,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    restore_training_state,
    save_checkpoint,
    training_state,
)
from utils.runs.model_file import load_model, save_model
from utils.training.ema import ema_weights
from utils.training.optimizers import learning_rate_schedule
from utils.training.order import EndlessSampler, seed_step
from utils.training.signals import StopSignals


def test_each_epoch_is_another_permutation_of_all_samples():
    samples = list(islice(EndlessSampler(7, seed=1), 21))
    for epoch in range(3):
        part = samples[7 * epoch : 7 * epoch + 7]
        assert {e for e, _ in part} == {epoch} and sorted(i for _, i in part) == list(range(7))
    assert [i for _, i in samples[:7]] != [i for _, i in samples[7:14]]


def test_order_goes_on_where_it_was_stopped_and_depends_on_the_seed():
    whole = list(islice(EndlessSampler(7, seed=1), 30))
    assert list(islice(EndlessSampler(7, seed=1, start=11), 19)) == whole[11:]
    assert list(islice(EndlessSampler(7, seed=2), 30)) != whole


def test_processes_share_the_samples_without_overlap():
    whole = list(islice(EndlessSampler(7, seed=1), 30))
    ranks = [list(islice(EndlessSampler(7, seed=1, rank=r, world_size=3), 10)) for r in range(3)]
    assert [sample for trio in zip(*ranks, strict=True) for sample in trio] == whole


def test_random_numbers_of_a_step_do_not_depend_on_the_steps_before():
    seed_step(3, 10, 0, 0)
    expected = torch.randn(4)
    seed_step(3, 9, 0, 0)
    torch.randn(100)
    seed_step(3, 10, 0, 0)
    assert torch.equal(torch.randn(4), expected)
    seed_step(3, 10, 1, 0)
    assert not torch.equal(torch.randn(4), expected)


def test_moving_average_is_lent_and_the_live_weights_come_back():
    layer = torch.nn.Linear(2, 2)
    ema = EMAModel(layer.parameters(), decay=0.5)
    live = [parameter.clone() for parameter in layer.parameters()]
    with torch.no_grad():
        for shadow in ema.shadow_params:
            shadow.fill_(7)
    with ema_weights(ema, layer.parameters()):
        assert (layer.weight == 7).all()
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), live, strict=True))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_asks_to_stop_and_does_not_interrupt(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        os.kill(os.getpid(), number)
        assert signals.received == number
    assert signal.getsignal(number) == before
    with pytest.raises(Stopped) as stopped:
        signals.leave()
    assert stopped.value.exit_status == 128 + number


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, 0, lambda *args, **kwargs: None, main_process=True)
    for step in (1, 2, 3):
        metrics.write(step, loss=0.1 * step)
    path.write_text(path.read_text() + '{"step": 4, "lo')  # a kill in the middle of a row
    again = Metrics(path, 2, lambda *args, **kwargs: None, main_process=True)
    again.write(3, loss=0.5)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.1), (2, 0.2), (3, 0.5)]


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(UserError, match="--mixed_precision: fp16 needs a GPU"):
        choose_precision("fp16", on_cpu=True)


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
