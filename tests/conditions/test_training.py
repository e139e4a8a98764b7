"""Training with conditions, and drawing with them, through the scripts' main."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import export_text2video
import generate_text2video
import train_text2video
from models.conditions import ConditionSettings
from tests.conditions.conftest import ALL, KNOWN
from tests.text2video.running import generate, losses, train
from tests.tiny_autoencoders import tiny_autoencoder
from tests.tiny_models import TINY_SD_UNET
from utils.cli import UserError
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.runs.checkpoint import list_checkpoints, load_checkpoint
from utils.runs.model_file import load_model
from utils.video.encode import write_image
from utils.video.frames import resize_frames

PROMPT = "a red circle moving right"
STEPS = ["--num_inference_steps", 4]


def draw(checkpoint: Path, out: Path, *flags) -> tuple[np.ndarray, dict]:
    """(frames as they were before they were encoded, the sidecar)."""
    generate("--checkpoint", checkpoint, "--prompts", PROMPT, "--output_dir", out, "--save_frames", *STEPS, *flags)
    (frames,) = out.glob("*_frames")
    (sidecar,) = out.glob("*.json")
    info = probe_video(frames)
    return read_frames(info, range(info.frames)), json.loads(sidecar.read_text())


@pytest.fixture(scope="module")
def picture(tmp_path_factory, data) -> Path:
    info = probe_video(data / "videos" / "clip_00000.mp4")
    path = tmp_path_factory.mktemp("picture") / "first.png"
    write_image(path, read_frames(info, [0])[0])
    return path


def test_a_run_says_what_it_learns_and_keeps_it_with_the_model(known_run, data):
    model = load_model(known_run)
    assert model["format"] == 4 and "sums" not in model["conditions"]  # what older programs refuse in a line, or read
    settings = ConditionSettings.from_plain(model["conditions"])
    assert settings.names == ["known", "depth", "vectors", "audio"] and settings.maps == {"depth": 1}
    assert settings.vectors["vectors"]["names"] == ["x", "y", "dx", "dy"]
    assert settings.tasks == {"text": 1.0, "first_frame": 1.0, "inpainting": 1.0}
    for name in settings.names:
        kind = "grids" if name in ("known", "depth") else "frames"
        layer = {"grids": "conv_out", "frames": "linear_out"}[kind]
        assert model["unet"][f"conditions.{kind}.{name}.{layer}.weight"].abs().max() > 0, name


def test_a_resumed_run_equals_an_uninterrupted_one(known_run, data, tmp_path):
    shutil.copytree(known_run, tmp_path / "run")
    shutil.rmtree(list_checkpoints(tmp_path / "run")[0])
    train(data, tmp_path / "run", *ALL, "--max_train_steps", "6", "--checkpoint_every", "3", "--resume", "latest")
    assert losses(tmp_path / "run") == losses(known_run)
    (whole, state), (parts, other) = (
        load_checkpoint(list_checkpoints(run)[0]) for run in (known_run, tmp_path / "run")
    )
    assert state == other
    for group in whole:
        assert all(torch.equal(tensor, parts[group][name]) for name, tensor in whole[group].items()), group


def test_a_trained_model_extended_by_conditions_draws_the_same_until_it_learns(plain_run, data, tmp_path, capsys):
    start = ["--init_from", str(plain_run / "best_model.pth"), "--max_train_steps", "1", "--ema_decay", "0"]
    capsys.readouterr()
    train(data, tmp_path / "more", *ALL, *start, "--learning_rate", "1e-30", "--adam_weight_decay", "0")
    said = capsys.readouterr().out
    assert "condition audio is new; condition depth is new; condition known is new; condition vectors is new" in said
    before, _ = draw(plain_run, tmp_path / "a")
    after, _ = draw(tmp_path / "more", tmp_path / "b")
    assert np.array_equal(before, after)


def test_conditions_are_kept_left_out_or_begun_anew_from_another_run(known_run, data, tmp_path, capsys):
    flags = ["--init_from", str(known_run / "best_model.pth"), "--max_train_steps", "1"]
    train(data, tmp_path / "run", *KNOWN, *flags)
    said = capsys.readouterr().out
    assert "condition audio is left out; condition depth is left out; condition vectors is left out" in said
    assert "condition known" not in said


@pytest.mark.parametrize("flag", ["first_frame", "last_frame", "continue_from", "known_frames"])
def test_known_frames_are_in_the_video_and_in_its_sidecar(known_run, data, picture, tmp_path, flag):
    info = probe_video(data / "videos" / "clip_00000.mp4")
    clip = resize_frames(read_frames(info, range(info.frames)), 16, 16)
    file, places, wanted = picture, [0], clip[:1]
    if flag == "last_frame":
        places = [3]
    elif flag == "continue_from":
        file, places, wanted = Path(info.path), [0, 1], clip[-2:]
    elif flag == "known_frames":
        file, places = tmp_path / "given", [2]
        file.mkdir()
        shutil.copy(picture, file / "2.png")
    frames, sidecar = draw(known_run, tmp_path / "out", f"--{flag}", file)
    assert np.abs(frames[places].astype(int) - wanted).max() <= 1
    assert list(sidecar["given"]) == [flag] and sidecar["num_frames"] == 4


def test_each_condition_changes_the_video_and_its_name(known_run, data, tmp_path):
    beside = {"depth": data / "depth" / "clip_00001.mp4", "vectors": data / "vectors" / "clip_00001.csv"}
    beside["audio"] = data / "videos" / "clip_00001.mp4"
    for flag, file in beside.items():
        frames, names, digests = {}, set(), set()
        for n in (1, 2):
            strong = ["--condition_scale", f"{flag}=100", "--num_frames", 6]  # six steps have taught little
            given = [f"--{flag}", str(file).replace("1.", f"{n}.")]
            frames[n], sidecar = draw(known_run, tmp_path / f"{flag} {n}", *given, *strong)
            assert list(sidecar["given"]) == [flag] and sidecar["condition_scales"] == {flag: 100.0}
            digests.add(sidecar["given"][flag])
            names |= {path.name for path in (tmp_path / f"{flag} {n}").glob("*.mp4")}
        assert not np.array_equal(frames[1], frames[2]) and len(digests) == len(names) == 2, flag


def test_of_a_longer_map_the_beginning_counts(known_run, data, tmp_path):
    info = probe_video(data / "depth" / "clip_00001.mp4")
    np.save(tmp_path / "long.npy", read_frames(info, range(6))[..., 0])
    np.save(tmp_path / "short.npy", read_frames(info, range(4))[..., 0])
    frames = [
        draw(known_run, tmp_path / name, "--depth", file, "--condition_scale", "depth=50")[0]
        for name, file in (("a", info.path), ("b", tmp_path / "long.npy"), ("c", tmp_path / "short.npy"))
    ]
    assert np.abs(frames[0].astype(int) - frames[1]).max() <= 30 and np.array_equal(frames[1], frames[2])


def test_windows_take_their_part_of_the_conditions(known_run, data, tmp_path):
    files = ["--depth", data / "depth" / "clip_00001.mp4", "--num_frames", 6, "--window_frames", 4]
    frames, _ = draw(known_run, tmp_path / "out", *files)
    assert len(frames) == 6


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--maps", "edges={depth}"], "--maps: this model was not trained with edges; .* known, depth, vectors, audio"),
        (["--vectors", "speed={vectors}"], "--vectors: this model was not trained with speed"),
        (["--vectors", "{depth}"], "--vectors: .* is no table of numbers: give .csv"),
        (["--audio", "{silent}"], "--audio: .* has no sound"),
        (["--first_frame", "{vectors}"], "--first_frame: .*clip_00001.csv"),
        (["--depth", "{depth}", "--num_frames", "12"], "--maps depth: .* lasts 0.75 s, its clip 1.50 s"),
        (["--vectors", "{vectors}", "--num_frames", "12"], "--vectors: .* holds from 0.00 to 0.62 s"),
        (["--known_frames", "{folder}"], "--known_frames: .* is no number of a frame; call them 0.png to 3.png"),
        (["--condition_scale", "depth=2"], "--condition_scale: depth is not given"),
    ],
)
def test_what_does_not_fit_is_one_line(known_run, data, tmp_path, flags, said):
    silent, folder = data / "depth" / "clip_00001.mp4", tmp_path / "pictures"
    folder.mkdir()
    write_image(folder / "beginning.png", np.zeros((8, 8, 3), np.uint8))
    places = {"depth": silent, "silent": silent, "vectors": data / "vectors" / "clip_00001.csv", "folder": folder}
    with pytest.raises(UserError, match=said):
        draw(known_run, tmp_path / "out", *[each.format(**places) for each in flags])


def test_a_model_without_conditions_says_that_it_knows_none(plain_run, picture, tmp_path):
    assert load_model(plain_run)["format"] == 1 and "conditions" not in load_model(plain_run)
    with pytest.raises(UserError, match="not trained with known frames; conditions that it knows: none"):
        draw(plain_run, tmp_path / "out", "--first_frame", picture)
    for flag in ("depth", "audio"):  # the flag that was typed is the one that is named
        with pytest.raises(UserError, match=f"--{flag}: this model was not trained with {flag};"):
            draw(plain_run, tmp_path / "out", f"--{flag}", picture)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tasks", "dance=1"], "tasks are text, first_frame"),
        (["--tasks", "text"], "must be TASK=SHARE"),
        (["--tasks", "text=0", "first_frame=0"], "--tasks: the shares must be positive in sum"),
        (["--maps", "nowhere"], "--maps: there is no folder .*nowhere"),
        (["--maps", "videos"], "--maps: got videos; name a folder"),
        (["--maps", "vectors", "--vectors"], "vectors names two conditions"),
        (["--tasks", "first_frame=1", "--vae", "x", "--latent_cache", "y"], "--latent_cache: --tasks encodes"),
    ],
)
def test_flags_of_training_that_cannot_be_are_refused(data, tmp_path, capsys, flags, said):
    with pytest.raises(SystemExit) as stop:
        train_text2video.parse_args(["--data_dir", str(data), "--output_dir", str(tmp_path / "run"), *flags])
    import re

    assert stop.value.code == 2 and re.search(said, capsys.readouterr().err)


def test_in_latents_and_in_the_motion_network(data, pipelines, picture, tmp_path):  # noqa: F811
    tiny_autoencoder("PatchAutoencoder").save_pretrained(tmp_path / "vae")
    latents = ["--vae", str(tmp_path / "vae"), "--num_frames", "4", "--frame_size", "32", "--max_train_steps", "2"]
    train(data, tmp_path / "latents", *latents, *ALL)
    cached = ["--latent_cache", str(tmp_path / "cache"), "--maps", "depth", "--vectors", "--audio"]
    train(data, tmp_path / "cached", *latents, *cached)
    image = [
        "--init_from_2d",
        str(pipelines["v1"]),
        "--network",
        "motion",
        "--trainable",
        "temporal",
        "--num_frames",
        "3",
    ]
    image += ["--frame_size", "64", "--max_train_steps", "2", "--batch_size", "2"]
    train(data, tmp_path / "motion", *image, *ALL, preset="base")
    files = ["--vectors", data / "vectors" / "clip_00001.csv", "--audio", data / "videos" / "clip_00001.mp4"]
    for run in ("latents", "cached", "motion"):
        first = [] if run == "cached" else ["--first_frame", picture]
        one, _ = draw(tmp_path / run, tmp_path / f"{run} a", *files, *first)
        two, _ = draw(tmp_path / run, tmp_path / f"{run} b")
        assert len(one) == len(two) and not np.array_equal(one, two), run
    before, after = (load_model(tmp_path / "motion")["unet"][name] for name in ("conv_in.weight", "conv_in.weight"))
    assert torch.equal(before, after)


def test_masks_beside_the_clips_are_the_holes_of_inpainting(data, tmp_path, monkeypatch):
    from models.diffusion import tasks
    from utils.runs import conditions

    folder = shutil.copytree(data, tmp_path / "data")
    (folder / "masks").mkdir()
    mask = np.zeros((6, 32, 32), np.uint8)
    mask[:, :, 20:] = 255
    np.save(folder / "masks" / "clip_00000.npy", mask)
    seen = []
    monkeypatch.setattr(conditions, "draw_tasks", lambda *args: seen.append(tasks.draw_tasks(*args)) or seen[-1])
    train(folder, tmp_path / "run", "--tasks", "inpainting=1", "--maps", "masks", "--max_train_steps", "6")
    holes = [1 - each for masks in seen for each in masks]
    given = [hole for hole in holes if hole[..., 11:].all() and not hole[..., :9].any()]
    assert 0 < len(given) < len(holes)


def test_the_interactive_mode_asks_for_what_the_model_knows(known_run, picture, tmp_path, monkeypatch, capsys):
    answers = iter([PROMPT, str(tmp_path / "none.png"), str(picture), "", "", "", "", "", "quit"])
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or next(answers))
    flags = ["--checkpoint", str(known_run), "--output_dir", str(tmp_path / "out"), "--num_inference_steps", "2"]
    generate_text2video.main(generate_text2video.parse_args([*flags, "--mixed_precision", "no"]))
    names = [question.split()[0] for question in asked]
    assert names == [
        "prompt>",
        "first_frame",
        "first_frame",
        "last_frame",
        "continue_from",
        "depth",
        "audio",
        "vectors",
        "prompt>",
    ]
    assert "--first_frame: there is no" in capsys.readouterr().out
    (sidecar,) = (tmp_path / "out").glob("*.json")
    assert list(json.loads(sidecar.read_text())["given"]) == ["first_frame"]


def test_the_exported_pipeline_draws_what_the_model_draws_from_text(known_run, tmp_path, capsys):
    from diffusers import DiffusionPipeline

    flags = ["--checkpoint", str(known_run), "--output_dir", str(tmp_path / "exported")]
    export_text2video.main(export_text2video.parse_args(flags))
    assert "draws from text alone" in capsys.readouterr().out
    folder = str(tmp_path / "exported")
    pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    generator = torch.Generator().manual_seed(0)
    theirs = pipeline(PROMPT, generator=generator, num_inference_steps=4).frames[0]
    ours, _ = draw(known_run, tmp_path / "out")
    assert np.abs(np.rint(theirs * 255) - ours).max() <= 1


def test_the_motion_network_is_steered_by_vectors_in_every_block(pipelines, data, tmp_path):
    """Trained, kept with the model, drawn with, and another's vectors are another video."""
    run = tmp_path / "run"
    flags = ["--init_from_2d", pipelines["v1"], "--network", "motion", "--trainable", "temporal", "--vectors"]
    flags += ["--num_frames", 3, "--frame_size", 64, "--norm_num_groups", 8, "--max_train_steps", 3, "--batch_size", 1]
    train(data, run, *map(str, flags), preset="base")
    model = load_model(run)
    assert ConditionSettings.from_plain(model["conditions"]).sums and model["format"] == 6
    layer = "conditions.frames.vectors.linear_out.weight"
    embedded = 4 * TINY_SD_UNET["block_out_channels"][0]
    assert model["unet"][layer].shape == (embedded, embedded) and model["unet"][layer].abs().max() > 0
    one, two = (data / "vectors" / f"clip_0000{n}.csv" for n in (0, 1))
    drawn = [draw(run, tmp_path / file.stem, "--vectors", file)[0] for file in (one, two)]
    assert not np.array_equal(*drawn)
