"""README and docs keep their promises, in both languages: every command is accepted, the main path runs, the Python
blocks run, links lead somewhere."""

import io
import re
import shlex
import textwrap
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

import app
import distill_text2video
import edit_text2video
import evaluate_text2video
import export_text2video
import generate_episodes
import generate_text2video
import infer_svd
import prepare_dataset
import rollout_world_model
import train_autoencoder
import train_inverse_dynamics
import train_policy
import train_svd
import train_text2video
import video_dataset
from benchmarks.data import loading
from benchmarks.faithful import guidance
from benchmarks.gpu import __main__ as gpu
from benchmarks.realtime import students
from benchmarks.robots import in_the_loop, obeyed, policies, record
from benchmarks.text2video import ablation, sampling, time_to_prompt, train_step
from tests.tiny_svd import tiny_svd_pipeline
from utils.decoding.probe import probe_video
from utils.demo_data.demo_dataset import write_demo_dataset

ROOT = Path(__file__).parents[2]
ENGLISH = (
    "README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")) if "zh-CN" not in path.name),
)
TWINS = {name: name.replace(".md", ".zh-CN.md") for name in ENGLISH}
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for pair in TWINS.items() for name in pair}
MODULES = (
    video_dataset,
    train_text2video,
    train_autoencoder,
    distill_text2video,
    generate_text2video,
    evaluate_text2video,
    edit_text2video,
    export_text2video,
    train_inverse_dynamics,
    generate_episodes,
    train_policy,
    rollout_world_model,
    app,
    prepare_dataset,
    train_svd,
    infer_svd,
)
SCRIPTS = {f"{module.__name__}.py": module for module in MODULES}
OTHER_TOOLS = {"pip", "make", "hf", "source", "export", "tensorboard", "cp"}
OTHER_FLAGS = {"--index-url", "--upgrade", "--config_file", "--num_processes", "--nproc_per_node", "--local-dir"}
OTHER_FLAGS |= {"--logdir", "--mutate", "--shm-size", "--no-deps"}
FILE_FLAGS = {"--checkpoint", "--init_from", "--prompts_file", "--input_image", "--config", "--video", "--mask"}
FILE_FLAGS |= {"--first_frame", "--last_frame", "--continue_from"}
FOLDER_FLAGS = {"--data_dir", "--check", "--video_dir", "--dataset_dir", "--videos", "--captions", "--dataset"}
FOLDER_FLAGS |= {"--generated"}
CHECKPOINT = "./checkpoints/text2video_xxx/best_model.pth"


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language, without the indentation of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", PAGES[name], re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(text) for _, text in found]


