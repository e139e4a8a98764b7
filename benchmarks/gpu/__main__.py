"""All that a GPU is asked, in one go: each part a process with a time limit of its own, its figures kept as they come.

    python -m benchmarks.gpu --minutes 7            # on a CUDA card; benchmarks/results/gpu.json, .md and pictures
    python -m benchmarks.gpu --tiny --output DIR    # the same parts with tiny networks, also without a card

Needs what requirements.txt names, but not wandb; of the peers those take part that are installed. A part that ends
early leaves its time to those after it; one that fails or is stopped is a line that says so. Predictions come from
the ledger that `train_svd.py --dry_run` prints and from counts on the meta device, see docs/performance.md.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.table import in_words, markdown
from utils.cli import Parser, choice, number, run

ROOT = Path(__file__).parents[2]
STARTING = 10  # s that a part may take to import, and then to end its last row


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--minutes", type=number(0, 1e4, above=True), default=7, help="for all parts together")
    parser.add_argument("--only", type=choice(*PARTS), nargs="+", default=list(PARTS), help="these parts alone")
    parser.add_argument("--skip", type=choice(*PARTS), nargs="+", default=[], help="all but these parts")
    parser.add_argument("--list", action="store_true", help="name the parts and their questions, and do nothing")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: does the benchmark itself run?")
    parser.add_argument("--output", type=Path, help="folder for the results; default: benchmarks/results")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    chosen = [name for name in PARTS if name in args.only and name not in args.skip]
    if args.list:
        print("\n".join(f"{name:10}{PARTS[name].question}" for name in chosen))
        return

    from benchmarks.measure import RESULTS, write_result

    output = args.output or RESULTS
    output.mkdir(parents=True, exist_ok=True)
    end, results = time.monotonic() + 60 * args.minutes, {}
    flags = [f"--minutes {args.minutes:g}", "--tiny" * args.tiny, f"--only {' '.join(chosen)}"]
    about = {"command": " ".join(["python -m benchmarks.gpu", *filter(None, flags)])}
    for place, name in enumerate(chosen):
        shares = [PARTS[other].share for other in chosen[place:]]
        seconds = max(1.0, (end - time.monotonic()) * shares[0] / sum(shares))
        print(f"== {name}: {PARTS[name].question} ({seconds:.0f} s at most)", flush=True)
        results[name] = {"question": PARTS[name].question, **answer(name, seconds, output, args.tiny)}
        written = write_result("gpu", {**about, "parts": results}, output)
    text = markdown(json.loads(written.read_text(encoding="utf-8")))
    written.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def answer(name: str, seconds: float, output: Path, tiny: bool) -> dict:
    """{"seconds", "ended": how, "rows"} of a part, in a process that is ended when its time is over."""
    command = [sys.executable, "-m", "benchmarks.gpu.parts", name, "--seconds", str(max(1.0, seconds - STARTING))]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*command, "--output", folder, *["--tiny"] * tiny],
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"},
            stdout=(log := open(Path(folder, "log"), "w+")),  # noqa: SIM115
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        start = time.monotonic()
        try:
            process.wait(seconds)
            ended = in_words(process.returncode)
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.seek(0)
        said = log.read()
        log.close()
        print(said[-4000:], flush=True)
        found = Path(folder, f"{name}.json")
        rows = json.loads(found.read_text(encoding="utf-8")) if found.exists() else []
        for picture in Path(folder).glob("*.png"):
            (output / f"gpu_{picture.name}").write_bytes(picture.read_bytes())
    last = {} if process.returncode == 0 else {"last_words": said[-1500:]}
    return {"seconds": round(time.monotonic() - start, 1), "ended": ended, **last, "rows": rows}


if __name__ == "__main__":
    run(lambda: main(parse_args()))
