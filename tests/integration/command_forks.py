"""A process that has imported torch and timm once and forks a child for every command that a test starts.

A fresh interpreter spends 5 to 10 seconds on imports; a fork spends none, and is as real a process to kill. Reads a
JSON request a line (``{"start": [...]}`` or ``{"wait": pid}``) and answers with a line: the child's pid, or its code.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys

import tyro  # noqa: F401 - for the children

import lookonce.extract.run
import lookonce.train.run  # noqa: F401 - for the children
from lookonce.commands import evaluate_student, extract_features, feature_cache, train_student
from lookonce.extract.teachers.adapters.timm_adapter import build_trunk, describe

os.fsync = os.fstat  # as in tests/conftest.py

COMMANDS = {
    "extract-features": extract_features,
    "train-student": train_student,
    "feature-cache": feature_cache,
    "evaluate-student": evaluate_student,
}


def run_child(request: dict) -> None:
    os.setsid()
    for path, descriptor in ((os.devnull, 0), (request["stdout"], 1), (request["stderr"], 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"], resource.RLIM_INFINITY))
    if request["memory_bytes"]:
        pages = int(open("/proc/self/statm").read().split()[0])  # noqa: SIM115 - read at once
        limit = pages * resource.getpagesize() + request["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if request["user"]:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    COMMANDS[request["command"]].main(request["start"])


def serve() -> None:
    build_trunk(describe("vit_tiny_patch16_224"), 64)  # torch imports much of itself when it is first used
    gc.collect()
    gc.freeze()  # else each child's collector touches, and so copies, all of this process's memory
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                return run_child(request)
        print(json.dumps(answer), flush=True)
    return None


if __name__ == "__main__":
    parent = os.getpid()
    serve()
    if os.getpid() == parent:
        os._exit(0)  # what is frozen would be reported as leaked
