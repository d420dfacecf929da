"""Whether PyTorch can compile for the CPU on this machine."""

import shutil
import sysconfig
from pathlib import Path

CAN_COMPILE = bool(shutil.which("c++")) and Path(sysconfig.get_path("include"), "Python.h").exists()
