"""moto's S3 server in a process of its own, and a proxy before it that misbehaves as told."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BUCKET = "bucket"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """The address of a server with an empty bucket."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=10).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        else:
            raise AssertionError(log.read_text())
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(kw_only=True)
class Fault:
    """What happens to some requests instead of the right answer."""

    kind: str
    """``status``, ``cut`` (the body ends early), ``flip`` (one byte is another), ``whole`` (Range is ignored),
    ``stall`` (no answer), ``half`` (half of a body, then nothing), ``unconditional`` (If-None-Match is ignored),
    ``unsupported`` (501 for If-None-Match), ``replace`` (``action`` runs after half of the body, which ends there),
    ``forget`` (the request is done, its answer is lost)."""
    method: str = "GET"
    path: str = ""
    """Part of the path."""
    times: int = 10**9
    """Number of requests; later ones are answered rightly."""
    status: int = 503
    body: str = ""
    after: int = 0
    """Requests that are answered rightly before."""
    action: Callable[[], object] = field(default=lambda: None)
    seen: int = 0


class Proxy:
    """A running proxy. ``requests`` has the method and the path of every request."""

    def __init__(self, upstream: str) -> None:
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.closed = threading.Event()
        proxy, target = self, upstream.removeprefix("http://")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:  # the client has gone
                    self.close_connection = True

            def answer(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.choose(self.command, self.path)
                kind = fault.kind if fault else ""
                conditional = any(name.lower() == "if-none-match" for name in self.headers)
                if kind == "unsupported" and conditional:
                    return self.send(501, {}, b"<Error><Code>NotImplemented</Code></Error>")
                if fault is not None and kind == "status":
                    return self.send(fault.status, {}, fault.body.encode())
                headers = dict(self.headers.items())
                if kind == "whole":
                    headers.pop("Range", None)
                    headers.pop("range", None)
                if kind == "unconditional":
                    headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
                if kind == "stall":
                    proxy.closed.wait()
                    return None
                upstream = http.client.HTTPConnection(target, timeout=30)
                try:
                    upstream.request(self.command, self.path, body=content, headers=headers)
                    response = upstream.getresponse()
                    body, found = response.read(), dict(response.getheaders())
                finally:
                    upstream.close()
                if kind == "forget":
                    self.close_connection = True
                    return None
                if kind == "flip" and body:
                    body = bytes([body[0] ^ 1]) + body[1:]
                return self.send(response.status, found, body, fault if kind in ("cut", "replace", "half") else None)

            def send(self, status: int, headers: dict[str, str], body: bytes, fault: Fault | None = None) -> None:
                self.send_response_only(status)
                length = next((value for name, value in headers.items() if name.lower() == "content-length"), None)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                half = body[: len(body) // 2] if fault else body
                self.wfile.write(half)
                self.wfile.flush()
                if fault is None:
                    return
                if fault.kind == "half":
                    proxy.closed.wait()
                if fault.kind == "replace":
                    fault.action()
                self.close_connection = True  # the body is shorter than announced

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - what http.server calls

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *arguments: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def choose(self, method: str, path: str) -> Fault | None:
        with self.lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.method == method and fault.path in path:
                    fault.seen += 1
                    if fault.after < fault.seen <= fault.after + fault.times:
                        return fault
        return None

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
