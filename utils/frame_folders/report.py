"""report.html of prepare_dataset.py: each clip as a strip of frames, how much moves, what was rejected and why."""

import base64
from collections import Counter
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from utils.cli import printable
from utils.frame_folders.clip_writer import SHEET_FRAMES
from utils.frame_folders.converter import write_if_new
from utils.video.gallery import html_page

MAX_CLIPS = 500  # with pictures: about 10 KB each

PAGE_STYLE = """
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(30rem, 1fr)); gap: 1rem; align-items: start; }
.strip { display: flex; align-items: center; gap: 3px; } .strip * { background-image: var(--sheet); }
.strip i { flex: none; width: var(--w); height: var(--h);
           animation: play calc(var(--n) * .3s) steps(var(--n)) infinite; }
.strip b { flex: 1; max-width: calc(var(--n) * var(--w)); aspect-ratio: calc(var(--n) * var(--w) / var(--h));
           background-size: 100% 100%; }
@keyframes play { to { background-position-x: calc(-1 * var(--n) * var(--w)); } }
svg { max-width: 40rem; width: 100%; } rect { fill: #6f9cf5; } text { fill: #a9abb6; font-size: 12px; }
.rejected { outline: 1px solid #a33; } em { color: #f08080; }
"""


def write_report(path: Path, rows: dict[str, dict], sheets: dict[str, Path]) -> None:
    """Write one HTML file that needs no other. rows: {clip: manifest row}; sheets: {clip: its contact sheet, a JPEG}.

    Of more than 500 clips, kept or rejected, it shows 500 at equal distances.
    """
    kept = {clip: row for clip, row in rows.items() if "folder" in row}
    rejected = {clip: row for clip, row in rows.items() if "folder" not in row}
    title = f"{len(kept)} clips, {sum(row['frames'] for row in kept.values())} frames"
    body = [f"<p>{len(rejected)} rejected</p>"]
    if kept:
        body += ["<h2>Motion</h2>", _histogram([row["motion_score"] for row in kept.values()])]
    if rejected:
        reasons = Counter(printable(row["rejected"]) for row in rejected.values()).most_common()
        lines = "".join(f"<tr><td>{count}</td><td>{escape(reason)}</td></tr>" for reason, count in reasons)
        body += ["<h2>Rejected, by reason</h2>", f"<table>{lines}</table>"]
        body += ["<h2>Rejected clips</h2>", *_figures(rejected, sheets)]
    body += ["<h2>Clips</h2>", *_figures(kept, sheets)]
    write_if_new(path, html_page(title, body, PAGE_STYLE))


def _figures(rows: dict[str, dict], sheets: dict[str, Path]) -> list[str]:
    """A figure per clip: its frames, played and side by side; its source; its numbers or the reason against it."""
    chosen = list(rows)
    if len(rows) > MAX_CLIPS:
        chosen = [chosen[n] for n in np.linspace(0, len(rows) - 1, MAX_CLIPS).round().astype(int)]
    lines = [f"<p>{MAX_CLIPS} of {len(rows)}</p>"] * (len(rows) > MAX_CLIPS) + ['<div class="clips">']
    for clip in chosen:
        row, facts = rows[clip], []
        if "fps" in row:
            facts.append(f"{row['frames']} frames at {row['fps']:g} fps")
        if "motion_score" in row:
            facts += [f"{row['width']}x{row['height']}", f"motion {row['motion_score']:.3f}"]
        if "motion_bucket_id" in row:
            facts.append(f"bucket {row['motion_bucket_id']}")
        facts = escape(", ".join(map(printable, [*facts, *row.get("notes", ())])))
        reason = f"<em>{escape(printable(row['rejected']))}</em> " if "rejected" in row else ""
        lines.append(
            f'<figure class="{"rejected" if reason else "kept"}">{_strip(sheets[clip], row)}<figcaption>{clip} {reason}'
            f"{escape(printable(row['source']))}<small>{facts}</small></figcaption></figure>"
        )
    return [*lines, "</div>"]


def _strip(sheet: Path, row: dict) -> str:
    """The frames of a contact sheet one after the other, and beside each other; nothing if there is no sheet."""
    if not sheet.exists():
        return ""
    data, (width, height) = base64.b64encode(sheet.read_bytes()).decode(), Image.open(sheet).size
    count = min(SHEET_FRAMES, row["frames"])
    size = f"--n: {count}; --w: {width // count}px; --h: {height}px"
    return f'<div class="strip" style="{size}; --sheet: url(data:image/jpeg;base64,{data})"><i></i><b></b></div>'


def _histogram(scores: list[float]) -> str:
    """An SVG of how many clips move how fast."""
    top = max(max(scores), 1e-3)
    counts, _ = np.histogram(scores, bins=20, range=(0, top))
    width, height = 560, 120
    bars = []
    for n, count in enumerate(counts.tolist()):
        tall = height * count / counts.max()
        label = f"{top * n / 20:.3f} to {top * (n + 1) / 20:.3f}: {count}"
        bars.append(
            f'<rect x="{n * width / 20 + 1:.0f}" y="{height - tall + 16:.1f}" width="{width // 20 - 2}" '
            f'height="{tall:.1f}"><title>{label}</title></rect>'
        )
    return (
        f'<svg viewBox="0 0 {width} {height + 56}" role="img">{"".join(bars)}<text x="0" y="12">{counts.max()} clips'
        f'</text><text x="0" y="{height + 32}">0</text><text x="{width}" y="{height + 32}" text-anchor="end">{top:.3f}'
        f'</text><text x="{width / 2:.0f}" y="{height + 48}" text-anchor="middle">motion score: short sides per second'
        f", median {np.median(scores):.3f}</text></svg>"
    )
