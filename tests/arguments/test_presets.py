"""Settings from files: presets, one's own, and the flags over both."""

import json
import tomllib
from pathlib import Path

import pytest

import train_autoencoder
import train_svd
import train_text2video
from utils.arguments.presets import CONFIGS, as_toml

TRAINERS = {"text2video": train_text2video, "svd": train_svd, "autoencoder": train_autoencoder}
PRESETS = [(folder, path.stem) for folder in TRAINERS for path in sorted((CONFIGS / folder).glob("*.toml"))]


@pytest.fixture
def data(tmp_path) -> list[str]:
    (tmp_path / "clips").mkdir()
    return ["--data_dir", str(tmp_path / "clips")]


def write(folder: Path, text: str) -> list[str]:
    (folder / "my.toml").write_text(text, encoding="utf-8")
    return ["--config", str(folder / "my.toml")]


def refused(argv: list[str], capsys) -> list[str]:
    with pytest.raises(SystemExit) as stop:
        train_text2video.parse_args(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()


def test_each_trainer_has_its_presets():
    assert {name for folder, name in PRESETS if folder == "text2video"} == {
        *("base", "demo", "demo256", "tiny", "latent256", "latent512", "sd15")
    }
    assert {name for folder, name in PRESETS if folder == "autoencoder"} == {"base", "small"}
    assert {name for folder, name in PRESETS if folder == "svd"} == {"guide", "24gb", "16gb", "lora"}


@pytest.mark.parametrize(("folder", "name"), PRESETS)
def test_every_preset_is_taken_as_it_stands(folder, name, data, tmp_path):
    argv = ["--dataset_dir", data[1]] if folder == "svd" else data
    args = vars(TRAINERS[folder].parse_args([*argv, "--preset", name]))
    for setting, value in tomllib.loads((CONFIGS / folder / f"{name}.toml").read_text()).items():
        assert args[setting] == value and type(args[setting]) in (type(value), float), setting


@pytest.mark.parametrize(("folder", "name"), [("text2video", "base"), ("svd", "guide"), ("autoencoder", "base")])
def test_the_first_preset_is_the_defaults_of_the_flags(folder, name, monkeypatch, data):
    argv = ["--dataset_dir", data[1]] if folder == "svd" else data
    with_preset = vars(TRAINERS[folder].parse_args([*argv, "--preset", name]))
    monkeypatch.setattr("utils.arguments.presets.read_settings", lambda *_: {})
    assert vars(TRAINERS[folder].parse_args(argv)) == with_preset


def test_flags_stand_over_a_file_and_a_file_over_the_preset(data, tmp_path):
    config = write(tmp_path, 'frame_size = 48\nnum_frames = 6\ntext_encoder = "builtin"\nlearning_rate = 1\n')
    args = train_text2video.parse_args([*data, "--preset", "demo", *config, "--num_frames", "5"])
    assert (args.frame_size, args.num_frames, args.model_channels) == (48, 5, 48)
    assert args.learning_rate == 1.0 and isinstance(args.learning_rate, float)


def test_flags_that_switch_are_true_or_false_in_a_file(data, tmp_path):
    config = write(tmp_path, 'augment = false\ncompile = true\nreport_to = "none"\nposition_features = false\n')
    args = train_text2video.parse_args([*data, *config])
    assert (args.augment, args.compile, args.report_to, args.position_features) == (False, True, "none", False)


@pytest.mark.parametrize("where", ["flag", "file"])
def test_a_number_of_epochs_unseats_the_presets_number_of_steps(where, data, tmp_path):
    given = ["--num_epochs", "3"] if where == "flag" else write(tmp_path, "num_epochs = 3")
    args = train_text2video.parse_args([*data, "--preset", "demo", *given])
    assert (args.num_epochs, args.max_train_steps) == (3, None)
    both = train_text2video.parse_args([*data, *write(tmp_path, "num_epochs = 3\nmax_train_steps = 7")])
    assert both.max_train_steps == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_frame = 8", "sets num_frame, which is no setting, did you mean num_frames?"),
        ("train_batch_size = 8", "sets train_batch_size, which is no setting, did you mean batch_size?"),
        ("no_augment = true", "sets no_augment, which is no setting, did you mean augment?"),
        ("zebra = 8", "sets zebra, which is no setting; --help lists them"),
        ('preset = "demo"', "sets preset, which is no setting"),
        ("[model]\nchannels = 8", "sets model, which is no setting"),
        ('num_frames = "8"', 'sets num_frames: got "8", must be a number'),
        ("num_frames = 8.5", "sets num_frames: got 8.5, must be a whole number from 2 to 1024"),
        ("num_frames = 1", "sets num_frames: got 1, must be a whole number from 2 to 1024"),
        ("num_frames = true", "sets num_frames: got true, must be a number or text"),
        ("num_frames = [8]", "sets num_frames: got [8], must be one value"),
        ("num_frames = 2026-11-28", "must be a number or text"),
        ("learning_rate = nan", "sets learning_rate: got nan, must be a number greater than 0"),
        ('augment = "no"', 'sets augment: got "no", must be true or false'),
        ("text_encoder = 3", "sets text_encoder: got 3, must be text in quotes"),
        ('optimizer = "sgd"', "sets optimizer: got sgd, must be one of adamw, muon"),
        ("channel_mult = 2", "sets channel_mult: got 2, must be a list"),
        ("guidance_interval = 0.5", "sets guidance_interval: got 0.5, must be a list of 2"),
        ("guidance_interval = [0.5]", "sets guidance_interval: got [0.5], must be a list of 2"),
        ("guidance_interval = [0.9, 0.5]", "--guidance_interval: got 0.9 0.5, must rise"),
        ('channel_mult = [1, "2"]', 'sets channel_mult: got "2", must be a number'),
        ("frame_size = 33", "--frame_size: got 33, must be a multiple of"),
        ("num_frames 8", "is not TOML"),
    ],
)
def test_what_a_file_has_wrong_is_one_line(text, message, data, tmp_path, capsys):
    (line,) = refused([*data, *write(tmp_path, text)], capsys)
    assert message in line and (str(tmp_path / "my.toml") in line or message.startswith("--"))


