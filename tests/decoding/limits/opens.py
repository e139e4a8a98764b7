"""Does the reader give back what it takes? Memory over 10,000 opens, of a whole file and of a damaged one, with seeks.

python -m tests.decoding.limits.opens                       # a minute
"""

import argparse
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.clips import damage, encode, moving_clip
from utils.cli import Parser, integer, run
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoError

WARM_UP, MOST_GROWTH = 200, 8 * 2**20  # opens after which memory is measured first; bytes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--opens", type=integer(WARM_UP + 1, 10**7), default=10_000, help="how many")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    growth = grown(args.opens)
    print(f"{args.opens} opens: memory grew by {growth / 2**20:.1f} MiB, limit {MOST_GROWTH / 2**20:.0f}")
    sys.exit(growth > MOST_GROWTH)


def grown(opens: int) -> int:
    """Bytes by which this process is larger after so many opens than after the first WARM_UP of them."""
    from tests.decoding.making import write
    from tests.decoding.test_shape import interlaced

    with tempfile.TemporaryDirectory() as folder:
        plain = encode(Path(folder, "plain.mp4"), moving_clip(90, 32, 32), options={"g": "20"})
        fields = write(Path(folder, "fields.mp4"), interlaced(6, True), "libx264", {"x264-params": "tff=1"}, fps=25)
        broken = damage(encode(Path(folder, "broken.mp4"), moving_clip(20, 32, 32), options={"g": "5"}), 12)
        infos = [probe_video(path) for path in (plain, fields, broken)]
        counted = probe_video(broken, decode=False)
        before = 0
        for n in range(opens // 4):
            if n == WARM_UP // 4:
                before = resident()
            probe_video(plain, decode=False)
            read_frames(infos[0], [80])
            read_frames(infos[1 + n % 2], [3])
            with suppress(VideoError):
                read_frames(counted, [13])
        return resident() - before


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    run(lambda: main(parse_args()))
