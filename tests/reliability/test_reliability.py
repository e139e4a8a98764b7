"""A quick half of each measurement that `make reliability` makes whole."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.badinput.place import Shared
from tests.faults.place import Place
from tests.reliability.corrupt import damages, train_twice_saved
from tests.reliability.resume_exact import Ran, difference, exactness
from tests.reliability.time_to_error import quick_cases, time_errors
from tests.reliability.tiny_runs import TRAINERS
from tests.security.calls import in_the_repository, unsafe_calls
from tests.security.text import escaping_prompts
from utils.runs.checkpoint import MANIFEST, CheckpointError, load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return Shared(tmp_path_factory.mktemp("reliability") / "shared")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_run_stopped_by_sigterm_and_resumed_equals_one_that_was_not(trainer, shared, tmp_path):
    some = {"steps": 5, "stops": (1, 3), "workers": (2,), "accumulations": (2,), "trainers": (trainer,)}
    ((*_, found),) = exactness(shared, tmp_path, **some)
    assert not found.exists, found


def test_one_bit_one_sample_and_one_number_make_a_difference():
    weight = torch.tensor([1.0, 2.0])
    run = Ran(["a"], [{"step": 1, "time": 5.0, "train/loss": 0.5}], {"unet": {"w": weight}}, {"step": 1})
    other_bit = weight.view(torch.int32).bitwise_xor(torch.tensor([1, 0], dtype=torch.int32)).view(torch.float32)
    assert not difference(run, replace(run, rows=[{**run.rows[0], "time": 6.0}])).exists
    for changed in (
        replace(run, batches=["b"]),
        replace(run, rows=[{**run.rows[0], "train/loss": 0.5000001}]),
        replace(run, rows=run.rows * 2),
        replace(run, tensors={"unet": {"w": other_bit}}),
        replace(run, tensors={"unet": {"w": weight.double()}}),
        replace(run, tensors={**run.tensors, "ema": {"w": weight}}),
        replace(run, state={"step": 2}),
    ):
        assert difference(run, changed).exists, changed


@pytest.mark.slow
def test_no_checkpoint_is_lost_to_kill_9(tmp_path):
    """In a process of its own: the one of the tests has threads by now, and cannot be forked."""
    command = [sys.executable, "-m", "tests.reliability.kill9", "--n", "4", "--json", str(tmp_path / "kills.json")]
    process = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    assert found["kills"] >= 4 and 0 < found["inside_a_save"] < found["kills"]
    assert found["problems"] == 0 and found["worst_steps_lost"] <= found["interval"]
    assert found["torch_save"]["unreadable"] > 0  # what the contrast is there to show


def test_damage_is_noticed_and_the_run_goes_on_from_the_checkpoint_before(shared, tmp_path):
    run = train_twice_saved("train_text2video", shared, tmp_path / "run")
    found = damages([run], 12)
    assert [each for each in found if not each["caught"]] == []
    assert {each["damage"] for each in found} == {"flip", "cut", "missing"}
    assert any(not each["by_library"] for each in found)  # or nobody would need our digests


def test_every_bit_and_every_cut_of_a_manifest_is_noticed(tmp_path):
    folder = save_checkpoint(tmp_path, 17, {"unet": {"w": torch.ones(2)}}, {"step": 17}, keep=2)
    content = (folder / MANIFEST).read_bytes()
    flips = (
        content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
        for place in range(len(content))
        for bit in range(8)
    )
    for damaged in (*flips, *(content[:end] for end in range(len(content)))):
        (folder / MANIFEST).write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(folder)
    (folder / MANIFEST).write_bytes(content)
    load_checkpoint(folder)


@pytest.mark.parametrize("name", ["/dev/zero", "../other", "device"])
def test_a_manifest_that_names_a_device_or_another_folder_is_refused(tmp_path, name):
    folder = save_checkpoint(tmp_path, 1, {"unet": {"w": torch.ones(2)}}, {"step": 1}, keep=2)
    (tmp_path / "other").write_text("x")
    (folder / "device").symlink_to("/dev/zero")
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": {name: "", **manifest["sha256"]}}))
    with pytest.raises(CheckpointError, match="has no file"):
        load_checkpoint(folder)


def test_what_needs_no_torch_is_refused_at_once(shared, tmp_path):
    place = Place(tmp_path / "place", shared)
    for waited in time_errors(place, quick_cases(place)):
        assert waited.held and waited.seconds < 3, waited


def test_the_code_has_no_unsafe_call():
    found, _ = in_the_repository()
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "from torch import load as read\nread(path)",
        "import torch as t\nt.load(path)",
        "list(map(torch.load, paths))",
        "import pickle as p\np.loads(data)",
        "from pickle import Unpickler\nUnpickler(file)",
        "eval(text)",
        "exec(text)",
        "list(map(eval, texts))",
        "import os\nos.system(line)",
        "import subprocess\nsubprocess.run(line, shell=True)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import yaml\nyaml.load(text)",
        "archive.extractall(folder)",
        "accelerator.register_for_checkpointing(thing)",
        "accelerator.load_state(folder)",
        "AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=True)",
        "AutoConfig.from_pretrained(name)",
        "UNet.from_pretrained(name)",
    ],
)
def test_unsafe_calls_are_recognised(source):
    assert list(unsafe_calls(source, product=True))


def test_safe_calls_are_left_alone():
    for source in (
        "torch.load(path, weights_only=True)",
        "model.eval()",
        "subprocess.run(words, shell=False)",
        "json.loads(text)",
        "AutoTokenizer.from_pretrained(name, trust_remote_code=False)",
        "UNet.from_pretrained(name, use_safetensors=True)",
    ):
        assert list(unsafe_calls(source, product=True)) == [], source


def test_no_prompt_names_a_file_outside_of_the_output_folder(tmp_path):
    assert escaping_prompts(tmp_path / "out", 500) == []
