"""Vectors per frame for Stable Video Diffusion: an identity at the start, absent where they are absent, and obeyed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.conditions import ConditionSettings
from models.diffusion.known import vector_steps
from models.svd.steering import add_steering, split_steering, steered
from tests.svd.running import FRAMES, infer, losses, train
from tests.tiny_svd import tiny_svd_pipeline
from utils.cli import UserError
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.runs.checkpoint import list_checkpoints, load_checkpoint
from utils.video.encode import write_image

OLD = ConditionSettings(vectors={"actions": {"names": ["dx", "dy"], "mean": [0.0, 0.0], "std": [1.0, 1.0]}})
ACTIONS = replace(OLD, sums=True)
both = pytest.mark.parametrize("settings", [ACTIONS, OLD], ids=["with sums", "of older models"])


def inputs(batch: int = 2) -> tuple:
    config = tiny_svd_pipeline().unet.config
    sample = torch.randn(batch, FRAMES, 8, 8, 8)
    return sample, torch.tensor(0.5), torch.randn(batch, 1, config.cross_attention_dim), torch.rand(batch, 3)


def given(batch: int = 2) -> dict[str, torch.Tensor]:
    values = torch.randn(batch, FRAMES, 2)
    return {"actions": vector_steps(values, torch.ones(batch), ACTIONS.vectors["actions"], ACTIONS, FRAMES)}


@both
@torch.no_grad()
def test_vectors_change_nothing_until_trained_and_nothing_where_absent(settings):
    unet, args = tiny_svd_pipeline().unet.eval(), inputs()
    before = unet(*args[:3], added_time_ids=args[3]).sample
    add_steering(unet, settings)
    with steered(unet, given()):
        assert torch.equal(unet(*args[:3], added_time_ids=args[3]).sample, before)
    for parameter in unet.conditions.parameters():
        torch.nn.init.normal_(parameter)
    assert torch.equal(unet(*args[:3], added_time_ids=args[3]).sample, before)
    known = given()
    with steered(unet, known):
        assert not torch.allclose(unet(*args[:3], added_time_ids=args[3]).sample, before, atol=1e-3)
    with steered(unet, {"actions": torch.zeros_like(known["actions"])}):
        assert torch.equal(unet(*args[:3], added_time_ids=args[3]).sample, before)


@both
@torch.no_grad()
def test_guidances_two_halves_get_the_same_vectors(settings):
    unet, args, known = tiny_svd_pipeline().unet.eval(), inputs(1), given(1)
    add_steering(unet, settings)
    for parameter in unet.conditions.parameters():
        torch.nn.init.normal_(parameter)
    doubled = [torch.cat([each, each]) if each.dim() else each for each in args]
    with steered(unet, known):
        one = unet(*args[:3], added_time_ids=args[3]).sample
        two = unet(*doubled[:3], added_time_ids=doubled[3]).sample
    assert torch.allclose(two, torch.cat([one, one]), atol=1e-5)


def test_known_places_are_refused():
    with pytest.raises(ValueError, match="vectors per frame"):
        add_steering(tiny_svd_pipeline().unet, ConditionSettings(known=True))
    own, steering = split_steering({"a.weight": torch.ones(1), "conditions.frames.x": torch.ones(1)})
    assert list(own) == ["a.weight"] and list(steering) == ["frames.x"]


@pytest.fixture(scope="module")
def steered_run(pipeline_dir, dataset, tmp_path_factory):
    """A finished run of four steps with actions, one file of which is missing."""
    import shutil

    folder = shutil.copytree(dataset, tmp_path_factory.mktemp("steered") / "dataset")
    (folder / "actions").mkdir()
    rng = np.random.default_rng(0)
    for clip in sorted(folder.glob("video_*"))[:-1]:
        rows = "\n".join(f"{n / 8},{dx:.3f},{dy:.3f}" for n, (dx, dy) in enumerate(rng.normal(size=(7, 2))))
        (folder / "actions" / f"{clip.name}.csv").write_text(f"time,dx,dy\n{rows}\n")
    run_dir = tmp_path_factory.mktemp("run") / "outputs"
    flags = ["--vectors", "actions", "--max_train_steps", 4, "--ema_decay", 0, "--checkpoint_every", 2]
    train(pipeline_dir, folder, run_dir, *flags)
    return run_dir, folder, flags


def test_folders_of_vectors_and_maps_are_no_clips(steered_run):
    from utils.frame_folders.frame_clips import find_frame_folders

    folder = steered_run[1]
    (folder / "depth" / "video_0001").mkdir(parents=True, exist_ok=True)
    clips, skipped = find_frame_folders(folder, FRAMES, 1, 7.0, None)
    assert len(clips) == 6 and not skipped


def test_a_run_leaves_a_plain_pipeline_and_the_layers_beside_it(steered_run, pipeline_dir):
    from diffusers import StableVideoDiffusionPipeline
    from safetensors.torch import load_file

    run_dir, _, _ = steered_run
    about = json.loads((run_dir / "svd.json").read_text())
    assert about["conditions"]["vectors"]["actions"]["names"] == ["dx", "dy"]
    tensors = load_file(run_dir / "vectors.safetensors")
    assert tensors["frames.actions.linear_out.weight"].abs().max() > 0
    pipeline = StableVideoDiffusionPipeline.from_pretrained(run_dir)
    assert not any(name.startswith("conditions") for name in pipeline.unet.state_dict())


def test_a_resumed_run_equals_an_uninterrupted_one(steered_run, pipeline_dir, tmp_path):
    import shutil

    run_dir, folder, flags = steered_run
    parts = shutil.copytree(run_dir, tmp_path / "parts")
    shutil.rmtree(list_checkpoints(parts)[0])
    train(pipeline_dir, folder, parts, *flags, "--resume", "latest")
    assert losses(parts) == losses(run_dir)
    whole, again = (load_checkpoint(list_checkpoints(run)[0])[0]["trained"] for run in (run_dir, parts))
    assert any(name.startswith("conditions.") for name in whole)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def frames_of(path) -> np.ndarray:
    info = probe_video(path)
    return read_frames(info, range(info.frames))


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "picture.png"
    write_image(path, np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    return path


def test_a_picture_is_animated_as_the_vectors_say(steered_run, image, tmp_path):
    run_dir, folder, _ = steered_run
    from safetensors.torch import load_file, save_file

    tensors = load_file(run_dir / "vectors.safetensors")  # four steps teach little: make it plain to see
    save_file({name: tensor * 300 for name, tensor in tensors.items()}, run_dir / "vectors.safetensors")
    files = sorted((folder / "actions").glob("*.csv"))[:2]
    how = ["--model_dir", run_dir, "--input_image", image, "--fps", 8]
    for n, file in enumerate(files):
        infer(*how, "--vectors", file, "--output_video", tmp_path / f"{n}.mp4")
    infer(*how, "--output_video", tmp_path / "plain.mp4")
    one, two, plain = (frames_of(tmp_path / f"{name}.mp4") for name in ("0", "1", "plain"))
    assert not np.array_equal(one, two) and not np.array_equal(one, plain)
    assert json.loads((tmp_path / "0.json").read_text())["vectors"] == str(files[0])


def test_vectors_that_do_not_fit_are_one_line(steered_run, run_dir, image, tmp_path):
    steered, folder, _ = steered_run
    file = sorted((folder / "actions").glob("*.csv"))[0]
    (tmp_path / "other.csv").write_text("speed\n1\n2\n")
    how = ["--input_image", image, "--output_video", tmp_path / "a.mp4"]
    with pytest.raises(UserError, match="--vectors: this model was not trained with vectors per frame"):
        infer("--model_dir", run_dir, *how, "--vectors", file)
    with pytest.raises(UserError, match="--vectors: .*other.csv has speed; the model was trained with dx, dy"):
        infer("--model_dir", steered, *how, "--vectors", tmp_path / "other.csv")


def test_a_folder_that_is_not_there_is_refused(pipeline_dir, dataset, tmp_path):
    with pytest.raises(UserError, match="--vectors: there is no folder .*nowhere"):
        train(pipeline_dir, dataset, tmp_path / "run", "--vectors", "nowhere", "--max_train_steps", 1)
