"""A hub on this machine that holds one dataset, as huggingface_hub asks for it."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_with(name: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(its address, what was asked of it: paths of files that were sent)."""
    sent: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer(body=False)

        def do_GET(self):
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path, about = self.path.split("?")[0], f"/api/datasets/{name}"
            resolved = f"/datasets/{name}/resolve/{COMMIT}/"
            if path == "/":
                self._send(b"", body)
            elif path in (about, f"{about}/revision/{COMMIT}"):
                self._send(json.dumps({"id": name, "sha": COMMIT}).encode(), body)
            elif path == f"{about}/tree/{COMMIT}":
                files = [file for file in folder.rglob("*") if file.is_file()]
                rows = [{"path": str(file.relative_to(folder)), "size": file.stat().st_size} for file in files]
                self._send(json.dumps([{"type": "file", "oid": "0" * 40, **row} for row in rows]).encode(), body)
            elif path.startswith(resolved) and (folder / path.removeprefix(resolved)).is_file():
                if body:
                    sent.append(path.removeprefix(resolved))
                self._send((folder / path.removeprefix(resolved)).read_bytes(), body)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def _send(self, content: bytes, body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        server.server_close()
