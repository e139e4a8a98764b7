"""Captions where people have them: beside the videos, in tables, several of a clip, with a trigger word."""

import csv
import json

import pytest

from tests.data.folders import load, numbers, ramp
from utils.data.errors import DataError, MissingData
from utils.video.encode import write_video
from video_dataset import main, parse_args

ROWS = [("a.mp4", "a dog"), ("sub/b.mp4", "a cat, 猫"), ("c.mp4", "two, birds")]


def videos(folder) -> None:
    for n, (name, _) in enumerate(ROWS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, ramp(8 + n), 8)


def written(folder, name: str, columns=("file_name", "text"), rows=ROWS) -> None:
    file = folder / name
    if name.endswith(".csv"):
        with open(file, "w", newline="", encoding="utf-8") as opened:
            csv.writer(opened).writerows([columns, *rows])
    elif name.endswith(".jsonl"):
        file.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows), encoding="utf-8")
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), file)


@pytest.mark.parametrize(
    ("name", "columns", "flags"),
    [
        ("metadata.csv", ("file_name", "text"), {}),
        ("metadata.jsonl", ("file_name", "text"), {}),
        ("metadata.parquet", ("file_name", "text"), {}),
        ("OpenVid.csv", ("video", "caption"), {}),
        ("anything.csv", ("clip", "long"), {"video_column": "clip", "caption_column": "long"}),
        ("anything.parquet", ("clip", "long"), {"video_column": "clip", "caption_column": "long"}),
    ],
)
def test_a_table_names_the_videos_and_their_captions(tmp_path, name, columns, flags):
    videos(tmp_path)
    written(tmp_path, name, columns)
    dataset = load(tmp_path, **flags, augment=False)
    assert dataset.captions() == [caption for _, caption in ROWS]
    assert [info.frames for info, _ in dataset.items] == [8, 9, 10] and numbers(dataset[0]["video"])[0] == 0


def test_a_table_may_name_what_lies_in_videos(tmp_path):
    write_video(tmp_path / "videos" / "a.mp4", ramp(8), 8)
    written(tmp_path, "metadata.csv", rows=[("a.mp4", "a dog"), ("gone.mp4", "nobody")])
    dataset = load(tmp_path)
    assert dataset.captions() == ["a dog"] and dataset.report["skipped"] == {"no such file": ["gone.mp4"]}


@pytest.mark.parametrize("folder", [".", "videos"])
def test_a_caption_may_lie_beside_its_video(tmp_path, folder):
    for name in "ab":
        write_video(tmp_path / folder / f"{name}.mp4", ramp(8), 8)
        (tmp_path / folder / f"{name}.txt").write_text(f"clip {name}")
    assert load(tmp_path).captions() == ["clip a", "clip b"]


def test_folders_of_captions_go_before_a_table(tmp_path):
    write_video(tmp_path / "videos" / "a.mp4", ramp(8), 8)
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "a.txt").write_text("from the file")
    written(tmp_path, "notes.csv", rows=[("videos/a.mp4", "from the table")])
    assert load(tmp_path).captions() == ["from the file"]


def test_of_several_captions_each_epoch_draws_one_and_validation_the_first(tmp_path):
    write_video(tmp_path / "a.mp4", ramp(8), 8)
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "a.mp4", "text": ["one", "two"]}) + "\n\n" + '{"file_name": "a.mp4", "text": "three"}'
    )
    dataset = load(tmp_path)
    drawn = [dataset[epoch, 0]["text"] for epoch in range(30)]
    assert set(drawn) == {"one", "two", "three"} == set(dataset.captions())
    assert drawn == [load(tmp_path)[epoch, 0]["text"] for epoch in range(30)]
    assert {load(tmp_path, augment=False)[epoch, 0]["text"] for epoch in range(9)} == {"one"}


def test_a_trigger_word_goes_in_front_of_every_caption(tmp_path):
    videos(tmp_path)
    written(tmp_path, "metadata.csv", rows=[*ROWS[:2], ("c.mp4", "")])
    dataset = load(tmp_path, trigger_word="sks style", missing_caption="empty")
    assert dataset.captions() == ["sks style, a dog", "sks style, a cat, 猫", "sks style"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metadata.csv", "file_name\na.mp4\n", "the columns are file_name; --caption_column says which"),
        ("metadata.csv", "clip,text\na.mp4,x\n", "the columns are clip, text; --video_column says which"),
        ("metadata.csv", "", "the table is empty"),
        ("metadata.csv", "file_name,text\n,x\n", "row 1 names no file"),
        ("metadata.csv", b"file_name,text\na.mp4,\xff\n", "is not UTF-8 text"),
        ("metadata.jsonl", '{"file_name": "a.mp4", "text": "x"}\n{"file_name"', "line 2 is no JSON object"),
        ("metadata.jsonl", "[1]", "line 1 is no JSON object"),
        ("metadata.jsonl", '{"file_name": "a.mp4", "text": 7}', "row 1 has int under 'text'"),
        ("metadata.jsonl", '{"file_name": "a.mp4", "text": "' + "x" * 70_000 + '"}', "a caption over 64 KB"),
        ("metadata.parquet", "PAR1", "is no Parquet file, or damaged"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line_with_a_remedy(tmp_path, name, text, words):
    write_video(tmp_path / "a.mp4", ramp(8), 8)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert words in str(error.value) and name in str(error.value) and "\n" not in str(error.value)


def test_two_tables_and_columns_without_a_table_are_refused(tmp_path):
    with pytest.raises(MissingData, match="or a table"):
        load(tmp_path)
    write_video(tmp_path / "a.mp4", ramp(8), 8)
    with pytest.raises(DataError, match="need a table"):
        load(tmp_path, caption_column="text")
    for name in ("one.csv", "two.csv"):
        written(tmp_path, name, rows=[("a.mp4", "x")])
    with pytest.raises(DataError, match=r"several tables \(one.csv, two.csv\); leave one"):
        load(tmp_path)
    written(tmp_path, "metadata.csv", rows=[("a.mp4", "y")])
    assert load(tmp_path).captions() == ["y"]


def test_the_check_reads_a_table_too(tmp_path, capsys):
    videos(tmp_path)
    written(tmp_path, "list.csv", ("clip", "long"))
    flags = ["--check", str(tmp_path), "--num_frames", "8", "--video_column", "clip", "--caption_column", "long"]
    main(parse_args(flags))
    assert "3 of 3 videos are usable" in capsys.readouterr().out
