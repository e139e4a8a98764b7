"""Services that do not answer, F28 to F31: wandb, the hub, a download that breaks off."""

import hashlib
import json
import os
import pty
import shutil
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from tests.badinput.place import run_script
from tests.faults.place import Place, row
from tests.faults.scripts import TRAINERS, copied, flags, out, run
from tests.tiny_models import tiny_clip, tiny_image_model
from utils.cli import without_secrets
from utils.logs.metrics import read_metrics
from utils.runs.checkpoint import load_checkpoint
from utils.runs.run_folder import list_checkpoints

KEY = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_ThisIsNotARealTokenButAsLongAsOne1"
WANDB = ("--report_to", "wandb")
NOBODY = "http://127.0.0.1:9"


def service(address: str) -> None:
    """wandb with a key, at this address."""
    os.environ.pop("WANDB_MODE", None)
    os.environ.update(WANDB_BASE_URL=address, WANDB_API_KEY=KEY, HF_TOKEN=TOKEN)


def nobody_listens() -> None:
    service(NOBODY)


def nobody_answers() -> None:
    service(silent_server())


def silent_server() -> str:
    """The address of a port that takes connections and says nothing, as long as this process lives."""
    server = socket.create_server(("127.0.0.1", 0))
    silent_server.kept = server
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def logging_fails_from_step_3() -> None:
    import wandb
    from torch.utils.tensorboard import SummaryWriter

    def failing(function):
        def log(*args, **kwargs):
            if kwargs.get("step", kwargs.get("global_step", 0)) >= 3:
                raise OSError(28, "No space left on device\nand more")
            return function(*args, **kwargs)

        return log

    os.environ["WANDB_MODE"] = "offline"
    wandb.sdk.wandb_run.Run.log = failing(wandb.sdk.wandb_run.Run.log)
    SummaryWriter.add_scalar = failing(SummaryWriter.add_scalar)


@row("F28", "without wandb's service the training logs offline after 15 s, and no failure of a log stops it", slow=True)
def f28(place: Place) -> str:
    seconds = []
    for script, patch in zip(TRAINERS, (nobody_listens, nobody_answers), strict=True):
        for _ in range(2):  # the first one has to import everything
            started = time.monotonic()
            run(place, script, *WANDB, patch=a_key).done("done: ")
            usual = time.monotonic() - started
        started = time.monotonic()
        ended = run(place, script, *WANDB, patch=patch).done("wandb: ", "logging offline", "`wandb sync", "done: ")
        seconds.append(time.monotonic() - started - usual)
        assert seconds[-1] < 25, f"{seconds[-1]:.0f} s more than without"
        (offline,) = (out(place, script) / "wandb").glob("offline-run-*")
        _, state = load_checkpoint(list_checkpoints(out(place, script))[0])
        assert offline.name.endswith(f"-{state['wandb_run_id']}"), f"{offline.name}, not {state['wandb_run_id']}"
        assert ended.said.count("logging offline") == 1

    for script in TRAINERS:
        ended = run(place, script, "--report_to", "all", patch=logging_fails_from_step_3).done("done: ")
        for name in ("wandb", "tensorboard"):
            assert ended.said.count(f"warning: {name} takes no more logs (") == 1, ended.said[-2000:]
        steps = [r["step"] for r in read_metrics(out(place, script) / "metrics.jsonl") if "train/loss" in r]
        assert steps == [1, 2, 3, 4, 5], steps
    return f"{seconds[0]:.0f} s more where nobody listens, {seconds[1]:.0f} s where nobody answers"