def commands(name: str) -> list[list[str]]:
    """Every command of the bash blocks as a list of words, continued lines joined and comments dropped."""
    lines = "\n".join(blocks(name, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def script_of(words: list[str]) -> tuple[str, list[str]] | None:
    """(script, its arguments) of a command that runs one of ours, by python, torchrun or accelerate."""
    words = words[: words.index("|")] if "|" in words else words
    at = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
    return None if at is None else (words[at], words[at + 1 :])


COMMANDS = [words for name in ENGLISH for words in commands(name)]
SCRIPT_COMMANDS = list(dict.fromkeys(shlex.join(words) for words in COMMANDS if script_of(words)))
OTHER_COMMANDS = list(dict.fromkeys(shlex.join(words) for words in COMMANDS if not script_of(words)))


def documented_command(*parts: str) -> list[str]:
    """The arguments of the first script command that holds all the parts."""
    line = next(line for line in SCRIPT_COMMANDS if all(part in line for part in parts))
    return script_of(shlex.split(line))[1]


def run(script: str, argv: list[str]) -> None:
    SCRIPTS[script].main(SCRIPTS[script].parse_args(argv))


@pytest.mark.parametrize("name", ENGLISH)
def test_both_languages_have_the_same_commands_and_the_same_code(name):
    assert commands(TWINS[name]) == commands(name)
    for language in ("python", "toml"):
        ours, theirs = (
            [re.sub(r"  # .*", "", block) for block in blocks(page, language)] for page in (name, TWINS[name])
        )
        assert ours == theirs


def test_the_readme_is_one_page_and_leads_to_every_other():
    for page, suffix in (("README.md", ".md"), ("README.zh-CN.md", ".zh-CN.md")):
        assert len(PAGES[page].splitlines()) <= 250
        for name in ENGLISH[1:]:
            assert f"({name.replace('.md', suffix)}" in PAGES[page], f"{page} does not lead to {name}"
    assert len(COMMANDS) > 60 and len(ENGLISH) == 15


@pytest.mark.parametrize("line", SCRIPT_COMMANDS)
def test_every_command_is_accepted_by_its_script(line, tmp_path, monkeypatch):
    script, argv = script_of(shlex.split(line))
    assert script in SCRIPTS, f"{script} does not exist"
    monkeypatch.chdir(tmp_path)
    for flag, value in zip(argv, argv[1:], strict=False):
        if flag == "--teacher":
            Path(value).mkdir(parents=True)
            Path(value, "best_model.pth").touch()
        elif flag in FILE_FLAGS:
            Path(value).parent.mkdir(parents=True, exist_ok=True)
            Path(value).touch()
        elif flag in FOLDER_FLAGS or (flag == "--resume" and "/" in value):
            Path(value).mkdir(parents=True)
    for place in filter(Path.is_dir, Path().glob("*")):  # conditions lie in folders of the data, or are files
        for name in ("depth", "edges", "flow", "vectors"):
            (place / name).mkdir(exist_ok=True)
        if "lerobot" in place.name:
            (place / "meta").mkdir()
            (place / "meta" / "info.json").touch()
        if place.name.startswith("demo"):
            (place / "dataset.json").touch()
    if script in ("generate_text2video.py", "edit_text2video.py", "infer_svd.py"):
        given = [word for before, word in pairwise([None, *argv]) if before != "--stream"]  # which may not be there
        for file in (word.rpartition("=")[2] for word in given if re.search(r"\w\.(mp4|csv|wav|npy)$", word)):
            Path(file).touch()
    for value in argv[argv.index("--compare") + 1 :] if "--compare" in argv else ():
        Path(value).parent.mkdir(parents=True)
        Path(value).touch()
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "demo_video_data").mkdir(exist_ok=True)
    (tmp_path / "demo_video_data" / "dataset.json").touch()
    SCRIPTS[script].parse_args(argv)


@pytest.mark.parametrize("line", OTHER_COMMANDS)
def test_every_other_command_names_what_exists(line):
    words = shlex.split(line)
    assert words[0] in OTHER_TOOLS or words[:2] in (["python", "-c"], ["python", "-m"])
    if words[0] == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    if words[0] == "cp":
        assert (ROOT / words[1]).is_file()
    if words[:2] == ["python", "-m"]:
        assert module_exists(words[2]) or words[2] == "venv"
    if "-r" in words:
        assert (ROOT / words[words.index("-r") + 1]).is_file()
    if words[:3] == ["python", "-c", "import cv2; print(cv2.getBuildInformation())"]:
        exec(words[2])
    pinned = (ROOT / "requirements.txt").read_text()
    assert all(word in pinned for word in words if "==" in word)


def module_exists(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize("name", PAGES)
def test_modules_that_the_text_runs_exist(name):
    for module in re.findall(r"python -m ([\w.]+)", PAGES[name]):
        assert module_exists(module) or module == "venv", module


def test_configuration_files_exist():
    files = [words[words.index("--config_file") + 1] for words in COMMANDS if "--config_file" in words]
    assert files and all((ROOT / file).is_file() for file in files)


def test_settings_that_are_shown_are_taken(tmp_path, monkeypatch):
    (shown,) = blocks("docs/text-to-video.md", "toml")
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text(shown)
    Path("data").mkdir()
    args = vars(train_text2video.parse_args(["--data_dir", "data", "--config", "my.toml"]))
    assert {name: args[name] for name in tomllib.loads(shown)} == tomllib.loads(shown)


def test_the_main_path_runs_from_nothing_to_videos(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ["python", "video_dataset.py"] in COMMANDS
    run("video_dataset.py", ["--num_clips", "8"])
    debug = documented_command("train_text2video.py", "--max_samples 5", "--preset tiny")
    run("train_text2video.py", [*debug, "--max_train_steps", "2"])
    (run_dir,) = Path("checkpoints").glob("text2video_*")
    run_dir.rename("checkpoints/text2video_xxx")
    Path("demo_video_data/heldout_prompts.txt").write_text("a red circle\na blue square\n", encoding="utf-8")

    makers = [script_of(shlex.split(line)) for line in SCRIPT_COMMANDS if CHECKPOINT in line]
    videos = 0
    for number, (script, argv) in enumerate(makers):
        folder = f"videos_{number}"
        run(script, [*argv, "--num_inference_steps", "2", "--output_dir", folder])
        made = [probe_video(path) for path in Path(folder).glob("*.mp4")]
        assert made and all(info.frames in (4, 24) for info in made) and Path(folder, "index.html").is_file()
        for flag, pattern in (("--save_gif", "*.gif"), ("--save_frames", "*_frames")):
            assert len(list(Path(folder).glob(pattern))) == (len(made) if flag in argv else 0)
        assert Path(folder, "contact_sheet.png").is_file() == ("--visualize" in argv)
        videos += len(made)
    assert videos >= 8

    assert ["python", "generate_text2video.py"] in COMMANDS
    monkeypatch.setattr("sys.stdin", io.StringIO("1\na red circle moving right\nquit\n"))
    run("generate_text2video.py", ["--num_inference_steps", "2"])
    assert len(list(Path("generated_videos").glob("*.mp4"))) == 1
    assert "text2video_xxx" in capsys.readouterr().out


def test_the_guides_three_commands_fine_tune_svd_and_animate_a_picture(tmp_path, monkeypatch):
    """As printed, but for a local folder as the model, fewer steps, and shorter and smaller clips."""
    monkeypatch.chdir(tmp_path)
    write_demo_dataset(Path("demo"), num_clips=4, num_frames=30, frame_size=64)
    Path("demo/videos").rename("videos")
    run("prepare_dataset.py", [*documented_command("prepare_dataset.py"), "--num_workers", "0"])
    Path("path/to/your").mkdir(parents=True)
    Image.open("dataset/video_0001/00000.png").save("path/to/your/image.jpg")
    tiny_svd_pipeline().save_pretrained("tiny_svd")
    argv = documented_command("train_svd.py", "--pretrained_model_name", "--dataset_dir")
    argv[argv.index("--pretrained_model_name") + 1] = "tiny_svd"
    smaller = ["--max_train_steps", "2", "--num_frames", "3", "--width", "64", "--height", "64", "--num_workers", "0"]
    run("train_svd.py", [*argv, *smaller, "--num_inference_steps", "2", "--no_wandb"])
    run("infer_svd.py", [*documented_command("infer_svd.py"), "--num_inference_steps", "2"])
    info = probe_video(Path("sample_output.mp4"))
    assert (info.frames, info.width, info.height, info.fps) == (3, 64, 64, 7)


def test_weights_move_on_from_a_small_run_to_a_larger_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("video_dataset.py", ["--num_clips", "8"])
    for name in ("tiny_small", "tiny_large"):
        argv = documented_command("--preset tiny", f"--output_dir ./checkpoints/{name}")
        run("train_text2video.py", [*argv, "--max_train_steps", "1"])
        assert Path(f"checkpoints/{name}/best_model.pth").is_file()


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video_dataset, "TextVideoDataset", video_dataset.TextVideoDataset)  # a block replaces it
    write_demo_dataset(Path("demo_video_data"), num_clips=8)
    for block in blocks("docs/code.md", "python"):  # the other language has the same, see above
        exec(compile(block, "code.md", "exec"), {"__name__": "docs"})
    said = capsys.readouterr().out
    assert "(3, 8, 32, 32)" in said and "reloaded with 3 more numbers" in said
    assert Path("checkpoints/custom/best_model.pth").is_file()


@pytest.mark.parametrize("name", ["docs/code.md", "docs/code.zh-CN.md"])
def test_file_tree_is_complete_and_true(name):
    tree = next(block for block in blocks(name, "text") if "train_text2video.py" in block)
    listed = [line.split()[0] for line in tree.splitlines()]
    assert [file for file in listed if not (ROOT / file).exists()] == []
    files = [*ROOT.glob("*.py"), *ROOT.glob("models/**/*.py"), *ROOT.glob("utils/**/*.py")]
    existing = {str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py"}
    assert existing - set(listed) == set()
    for top in ("tests", "benchmarks", "configs"):
        folders = {
            f"{top}/{path.name}/" for path in (ROOT / top).iterdir() if path.is_dir() and path.name[0] not in "_."
        }
        assert folders - set(listed) - {"benchmarks/results/"} == set()


def anchors(page: str) -> set[str]:
    """The names by which GitHub links to the headings of a page."""
    text = re.sub(r"^( *)```.*?^\1```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.is_file(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(path.resolve().relative_to(ROOT).as_posix()), f"{target}: no such heading"


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_is_mentioned_exists(name):
    for path in re.findall(r"(?<![\w/.])(?:utils|models|tests|benchmarks|configs)/[\w/.-]+\.\w+", PAGES[name]):
        assert (ROOT / path).exists(), path


@pytest.fixture(scope="module")
def known_flags() -> set[str]:
    known = set(OTHER_FLAGS)
    of_benchmarks = (ablation, gpu, guidance, in_the_loop, loading, obeyed, policies, record, sampling)
    of_benchmarks += (students, time_to_prompt, train_step)
    for module in (*SCRIPTS.values(), *of_benchmarks):
        said = io.StringIO()
        with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", said)
            module.parse_args(["--help"])
        known |= set(re.findall(r"(?<![\w-])--[a-z][\w-]*", said.getvalue()))
    return known


@pytest.mark.parametrize("name", PAGES)
def test_every_flag_exists(name, known_flags):
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][A-Za-z0-9_-]*", PAGES[name]))
    assert mentioned - known_flags == set()
