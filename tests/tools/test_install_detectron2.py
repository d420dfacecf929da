"""The repacking, on a miniature of the source wheel; nothing is downloaded."""

import base64
import csv
import email
import hashlib
import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import install_detectron2
from tools.install_detectron2 import InstallError, find_installed, main, repack

CODE = b"__version__ = 'miniature'\n"


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "sal_detectron2-0.7.2-cp310-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("detectron2/__init__.py", CODE)
        archive.writestr("detectron2/_C.cpython-310-x86_64-linux-gnu.so", b"\x7fELF")
        archive.writestr("detectron2/model_zoo/configs/Base.yaml", "A: 1\n")
        archive.writestr("tools/__init__.py", "")
        archive.writestr("tools/train_net.py", "print('not ours')\n")
        archive.writestr("sal_detectron2-0.7.2.dist-info/LICENSE", "Apache License\n")
        archive.writestr("sal_detectron2-0.7.2.dist-info/METADATA", "Requires-Dist: numpy<2\n")
        archive.writestr("sal_detectron2-0.7.2.dist-info/RECORD", "")
    return path


@pytest.fixture
def wheel(source, tmp_path) -> Path:
    folder = tmp_path / "repacked"
    folder.mkdir()
    return repack(source, folder, sha256_of(source))


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_keeps_the_code_and_leaves_out_what_would_not_work(wheel):
    info = "detectron2-0.6+a59f0563.dist-info"
    content = read(wheel)
    assert set(content) == {
        "detectron2/__init__.py",
        "detectron2/model_zoo/configs/Base.yaml",
        *(f"{info}/{name}" for name in ("LICENSE", "METADATA", "WHEEL", "RECORD")),
    }
    assert content["detectron2/__init__.py"] == CODE
    assert content[f"{info}/LICENSE"] == b"Apache License\n"


def test_is_tagged_for_any_python_3(wheel):
    assert wheel.name == "detectron2-0.6+a59f0563-py3-none-any.whl"
    tags = email.message_from_bytes(read(wheel)["detectron2-0.6+a59f0563.dist-info/WHEEL"])
    assert tags["Tag"] == "py3-none-any"


def test_record_lists_every_file_with_its_hash_and_size(wheel):
    content = read(wheel)
    (record,) = (name for name in content if name.endswith("/RECORD"))
    rows = list(csv.reader(content[record].decode().splitlines()))
    assert {row[0] for row in rows} == set(content)
    for name, digest, size in rows:
        if name == record:
            assert (digest, size) == ("", "")
            continue
        algorithm, _, encoded = digest.partition("=")
        assert algorithm == "sha256"
        padded = encoded + "=" * (-len(encoded) % 4)
        assert base64.urlsafe_b64decode(padded) == hashlib.sha256(content[name]).digest()
        assert int(size) == len(content[name])


def test_pip_installs_it(wheel, tmp_path):
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, f"--target={target}", str(wheel)], check=True)
    (found,) = importlib.metadata.distributions(path=[str(target)])
    assert (found.name, found.version) == ("detectron2", "0.6+a59f0563")
    # Pins of the source that would break this environment are gone.
    assert "numpy" in found.requires
    assert not any("black" in requirement for requirement in found.requires)
    assert (target / "detectron2/__init__.py").read_bytes() == CODE


def test_refuses_a_wheel_with_another_hash(source, tmp_path):
    folder = tmp_path / "refused"
    folder.mkdir()
    with pytest.raises(InstallError, match=f"{source}.* has sha256 {sha256_of(source)}"):
        repack(source, folder)
    assert list(folder.iterdir()) == []


def test_leaves_an_installed_detectron2_alone(monkeypatch, capsys):
    monkeypatch.setattr(install_detectron2, "_pip", lambda *_: pytest.fail("pip was called"))
    assert main([]) == 0
    assert str(Path(find_installed()).parent) in capsys.readouterr().out


def test_a_folder_of_the_name_is_no_detectron2(monkeypatch, tmp_path):
    (tmp_path / "detectron2").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    assert find_installed() is None


def test_a_failed_download_is_explained(monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="ERROR: no route to host")
    monkeypatch.setattr(install_detectron2, "find_installed", lambda: None)
    monkeypatch.setattr(install_detectron2, "_pip", lambda *_: failed)
    assert main([]) == 1
    message = capsys.readouterr().err
    assert "no route to host" in message
    assert "sal-detectron2==0.7.2" in message
    assert "pip config list" in message
