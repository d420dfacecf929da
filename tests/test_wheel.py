"""A wheel is enough: it holds what the commands need, and they run from it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mask_former.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that a wheel of the checkout is unpacked in."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("mask_former", "configs", "demo", "tools"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", *build, "--wheel-dir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_the_wheel_has_a_console_command(installed):
    (file,) = installed.glob("*.dist-info/entry_points.txt")
    assert "mask-former = mask_former.__main__:main" in file.read_text()
    assert not (installed / "tools").exists() and not (installed / "demo").exists()


SCRIPT = """
import sys
from mask_former.__main__ import COMMANDS, main
import mask_former
print(mask_former.__file__)
for name in [*COMMANDS, "nothing"]:
    sys.argv = ["mask-former", name, "--help"]
    try:
        main()
    except SystemExit as end:
        print("exit", name, end.code)
sys.argv = ["mask-former", "convert", "gone.pth", "new.pth"]
main()
"""


def test_every_command_runs_from_the_wheel(installed, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    out = done.stdout
    assert out.startswith(str(installed)), done.stderr
    for name in COMMANDS:
        assert f"exit {name} 0" in out and f"usage: mask-former {name}" in out
    assert "exit nothing 2" in out and "usage: mask-former COMMAND" in out
    # Errors are one line, as of the scripts.
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: There is no file gone.pth")
    assert "Traceback" not in done.stderr
