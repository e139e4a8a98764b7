"""LeRobot datasets of a hub, or of its mirror: the cameras that are wanted, in a folder of one's own."""

import os
from collections.abc import Sequence
from pathlib import Path

from utils.cli import UserError, printable
from utils.hub import commit_of, download
from utils.lerobot.folder import INFO, LeRobotError, LeRobotFolder
from utils.lerobot.origin import CARD, note_source, source_of

FLAG = "--from_lerobot"


def dataset_folder(name: str, cameras: Sequence[str] | None, output_dir: Path | None) -> Path:
    """The folder of a dataset: `name` itself if there is such a folder; else the dataset of that name on the hub, of
    which what is wanted is downloaded to output_dir (default: called as the dataset), unless it is there.

    Raises UserError for a folder that holds something else, or a hub that does not answer.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"{FLAG}: there is no folder {printable(name)}; a dataset of the hub is called owner/name")
    folder = output_dir or Path(name.replace("/", "_"))
    source = source_of(folder)
    if source.get("dataset", name) != name or (not source and folder.is_dir() and os.listdir(folder)):
        held = source.get("dataset", "something else")
        raise UserError(f"{FLAG}: {printable(folder)} holds {printable(held)}; choose another --output_dir")
    if source.get("commit") and not _missing(folder, cameras):
        return folder
    commit, unreachable = (source["commit"], "") if source.get("commit") else commit_of(name, FLAG, "dataset")
    if not unreachable:
        note_source(folder, name, commit)
        where = {"revision": commit, "local_dir": folder}
        _, unreachable = download(name, ["meta/*", CARD], FLAG, "dataset", **where)
        if not unreachable:
            _, unreachable = download(name, _wanted(folder, cameras), FLAG, "dataset", **where)
    if unreachable:
        raise UserError(
            f"{FLAG}: {name} is not whole in {printable(folder)}, and the hub did not answer ({unreachable}). Two ways "
            f"out: {FLAG} FOLDER with a copy of the dataset; a mirror, export HF_ENDPOINT=https://hf-mirror.com. What "
            "has come stays, the same command goes on"
        )
    if missing := _missing(folder, cameras):
        raise UserError(f"{FLAG}: {name} on the hub lacks {', '.join(missing[:3])}, of which its meta files speak")
    return folder


def _wanted(folder: Path, cameras: Sequence[str] | None) -> list[str]:
    """Patterns of what is to be downloaded, once the meta files are there."""
    return ["data/*", *(f"videos/*{camera}/*" for camera in _opened(folder, cameras)[1])]


def _opened(folder: Path, cameras: Sequence[str] | None) -> tuple[LeRobotFolder, list[str]]:
    try:
        dataset = LeRobotFolder(folder)
        return dataset, dataset.chosen_cameras(cameras)
    except LeRobotError as error:
        raise UserError(f"{FLAG}: {printable(folder)}: {error}") from None


def _missing(folder: Path, cameras: Sequence[str] | None) -> list[str]:
    """What is not there yet of the files that are wanted."""
    if not (folder / INFO).is_file():
        return [INFO]
    try:
        dataset, chosen = _opened(folder, cameras)
    except UserError:
        return ["meta"]
    each = dataset.episodes.values()
    files = {episode.rows for episode in each} | {episode.videos[camera].file for episode in each for camera in chosen}
    return sorted(os.path.relpath(file, folder) for file in files if not file.is_file())
