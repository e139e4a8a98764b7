"""One HTML page that shows videos beside their prompts: plain files, no server, no script, opens from the disk."""

import os
from html import escape
from pathlib import Path
from urllib.parse import quote

STYLE = """
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; background: #14151a; color: #e4e4e8;
       font: 15px/1.45 system-ui, "Noto Sans SC", "PingFang SC", "Microsoft YaHei", sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; } p { color: #a9abb6; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1rem; }
figure { margin: 0; background: #1e2027; border-radius: 8px; overflow: hidden; }
video, img { display: block; width: 100%; image-rendering: pixelated; background: #000; }
figcaption { padding: .5rem .65rem .65rem; font-size: .85rem; overflow-wrap: anywhere; }
small { display: block; margin-top: .2rem; color: #80838f; }
"""


def write_gallery(path: Path, title: str, about: str, sections: dict[str, list[dict]]) -> None:
    """Write the page to `path`.

    sections: heading -> videos in order, each {"video": path of an mp4, "prompt": str, "note": str} and, if the video
    was made of one, "image": path. Links are relative to the page, so the folder can be moved or sent as it is. A
    browser plays the videos in a loop.
    """
    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(about)}</p>"]
    for heading, videos in sections.items():
        body += [f"<h2>{escape(heading)} ({len(videos)})</h2>", '<div class="grid">']
        for video in videos:
            source = _link(video["video"], path)
            image = f'<img src="{_link(video["image"], path)}" alt="input">' if video.get("image") else ""
            note = f"<small>{escape(video['note'])}</small>" if video.get("note") else ""
            body.append(
                f'<figure>{image}<video src="{source}" autoplay loop muted playsinline preload="auto"></video>'
                f"<figcaption>{escape(video['prompt'])}{note}</figcaption></figure>"
            )
        body.append("</div>")
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        *body,
        "</body></html>",
    ]
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text("\n".join(page) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _link(target: Path, page: Path) -> str:
    return quote(os.path.relpath(target, page.parent).replace(os.sep, "/"))