def test_all_that_is_wrong_is_told_at_once(data, tmp_path, capsys):
    assert len(refused([*data, *write(tmp_path, "a1 = 1\nnum_frames = 0\naugment = 2")], capsys)) == 3


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_one_line(content, data, tmp_path, capsys):
    if content is not None:
        (tmp_path / "my.toml").write_bytes(content)
    (line,) = refused([*data, "--config", str(tmp_path / "my.toml")], capsys)
    assert "--config: " in line and "cannot be read" in line


def test_a_preset_that_is_not_there_names_those_that_are(data, capsys):
    (line,) = refused([*data, "--preset", "dmeo"], capsys)
    assert "--preset" in line and "demo" in line


@pytest.mark.parametrize(("folder", "name"), PRESETS)
def test_what_a_run_stores_can_be_used_again(folder, name, data, tmp_path):
    argv = ["--dataset_dir", data[1]] if folder == "svd" else data
    args = vars(TRAINERS[folder].parse_args([*argv, "--preset", name, "--seed", "5"]))
    kept = {key: value for key, value in args.items() if key not in ("preset", "config")}
    again = vars(TRAINERS[folder].parse_args(write(tmp_path, as_toml(kept))))
    assert {key: again[key] for key in kept} == kept


def test_a_setting_of_any_text_survives_the_file(tmp_path):
    texts = {
        "plain": "a",
        "quotes": 'say "no"',
        "lines": "a\nb\t\\c",
        "chinese": "一只红色的圆",
        "path": Path("/tmp/x y"),
    }
    stored = tomllib.loads(as_toml(texts))
    assert stored == {**texts, "path": "/tmp/x y"} and json.loads(json.dumps(stored)) == stored
