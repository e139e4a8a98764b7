"""The benchmark for a GPU: every part runs with tiny networks, and nothing that fails takes the rest with it."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import parts, table
from benchmarks.gpu.rows import Rows
from benchmarks.memory_history import ROOT, alive_at_the_peak
from benchmarks.svd.plain_loop import PlainLoop
from benchmarks.svd.recipes import Clip
from models.svd.conditioning import Conditioning
from models.svd.objective import svd_loss
from tests.tiny_svd import tiny_svd_pipeline


@pytest.mark.benchmarks
def test_every_part_runs_on_a_cpu(tmp_path, capfd):
    gpu.main(gpu.parse_args(["--tiny", "--minutes", "20", "--output", str(tmp_path)]))
    stored = json.loads((tmp_path / "gpu.json").read_text())
    assert stored["parts"].keys() == parts.PARTS.keys() and stored["hardware"]["cores"] >= 1
    for name, part in stored["parts"].items():
        assert part["ended"] == "done", (name, part)
        failed = [row for row in part["rows"] if "failed" in row and "fp16 needs a GPU" not in row["failed"]]
        assert part["rows"] and not failed, (name, failed)
    text = (tmp_path / "gpu.md").read_text()
    assert "| learning | Muon, 2e-3 | steps | 4 |" in text and text in capfd.readouterr().out
    assert (tmp_path / "gpu_learning_0.png").stat().st_size > 5000


def part_of(monkeypatch, code: str) -> None:
    """Instead of a part such a program, which is told the folder for its figures."""
    popen = subprocess.Popen

    def start(command, **more):
        return popen([sys.executable, "-c", code, command[command.index("--output") + 1]], **more)

    monkeypatch.setattr(gpu.subprocess, "Popen", start)


WRITES = "import pathlib, sys, time; pathlib.Path(sys.argv[1], 'svd.json').write_text('[{\"what\": \"a\"}]'); "


@pytest.mark.parametrize(
    ("code", "ended", "words"),
    [
        ("time.sleep(60)", "stopped after 2 s", ""),
        ("print('no memory'); sys.exit(3)", "failed with status 3", "no memory"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL", ""),
    ],
)
def test_a_part_that_hangs_or_fails_leaves_its_rows_and_says_how_it_ended(monkeypatch, tmp_path, code, ended, words):
    part_of(monkeypatch, WRITES + code)
    found = gpu.answer("svd", 2, tmp_path, tiny=True)
    assert found["ended"] == ended and found["rows"] == [{"what": "a"}] and words in found["last_words"]


def test_a_row_that_fails_says_why_and_the_next_is_measured(tmp_path):
    def no_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    rows = Rows(tmp_path / "rows.json", 60)
    assert rows.row("first", no_memory) == {}
    assert rows.row("second", lambda: {"seconds": 0.123456, "steps": 7}, {"seconds": 0.12}) == {
        "seconds": 0.1235,
        "steps": 7,
    }
    rows.end = time.monotonic() - 1
    rows.row("third", lambda: {"seconds": 1.0})
    first, second, third = json.loads((tmp_path / "rows.json").read_text())
    assert first["failed"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    assert second["predicted"] == {"seconds": 0.12} and third["failed"] == "no time was left"


def test_what_is_far_from_its_prediction_is_named():
    rows = [
        {"what": "a step", "measured": {"peak_gib": 20.9, "seconds": 2.0}, "predicted": {"peak_gib": 20.0}},
        {"what": "another", "measured": {"peak_gib": 10.4}, "predicted": {"peak_gib": 10.0}},
        {"what": "a third", "failed": "no memory"},
    ]
    found = {"svd": {"ended": "done", "rows": rows}, "runs": {"ended": "stopped after 9 s", "rows": []}}
    assert table.differing(found) == []
    rows[0]["measured"]["peak_gib"] = 21.2
    assert table.differing(found) == ["svd, a step, peak_gib: 21.2 where 20 was predicted (+6%)"]
    hardware = {"gpu": "H100", "cpu": "", "cores": 16, "versions": {"torch": "2.11"}}
    text = table.markdown({"hardware": hardware, "date": "today", "command": "", "parts": found})
    for line in ("| svd | a step | peak_gib | 21.2 | 20 | 1.06 |", "| svd | a third |  | no memory |  |  |"):
        assert line in text
    assert "| runs | the part itself |  | stopped after 9 s |  |  |" in text


def test_parts_are_chosen_by_name_and_listed(capsys):
    gpu.main(gpu.parse_args(["--list", "--only", "svd", "runs", "--skip", "runs"]))
    assert capsys.readouterr().out.split()[0] == "svd"
    with pytest.raises(SystemExit) as stop:
        gpu.parse_args(["--only", "latent"])
    assert stop.value.code == 2 and "latents" in capsys.readouterr().err


def test_the_peak_is_what_was_alive_at_once():
    ours, diffusers = f"{ROOT}/models/layers.py", "/lib/site-packages/diffusers/models/unet.py"

    def event(action, addr, size, *files):
        return {
            "action": action,
            "addr": addr,
            "size": size,
            "frames": [{"filename": f, "line": 1, "name": "f"} for f in files],
        }

    events = [
        event("alloc", 1, 100, "/lib/site-packages/torch/nn.py", ours, "train.py"),
        event("alloc", 2, 50, diffusers, ours),
        event("free_requested", 1, 100),
        event("free_completed", 1, 100),
        event("alloc", 3, 80, "/usr/lib/python3/threading.py"),
        event("alloc", 4, 10, ours),
        event("free_completed", 9, 999),  # made before the record began
    ]
    assert alive_at_the_peak(events[:6]) == {"models/layers.py:f": 100, "models/unet.py:f": 50}
    events.insert(6, event("alloc", 5, 20, ours))
    assert alive_at_the_peak(events) == {"models/unet.py:f": 50, "elsewhere": 80, "models/layers.py:f": 30}


def test_the_plain_loops_loss_is_that_of_the_objective():
    """The same clip, noise and conditioning: two ways to write down one objective."""
    step = PlainLoop(tiny_svd_pipeline(), Clip(64, 64, 4), bf16=False)
    torch.manual_seed(0)
    latents, noise, sigma, image_latents, embeddings, time_ids = step.inputs()
    loss = step.loss(latents, noise, sigma, image_latents, embeddings, time_ids)
    conditioning = Conditioning(image_latents, embeddings, time_ids)
    expected, _ = svd_loss(step.unet, latents, conditioning, torch.tensor([sigma]), noise)
    torch.testing.assert_close(loss, expected.mean(), rtol=1e-4, atol=0)
    before = [parameter.detach().clone() for parameter in step.parameters]
    assert math.isfinite(step())
    assert any(not parameter.equal(old) for parameter, old in zip(step.parameters, before, strict=True))
    learning = [name for name, parameter in step.unet.named_parameters() if parameter.requires_grad]
    assert learning and all("temporal_transformer_block" in name for name in learning)


def test_help_needs_no_torch():
    script = "import sys; from benchmarks.gpu import __main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(ROOT)).returncode == 0
