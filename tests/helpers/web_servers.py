"""Servers on 127.0.0.1 that give out the files of a folder: a plain web server, and one like the hub for datasets."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def _running(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Python's own server: no ranges, no ETags; a listing of a folder is a page for people."""
    with _running(partial(_Quiet, directory=str(folder))) as address:
        yield address


@contextmanager
def dataset_hub(folder: Path, repository: str, requests: list[str], token: str | None = None) -> Iterator[str]:
    """The hub with one dataset, whose branches ``main`` and ``v1`` are the same commit.

    Args:
        folder: files of the dataset.
        repository: ``OWNER/NAME``.
        requests: the paths of all requests are added here.
        token: the only token that may read, if the dataset is private.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self) -> None:
            requests.append(self.path)
            path = self.path.partition("?")[0].strip("/")
            if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
                return self.send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            api, files = f"api/datasets/{repository}", f"datasets/{repository}/resolve/{COMMIT}/"
            if path in (f"{api}/revision/main", f"{api}/revision/v1", f"{api}/revision/{COMMIT}"):
                return self.send(200, json.dumps({"id": repository, "sha": COMMIT, "siblings": []}).encode())
            if path.startswith(f"{api}/revision/"):
                return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            if path.startswith(f"{api}/tree/{COMMIT}"):
                below = path.removeprefix(f"{api}/tree/{COMMIT}").strip("/")
                found = [file for file in sorted((folder / below).rglob("*")) if file.is_file()]
                entries = [
                    {
                        "type": "file",
                        "path": file.relative_to(folder).as_posix(),
                        "size": file.stat().st_size,
                        "oid": "a",
                    }
                    for file in found
                ]
                return self.send(200, json.dumps(entries).encode())
            file = folder / path.removeprefix(files)
            if not path.startswith(files) or not file.is_file():
                code = "EntryNotFound" if path.startswith(files) else "RepoNotFound"
                return self.send(404, b"{}", {"X-Error-Code": code})
            content = file.read_bytes()
            return self.send(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'})

        def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = answer  # noqa: N815 - what http.server calls

    with _running(Handler) as address:
        yield address
