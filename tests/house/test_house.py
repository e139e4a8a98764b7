"""The repository keeps the rules of the house, and each rule notices what breaks it."""

from pathlib import Path

import pytest

from tests.house.rules import MOST_FILES, MOST_LINES, House, find_circle


def test_the_repository_keeps_the_rules():
    house = House()
    assert len(house.files) > 100 and len(house.imports) > 300
    assert house.problems() == []


def build(root: Path, files: dict[str, str]) -> House:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return House(root)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (
            {"utils/video/a.py": "from utils.runs.b import x", "utils/runs/b.py": ""},
            "an arrow up: utils.video.a imports",
        ),
        (
            {"utils/cli.py": "def f():\n    import utils.video.a", "utils/video/a.py": ""},
            "an arrow up: utils.cli imports",
        ),
        ({"utils/runs/a.py": "import train", "train.py": ""}, "an arrow up: utils.runs.a imports train"),
        ({"models/a.py": "from utils import cli", "utils/cli.py": ""}, "an arrow up: models.a imports utils.cli"),
        ({"train.py": "from infer import x", "infer.py": ""}, "scripts do not import each other"),
        (
            {"utils/data/a.py": "import utils.data.b", "utils/data/b.py": "from utils.data import a"},
            "a circle: utils.data.a",
        ),
        ({"models/a.py": "from models.svd import b", "models/svd/b.py": "import models.a"}, "a circle: "),
        ({f"utils/data/f{n}.py": "" for n in range(MOST_FILES + 1)}, "utils.data has 10 files"),
        ({"train.py": "x = 1\n" * (MOST_LINES + 1)}, "train.py of"),
    ],
)
def test_what_breaks_a_rule_is_named(tmp_path, files, problem):
    assert any(found.startswith(problem) for found in build(tmp_path, files).problems()), build(
        tmp_path, files
    ).problems()


def test_what_keeps_the_rules_is_not_named(tmp_path):
    files = {
        "train.py": "from video_dataset import TextVideoDataset\nfrom utils.runs import a",
        "video_dataset.py": "from utils.data import b",
        "utils/runs/a.py": "from utils.data.b import x\nfrom models.c import y",
        "utils/data/b.py": "import torch",
        "models/c.py": "",
    }
    assert build(tmp_path, files).problems() == []


def test_a_new_room_must_be_given_its_place(tmp_path):
    house = build(tmp_path, {"utils/attic/a.py": "import utils.cli", "utils/cli.py": ""})
    with pytest.raises(ValueError, match="utils.attic is a new room"):
        house.problems()


def test_the_drawing_shows_each_room_with_what_it_takes_from_others(tmp_path):
    house = build(
        tmp_path,
        {"utils/runs/a.py": "import utils.cli\nimport utils.video.b", "utils/video/b.py": "", "utils/cli.py": ""},
    )
    assert "imports utils (1), utils.video (1)" in house.drawing().splitlines()[0]


def test_a_circle_is_a_path_that_ends_where_it_began():
    assert find_circle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) is None
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
