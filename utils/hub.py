"""What lies on a hub: a local folder, the local cache, the hub or its mirror, in this order and within seconds."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread

from utils.cli import UserError, printable

PROBE_SECONDS = 3


def resolve_model(
    name: str,
    revision: str | None,
    patterns: tuple[str, ...],
    flag: str,
    files: str,
    missing: Callable[[Path], list[str]],
) -> Path:
    """The folder that holds model `name`, downloaded if need be.

    name: a folder, or a hub name such as openai/clip-vit-large-patch14. patterns: the files that are wanted. missing:
    which files a folder lacks. flag and files go into the message of the UserError: the flag that chose the model, the
    files a folder must hold.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if lacking := missing(folder):
            raise UserError(f"{flag}: {printable(folder)} lacks {', '.join(lacking)}; it should hold {files}")
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{flag}: there is no folder {name}; it should hold {files}")

    found = _cached(name, revision, patterns)
    if found is not None and not missing(found):
        return found
    downloaded, unreachable = download(name, patterns, flag, revision=revision)
    if downloaded is not None:
        if lacking := missing(downloaded):
            raise UserError(f"{flag}: {name} on the hub has no {', '.join(lacking)}; it should have {files}")
        return downloaded
    found = _cached(name, revision, patterns)
    state = "is not on this machine" if found is None else f"is here without {', '.join(missing(found))}"
    raise UserError(
        f"{flag}: {name} {state}, and the hub did not answer ({unreachable}). Three ways out: "
        f"{flag} FOLDER with a local copy ({files}); a mirror, export HF_ENDPOINT=https://hf-mirror.com; "
        "or, for text to video, --text_encoder builtin, which needs no download "
        f"| 本机没有 {name}，也连不上模型站：{flag} 指定本地文件夹，或设置镜像 HF_ENDPOINT，或 --text_encoder builtin"
    )


def download(
    name: str, patterns: Sequence[str], flag: str, kind: str = "model", **where
) -> tuple[Path, str] | tuple[None, str]:
    """(the folder with the files that are wanted of a repository, ""), or (None, why the hub does not answer).

    kind: "model" or "dataset". where: revision, local_dir. Raises UserError for what the hub has not, or not for all.
    """
    from huggingface_hub import snapshot_download

    wanted = {"repo_type": kind, "allow_patterns": list(patterns)}
    return _asked(lambda: Path(snapshot_download(name, **wanted, **where)), name, flag, kind)


def commit_of(name: str, flag: str, kind: str = "model") -> tuple[str, str] | tuple[None, str]:
    """(the newest commit of a repository, ""), or (None, why the hub does not answer). Raises as download."""
    from huggingface_hub import HfApi

    return _asked(lambda: HfApi().repo_info(name, repo_type=kind).sha, name, flag, kind)


def _asked(call: Callable, name: str, flag: str, kind: str) -> tuple:
    """What a call of the hub's library gives, see download."""
    import httpx
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if unreachable := unreachable_hub():
        return None, unreachable
    try:
        return call(), ""
    except GatedRepoError:
        raise UserError(f"{flag}: {name} wants a login: accept its licence on the hub, then `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(f"{flag}: the hub has no {kind} {name} (or `hf auth login` is missing)") from None
    except (httpx.HTTPError, OSError, ValueError) as error:
        return None, " ".join(str(error).split())[:200] or type(error).__name__


def _cached(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path | None:
    """The folder of a model in the local cache, where an interrupted download may have left only some of its files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=True))
    except IncompleteSnapshotError as error:
        return Path(error.snapshot_path)
    except (LocalEntryNotFoundError, ValueError):
        return None


def unreachable_hub() -> str:
    """Why the hub cannot be reached, found out in at most PROBE_SECONDS; "" if it answers.

    The libraries retry every file for half a minute each before they give up, so they are asked only if this passes. A
    thread, because no timeout bounds the search for the address of a host.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answer = [f"{endpoint}: no answer in {PROBE_SECONDS} s"]

    def ask() -> None:
        import httpx  # with which the hub's library asks too: proxies and certificates are the same

        try:
            httpx.head(endpoint, timeout=PROBE_SECONDS)
            answer[0] = ""
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            answer[0] = f"{endpoint}: {error or type(error).__name__}"

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answer[0]
