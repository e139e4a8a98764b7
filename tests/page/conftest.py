"""Two tiny runs, the page that shows them, and a browser that opens it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conditions.conftest import data, known_run  # noqa: F401  (fixtures)
from tests.text2video.running import train

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="package")
def runs(data, known_run, tmp_path_factory) -> Path:  # noqa: F811
    """A folder with a run that knows every condition and one that knows none."""
    folder = tmp_path_factory.mktemp("page") / "checkpoints"
    shutil.copytree(known_run, folder / "knows_all")
    train(data, folder / "plain", "--max_train_steps", "2", "--num_timesteps", "1000", "--ema_decay", "0")
    return folder


@pytest.fixture(scope="package")
def address(runs) -> str:
    """Of the page, served as a user would, behind a proxy that does not answer."""
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "app.py", "--runs", str(runs), "--output_dir", str(runs.parent / "videos")]
    log = runs.parent / "log"
    with open(log, "w") as file:
        server = subprocess.Popen(
            [*command, "--port", str(free_port())],
            cwd=ROOT,
            env={**os.environ, **proxies},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        while not (found := re.search(r"http://\S+", log.read_text())):
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(0.3)
        yield found[0].rstrip("/")
    finally:
        server.send_signal(signal.SIGINT)
        status = server.wait(180)  # on a busy machine
    assert status == 130 and "Traceback" not in log.read_text(), log.read_text()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="package")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as found:
        chromium = found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()
