"""feature-cache as users type it: exit codes, what is printed where, and no slow imports for --help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lookonce.commands.feature_cache import main


@pytest.fixture
def cache(make_manifest, fill_cache, tmp_path: Path) -> Path:
    fill_cache(tmp_path / "c", make_manifest(), seeds=(0, 1), holes=(1,))
    return tmp_path / "c"


@pytest.fixture
def run(capsys):
    """Run the command in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out, printed.err

    return call


def test_show_prints_the_facts(run, cache: Path) -> None:
    code, out, err = run("show", cache)
    assert (code, err) == (0, "")
    for fact in ("timm:tiny, blocks 3, 4 of 4", "int8", "0, 1 complete", "c1/näme-001.jpg: unreadable", "sha256:"):
        assert fact in out


def test_show_as_json_is_one_object(run, cache: Path) -> None:
    code, out, _ = run("show", cache, "--json")
    assert code == 0
    assert json.loads(out)["views"] == 8


def test_show_draws_a_picture(run, cache: Path, tmp_path: Path) -> None:
    code, out, err = run("show", cache, "--picture", tmp_path / "p.png", "--samples", 2)
    assert (code, err) == (0, "")
    assert f"{tmp_path / 'p.png'}, 2 samples" in out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_show_of_no_cache_fails_in_one_sentence(run, tmp_path: Path) -> None:
    code, out, err = run("show", tmp_path / "absent")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "does not exist" in err


@pytest.mark.parametrize("command", ["show", "verify", "drift", "fidelity"])
def test_a_path_that_the_system_refuses_is_no_bug(run, command: str) -> None:
    code, out, err = run(command, "o" * 300)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {'o' * 300}/manifest.json: File name too long (ENAMETOOLONG); check the path")
    assert "bug" not in err


@pytest.mark.parametrize("flags", [(), ("--full",), ("--full", "--workers", "3")])
def test_verify_of_a_whole_cache_exits_with_0(run, cache: Path, flags: tuple[str, ...]) -> None:
    code, out, err = run("verify", cache, *flags)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert "no problems; checked 6 shards, 54 objects" in out
    assert ("every byte hashed" in out) == bool(flags)


def test_verify_names_every_bad_object_one_a_line(run, cache: Path) -> None:
    flipped, deleted = "seed-0001/targets/c/2/0/0/0", "seed-0000/pixels/c/1/0/0"
    content = bytearray((cache / flipped).read_bytes())
    content[3] ^= 1
    (cache / flipped).write_bytes(content)
    (cache / deleted).unlink()
    code, out, err = run("verify", cache, "--full")
    assert (code, err) == (1, "")
    first, second, last = out.splitlines()
    assert first.startswith(f"{deleted} (array pixels, seed 0, shard 1, rows 2-3): there is no such file; delete ")
    assert second.startswith(f"{flipped} (array targets, seed 1, shard 2, rows 4-4): the digest ")
    assert "2 problems" in last
    code, out, _ = run("verify", cache, "--full", "--json")
    assert code == 1
    assert [finding["path"] for finding in json.loads(out)["findings"]] == [deleted, flipped]


def test_verify_tells_what_does_not_belong_and_passes(run, cache: Path) -> None:
    for number in range(30):
        (cache / f"file-{number:02d}").touch()
    code, out, _ = run("verify", cache)
    assert code == 0
    assert "note: file-19: not part of the cache" in out
    assert "note: 10 more files" in out


def test_verify_of_no_cache_fails(run, tmp_path: Path) -> None:
    code, out, _ = run("verify", tmp_path)
    assert code == 1
    assert out.startswith("manifest.json: there is no manifest")


@pytest.mark.parametrize(
    "arguments", [(), ("shine",), ("show",), ("verify", "c", "--workers", "0"), ("show", "c", "--samples", "none")]
)
def test_bad_usage_exits_with_2(run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err


@pytest.mark.parametrize("arguments", [("--help",), ("show", "--help"), ("verify", "--help")])
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    program = (
        "import sys\nfrom lookonce.commands.feature_cache import main\n"
        f"try:\n    main({list(arguments)!r})\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = {'torch', 'ray', 'timm', 'matplotlib', 'zarr', 'open_clip'} & set(sys.modules)\n"
        "sys.exit(code or (f'loaded {heavy}' if heavy else 0))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "usage: feature-cache" in ended.stdout
