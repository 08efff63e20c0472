"""A hub on 127.0.0.1 that answers as the Hugging Face hub does when weights cannot be had; its mode can be changed."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REFUSALS = {
    "gated": (401, "GatedRepo"),
    "forbidden": (403, "GatedRepo"),
    "private": (401, "RepoNotFound"),
    "missing": (404, "RepoNotFound"),
    "other-files": (404, "EntryNotFound"),
    "busy": (429, ""),
    "down": (503, ""),
}
"""Mode -> status and error code; the modes ``cut`` and ``zeros`` spoil the content of every file, ``ok`` does not."""


@contextmanager
def fake_hub(files: dict[str, bytes]) -> Iterator[str]:
    """A running hub's address. ``GET /mode/MODE`` changes what it does.

    Args:
        files: ``OWNER/NAME/FILE`` -> content.
    """
    mode = ["ok"]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[0] == "mode":
                mode[0] = parts[1]
                return self.send(200, {}, b"{}")
            content = files.get("/".join([*parts[:2], *parts[4:]]))
            status, code = REFUSALS.get(mode[0], (200, ""))
            if status == 200 and content is None:
                status, code = 404, "EntryNotFound"
            if status != 200:
                headers = {"X-Error-Code": code} if code else {}
                headers |= {"Retry-After": "1"} if status == 429 else {}
                return self.send(status, headers, json.dumps({"error": "no"}).encode())
            data = content or b""
            tag = f'"{hashlib.sha256(data).hexdigest()}"'
            headers = {"ETag": tag, "X-Linked-Etag": tag, "X-Repo-Commit": "a" * 40, "X-Linked-Size": str(len(data))}
            body = {"cut": data[: len(data) // 3], "zeros": bytes(len(data))}.get(mode[0], data)
            self.send(200, headers, body, length=len(data))
            if len(body) < len(data):
                self.close_connection = True
            return None

        def send(self, status: int, headers: dict[str, str], body: bytes, length: int | None = None) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body) if length is None else length)}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = answer  # noqa: N815 - what http.server calls

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
