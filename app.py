"""A page in the browser to draw, edit and compare videos with the runs of train_text2video.py, and to look at runs.

    pip install -r requirements-app.txt
    python app.py                                     # then open http://127.0.0.1:7860

It speaks the language of the browser, English or Chinese. Only this machine reaches it; from elsewhere:
ssh -L 7860:127.0.0.1:7860 SERVER.
"""

import argparse
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from utils.cli import Parser, UserError, choice, integer, output_problems, run

# torch, gradio and what is built on them are imported in main(): --help and a misspelt flag answer at once.


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--runs", type=Path, default=Path("checkpoints"), help="folder of run folders")
    parser.add_argument("--output_dir", type=Path, default=Path("generated_videos/page"), help="folder of its videos")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets everybody in")
    parser.add_argument("--port", type=integer(1, 65535), default=7860, help="port to listen on")
    parser.add_argument(
        "--device", type=choice("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    if not args.runs.is_dir():
        yield f"--runs: there is no folder {args.runs}; train_text2video.py makes runs in checkpoints"
    yield from output_problems(args.output_dir)


def main(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    if find_spec("gradio") is None:
        raise UserError("the page needs gradio: pip install -r requirements-app.txt")
    from utils.page.page import served
    from utils.page.studio import Studio

    studio = Studio(args.runs, args.output_dir, args.device)
    with served(studio, args.host, args.port) as address:
        print(f"the page: {address}  (Ctrl-C ends it)", flush=True)
        if args.host not in ("127.0.0.1", "localhost", "::1"):
            print("warning: whoever reaches this machine can draw with it and see its runs and videos")
        threading.Event().wait()


if __name__ == "__main__":
    run(lambda: main(parse_args()))
