"""Disks that are full, folders that may not be written."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from scene import CannotPlayError, Outcome, Scene, ended, receipts_of, told, until

NOBODY = 65534


@contextlib.contextmanager
def _small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A file system in memory; yields what mounts it again with other options."""
    folder.mkdir()

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)

    if os.geteuid():
        raise CannotPlayError("mounting a small file system needs root")
    try:
        mount(f"size={kilobytes}k")
    except subprocess.CalledProcessError as error:
        raise CannotPlayError("this machine does not let root mount a file system") from error
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", folder], check=True)


def _full_disk(scene: Scene, chance: random.Random, **changes: object) -> Outcome:
    whole = sum(path.stat().st_size for path in scene.whole.rglob("*") if path.is_file()) // 1000
    disk = scene.new_root()
    with _small_disk(disk, chance.randrange(whole // 8, whole)) as remount:
        over = scene.run(disk / "cache", **changes)
        there = f"{len(receipts_of(disk / 'cache'))} of {scene.shards} shards there"
        remount(f"size={4 * whole}k")
        return scene.outcome(disk / "cache", told(over), there)


def disk_full(scene: Scene, chance: random.Random) -> Outcome:
    """inline: onto a file system (tmpfs) of a random size below the cache's; then enlarged, same command again"""
    return _full_disk(scene, chance)


def disk_full_ray(scene: Scene, chance: random.Random) -> Outcome:
    """Ray, 2 local workers: the same"""
    return _full_disk(scene, chance, executor="ray", workers=2)


def file_size_limit(scene: Scene, chance: random.Random) -> Outcome:
    """inline: RLIMIT_FSIZE of 1 to 20 kB, below the largest object; then none, same command again (needs no root)"""
    root = scene.new_root()
    over = ended(scene.start(root, file_bytes=chance.randrange(1_000, 20_000)))
    return scene.outcome(root, told(over))


def read_only_folder(scene: Scene, chance: random.Random) -> Outcome:
    """inline: `--out` in a folder of mode 555 from the start; then 755, same command again (as root, the command runs
    as uid 65534, whom the mode binds)"""
    parent, user = _folder_of_a_user(scene)
    parent.chmod(0o555)
    over = ended(scene.start(parent / "cache", user=user))
    parent.chmod(0o755)
    return scene.outcome(parent / "cache", told(over), user=user)


def turned_read_only(scene: Scene, chance: random.Random) -> Outcome:
    """inline: all folders of the cache to mode 555 at a random shard; then 755, same command again (uid as above)"""
    parent, user = _folder_of_a_user(scene)
    root = parent / "cache"
    running = scene.start(root, user=user)
    wanted = chance.randrange(1, scene.shards // 2)
    until(lambda: root.is_dir() and len(receipts_of(root)) >= wanted, running=running)
    folders = [path for path in (root, *root.rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    over = ended(running)
    there = f"{len(receipts_of(root))} of {scene.shards} shards there"
    for folder in folders:
        folder.chmod(0o755)
    return scene.outcome(root, told(over), there, user=user)


def _folder_of_a_user(scene: Scene) -> tuple[Path, int]:
    """A folder that an unprivileged user owns, and that user's id: 0 where this process is unprivileged itself."""
    parent = scene.new_root()
    parent.mkdir()
    if os.geteuid():
        return parent, 0
    for place in (sys.prefix, sys.base_prefix, __file__):
        if not all(above.stat().st_mode & stat.S_IXOTH for above in Path(place).resolve().parents):
            raise CannotPlayError(f"run as root, the command becomes uid {NOBODY}, who cannot reach {place}")
    os.chown(parent, NOBODY, NOBODY)
    return parent, NOBODY
