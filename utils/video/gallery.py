"""HTML pages of videos beside their prompts, and of tables: plain files, no server, no script, opens from the disk."""

import os
from html import escape
from pathlib import Path
from urllib.parse import quote

from utils.files import write_text

STYLE = """
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; background: #14151a; color: #e4e4e8;
       font: 15px/1.45 system-ui, "Noto Sans SC", "PingFang SC", "Microsoft YaHei", sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; } p { color: #a9abb6; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem; }
figure { margin: 0; background: #1e2027; border-radius: 8px; overflow: hidden; }
video, img { display: block; width: 100%; image-rendering: pixelated; background: #000; }
figcaption { padding: .5rem .65rem .65rem; font-size: .85rem; overflow-wrap: anywhere; }
figure.bad { outline: 2px solid #d0605e; }
table { border-collapse: collapse; } th, td { padding: .2rem 1rem .2rem 0; text-align: left; overflow-wrap: anywhere; }
th { color: #a9abb6; font-weight: 600; border-bottom: 1px solid #34363f; }
small { display: block; margin-top: .2rem; color: #80838f; }
"""


def write_gallery(path: Path, title: str, about: str, sections: dict[str, list[dict]]) -> None:
    """Write a page of videos to `path`.

    sections: heading -> videos in order, see `grid`. Links are relative to the page, so the folder can be moved or sent
    as it is. A browser plays the videos in a loop.
    """
    body = [f"<p>{escape(about)}</p>"]
    for heading, videos in sections.items():
        body += [f"<h2>{escape(heading)} ({len(videos)})</h2>", grid(videos, path)]
    write_page(path, title, body)


def grid(videos: list[dict], page: Path) -> str:
    """Videos side by side, each {"video": path of an mp4, "prompt": str, "note": str}, and "image": path if the video
    was made of one, "bad": True to mark it."""
    body = ['<div class="grid">']
    for video in videos:
        image = f'<img src="{_link(video["image"], page)}" alt="input">' if video.get("image") else ""
        note = f"<small>{escape(video['note'])}</small>" if video.get("note") else ""
        mark = ' class="bad"' if video.get("bad") else ""
        body.append(
            f'<figure{mark}>{image}<video src="{_link(video["video"], page)}" autoplay loop muted playsinline '
            f'preload="auto"></video><figcaption>{escape(video["prompt"])}{note}</figcaption></figure>'
        )
    return "\n".join([*body, "</div>"])


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table of text; the first column names the rows."""
    lines = [
        f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>"
        for tag, row in [("th", header), *(("td", row) for row in rows)]
    ]
    return "\n".join(["<table>", *lines, "</table>"])


def html_page(title: str, body: list[str], style: str = "") -> str:
    """A whole page of pieces of HTML under its title as heading; style: CSS besides the pages' common one."""
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *body,
        "</body></html>",
    ]
    return "\n".join(page) + "\n"


def write_page(path: Path, title: str, body: list[str]) -> None:
    """Write a page; it appears under its name complete or not at all."""
    write_text(path, html_page(title, body))


def _link(target: Path, page: Path) -> str:
    return quote(os.path.relpath(target, page.parent).replace(os.sep, "/"))
