"""Install Detectron2's Python code when no Detectron2 can be imported: `python <this file>`.

Detectron2's maintainers publish no package, and building theirs needs GitHub, a compiler and
minutes. The registry has their Python code at commit a59f0563 (2024-04-17) inside another package,
`sal-detectron2` 0.7.2 (Apache-2.0), whose wheel cannot be used as it is: its compiled extension
is for CPython 3.10 only, it demands numpy < 2 and black, and it brings a top-level package `tools`.
MaskFormer needs nothing of the extension. So this script downloads exactly that wheel, verifies
its hash, repacks the Python code as a wheel `detectron2` for any Python 3, and installs it into
the running interpreter. An installed Detectron2 is left alone.

It uses the standard library and pip, hence the package index that pip is configured for.
"""

import argparse
import base64
import hashlib
import importlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SOURCE = "sal-detectron2==0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
# The release that the commit follows, and the commit.
VERSION = "0.6+a59f0563"
UPSTREAM = "git+https://github.com/facebookresearch/detectron2.git"

METADATA = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: Detectron2's Python code at commit a59f0563, repacked from {SOURCE}
Home-page: https://github.com/facebookresearch/detectron2
License: Apache-2.0
Requires-Python: >=3.8
Requires-Dist: cloudpickle
Requires-Dist: fvcore
Requires-Dist: hydra-core>=1.1
Requires-Dist: iopath
Requires-Dist: matplotlib
Requires-Dist: numpy
Requires-Dist: omegaconf<2.4,>=2.1
Requires-Dist: packaging
Requires-Dist: Pillow>=7.1
Requires-Dist: pycocotools>=2.0.2
Requires-Dist: tabulate
Requires-Dist: tensorboard
Requires-Dist: termcolor>=1.1
Requires-Dist: tqdm>4.29.0
Requires-Dist: yacs>=0.1.8
"""

WHEEL = """\
Wheel-Version: 1.0
Generator: tools/install_detectron2.py
Root-Is-Purelib: true
Tag: py3-none-any
"""


class InstallError(RuntimeError):
    """An error with a message for the user."""


def find_installed() -> str | None:
    """The file of the Detectron2 that would be imported, or None."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("detectron2")
    # No origin: a folder that happens to have the name, such as a clone that was not installed.
    return spec.origin if spec else None


def download(folder: Path) -> Path:
    """Download the source wheel into `folder` with pip.

    Raises:
        InstallError: the index cannot be reached, or serves no such file or another one.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SOURCE} --hash=sha256:{SHA256}\n", encoding="utf-8")
    # The wheel is tagged for Python 3.10; unpacking it needs no such interpreter.
    options = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--python-version=3.10"]
    done = _pip("download", *options, f"--dest={folder}", f"--requirement={requirements}")
    if done.returncode:
        raise InstallError(
            f"pip could not download {SOURCE} with sha256 {SHA256}:\n{done.stderr.strip()}\n"
            "Check the network and pip's index settings (`pip config list`) and run this again, "
            f"or build upstream's: pip install --no-build-isolation '{UPSTREAM}'"
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def repack(source: Path, folder: Path, sha256: str = SHA256) -> Path:
    """Write the Python code of the wheel `source` as a wheel `detectron2` into `folder`.

    Raises:
        InstallError: the file `source` does not have the hash `sha256`.
    """
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    if found != sha256:
        raise InstallError(
            f"{source} has sha256 {found} instead of {sha256}: the download is damaged or was "
            "tampered with, and nothing was installed. Run this again; if it persists, "
            "do not trust the index that pip is configured for (`pip config list`)."
        )
    info = f"detectron2-{VERSION}.dist-info"
    target = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:

        def add(name: str, content: bytes) -> None:
            new.writestr(name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
            record.append(f"{name},sha256={digest.decode().rstrip('=')},{len(content)}\n")

        for name in old.namelist():
            if name.startswith("detectron2/") and not name.endswith((".so", ".pyd", "/")):
                add(name, old.read(name))
            elif name.endswith(".dist-info/LICENSE"):
                add(f"{info}/LICENSE", old.read(name))
        add(f"{info}/METADATA", METADATA.encode())
        add(f"{info}/WHEEL", WHEEL.encode())
        new.writestr(f"{info}/RECORD", "".join(record) + f"{info}/RECORD,,\n")
    return target


def install(wheel: Path) -> None:
    """Install `wheel` alone: its dependencies are those of MaskFormer.

    Raises:
        InstallError: pip failed, or Detectron2 is not found afterwards.
    """
    done = _pip("install", "--no-deps", "--no-index", "--no-compile", str(wheel))
    if done.returncode or find_installed() is None:
        raise InstallError(f"pip could not install {wheel.name}:\n{done.stderr.strip()}")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 when Detectron2 is installed, by this run or before."""
    summary = "Install Detectron2's Python code, unless a Detectron2 is installed already."
    argparse.ArgumentParser(description=summary).parse_args(arguments)
    if found := find_installed():
        print(f"Detectron2 is installed already, in {Path(found).parent}: left as it is.")
        return 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            install(repack(download(Path(folder)), Path(folder)))
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Installed detectron2 {VERSION} (Python code of {SOURCE}) for {sys.executable}.")
    return 0


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