def no_key_at_a_terminal() -> None:
    """A terminal at which somebody could answer, and no key in the environment or at home."""
    os.environ.pop("WANDB_MODE", None)
    os.environ.pop("WANDB_API_KEY", None)
    os.environ.update(HOME="/nonexistent", NETRC="/nonexistent", HF_TOKEN=TOKEN)
    _, terminal = pty.openpty()
    os.dup2(terminal, 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115


def a_key() -> None:
    os.environ.update(WANDB_MODE="offline", WANDB_API_KEY=KEY, HF_TOKEN=TOKEN)


@row("F29", "without a key wandb logs offline and never asks; no key or token gets into what is shown", slow=True)
def f29(place: Place) -> str:
    secret = {
        "train_text2video": ("--text_encoder_revision", TOKEN),
        "train_svd": ("--cache_dir", place.folder / f"cache_{TOKEN}"),
    }
    for script in TRAINERS:
        for patch in (no_key_at_a_terminal, a_key):
            ended = run(place, script, *WANDB, *secret[script], patch=patch).done("done: ")
            assert ("no API key, logging offline" in ended.said) == (patch is no_key_at_a_terminal), ended.said
            assert list((out(place, script) / "wandb").glob("offline-run-*"))
            reveal_nothing(out(place, script))
        assert "***" in (out(place, script) / "args.json").read_text()
    more = ("--prompts", "a red circle", "--negative_prompt", f"my token={TOKEN}")
    run(place, "generate_text2video", *more).done("1 videos")
    reveal_nothing(out(place, "generate_text2video"))
    settings = {"api_key": "x1", "max_text_tokens": 77, "url": "https://me:pass@host/x?token=abc", "learning_rate": 0.1}
    hidden = {**settings, "api_key": "***", "url": "https://***@host/x?token=***"}
    assert without_secrets(settings) == hidden, without_secrets(settings)
    return "offline, nothing asked, nothing revealed"


def reveal_nothing(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in (KEY, TOKEN):
                assert secret.encode() not in content, f"{path} holds {secret}"


CLIP = "openai/clip-vit-large-patch14"
SVD = "stabilityai/stable-video-diffusion-img2vid-xt"


def hub(address: str, cache: str = "/nonexistent/hub") -> None:
    """The hub at this address, and nothing downloaded yet. The library reads its environment only when imported."""
    from huggingface_hub import constants

    os.environ.update(HF_HUB_OFFLINE="0", HF_ENDPOINT=address)
    constants.HF_HUB_OFFLINE, constants.ENDPOINT, constants.HF_HUB_CACHE = False, address, cache


def hub_refuses() -> None:
    hub(NOBODY)


def hub_is_silent() -> None:
    hub(silent_server())


def hub_has_no_address() -> None:
    """The search for its address goes on for a minute."""
    find = socket.getaddrinfo

    def search(host, *args, **kwargs):
        if host == "hub.invalid":
            time.sleep(60)
        return find(host, *args, **kwargs)

    socket.getaddrinfo = search
    hub("https://hub.invalid")


def hub_is_switched_off() -> None:
    hub(NOBODY)
    os.environ["HF_HUB_OFFLINE"] = "1"


@row("F30", "without the hub each script says in 10 s which model it wants, its files, and three ways out")
def f30(place: Place) -> str:
    model = place.folder / "model.pth"
    frozen = {"name": CLIP, "revision": None, "max_length": 77}
    torch.save({**place.shared.model, "text_encoder": frozen}, model)
    cases = (
        ("train_text2video", "--text_encoder", CLIP, ("--text_encoder", CLIP)),
        ("train_text2video", "--init_from_2d", "runwayml/stable-diffusion-v1-5", None),
        ("generate_text2video", "--text_encoder", CLIP, ("--checkpoint", model, "--prompts", "a red circle")),
        ("train_svd", "--pretrained_model_name", SVD, None),
        ("infer_svd", "--model_dir", SVD, ("--model_dir", SVD, "--input_image", place.shared.picture)),
    )
    run(place, "prepare_dataset").done()  # the first script has to import everything
    slowest = 0
    for patch in (hub_refuses, hub_is_silent, hub_has_no_address, hub_is_switched_off):
        for script, flag, name, more in cases if patch is hub_refuses else cases[:1] + cases[-1:]:
            started = time.monotonic()
            ended = run(place, script, *(more or (flag, name)), patch=patch)
            slowest = max(slowest, time.monotonic() - started)
            said = ended.refused(
                *(f"{flag}: {name} is not on this machine", "HF_ENDPOINT=https://hf-mirror.com", f"{flag} FOLDER"),
                *("config.json", ".safetensors", "--text_encoder builtin"),
            )
    assert slowest < 10, f"{slowest:.1f} s"
    return f"{slowest:.1f} s at most; {said}"


class Hub(ThreadingHTTPServer):
    """A hub with one model. While `broken`, its weights break off in the middle, whenever they are asked for."""

    COMMIT = "0123456789012345678901234567890123456789"

    def __init__(self, name: str, folder: Path):
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.name, self.folder, self.broken = name, folder, True
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


class HubRequest(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def log_message(self, *_) -> None:
        pass

    def answer(self, with_body: bool) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        files = {file.name: file.read_bytes() for file in hub.folder.iterdir()}
        if path.startswith(f"/api/models/{hub.name}/tree/"):
            tree = [{"type": "file", "path": n, "size": len(c), "oid": hub.COMMIT} for n, c in files.items()]
            return self.send(json.dumps(tree).encode(), with_body)
        if path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in files]
            return self.send(json.dumps({"id": hub.name, "sha": hub.COMMIT, "siblings": siblings}).encode(), with_body)
        content = files.get(path.rpartition("/")[2])
        if content is None:
            return self.send_error(404)
        self.send(content, with_body, cut=hub.broken and path.endswith(".safetensors"))

    def send(self, content: bytes, with_body: bool, cut: bool = False) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.server.COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content[start : len(content) // 2] if cut else content[start:])


@row("F31", "a model that lacks a file, or whose download breaks off, is refused with the name of the file", slow=True)
def f31(place: Place) -> str:
    count = 0

    def refused(flag: str, model: Path, lost: str, script: str, *more) -> str:
        nonlocal count
        count += 1
        partial = copied(model, place.folder / "partial")
        (partial / lost).unlink()
        argv = (*flags(place, script), flag, partial, *more)
        return run_script(script, argv).refused(f"{flag}: {partial} lacks", lost)

    # Local folders: one file less, and one shard less.
    clip = tiny_clip(place.folder / "clip")
    sharded = tiny_clip(place.folder / "sharded", max_shard_size="8KB")
    slow_tokenizer = copied(clip, place.folder / "slow_tokenizer")
    tokenizer = json.loads((clip / "tokenizer.json").read_text())["model"]
    (slow_tokenizer / "tokenizer.json").unlink()
    (slow_tokenizer / "vocab.json").write_text(json.dumps(tokenizer["vocab"]))
    (slow_tokenizer / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, tokenizer["merges"])) + "\n")
    shard = sorted(sharded.glob("model-*.safetensors"))[1].name
    for model, lost in (
        *((clip, name) for name in ("config.json", "model.safetensors", "tokenizer.json")),
        *((slow_tokenizer, name) for name in ("vocab.json", "merges.txt")),
        (sharded, shard),
    ):
        refused("--text_encoder", model, lost, "train_text2video")
    image_model = tiny_image_model(place.folder / "image_model")
    for lost in ("config.json", "diffusion_pytorch_model.safetensors"):
        refused("--init_from_2d", image_model, lost, "train_text2video")
    for path in sorted(place.shared.svd.rglob("*.*")):
        lost = str(path.relative_to(place.shared.svd))
        refused("--pretrained_model_name", place.shared.svd, lost, "train_svd")
        said = refused("--model_dir", place.shared.svd, lost, "infer_svd", "--input_image", place.shared.picture)

    # A download that breaks off: named within seconds, and gone on with the next time.
    # The library reads its environment when it is imported: processes of their own.
    argv = (*flags(place, "train_text2video"), "--text_encoder", CLIP, "--output_dir", place.out)
    environment = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(place.folder / "cache")}
    with Hub(CLIP, clip) as server:
        environment["HF_ENDPOINT"] = server.address
        started = time.monotonic()
        broken = place.run("train_text2video", *argv, **environment).refused(
            f"--text_encoder: {CLIP} is here without model.safetensors"
        )
        seconds = time.monotonic() - started
        assert seconds < 90, f"{seconds:.0f} s"
        server.broken = False
        place.run("train_text2video", *argv, **environment).done("done: ")
    shutil.rmtree(place.out)
    place.run("train_text2video", *argv, **environment).done("done: ")  # from the cache
    return f"{count} files; {said}; after {seconds:.0f} s {broken}"
