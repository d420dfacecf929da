"""Importing a user's modules, of the key IMPORTS."""

import importlib
import importlib.util
import sys
from pathlib import Path

from mask_former.errors import MissingFileError, UserError


def import_module(module: str) -> None:
    """Import a module by its name, or by its file, which ends in .py; once a process.

    Raises:
        UserError: it is not found, or its name is that of another module. What goes wrong in the
            module itself is raised as it is.
    """
    if not module.endswith(".py"):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.split(".")[0] and error.name != module:
                raise  # of an import in that module
            raise UserError(
                f"IMPORTS names the module {module!r}, which Python does not find. Install it, add "
                "its folder to the environment variable PYTHONPATH, or name its file, such as "
                "my_data.py."
            ) from error
        return
    path = Path(module).expanduser().resolve()
    if not path.is_file():
        raise MissingFileError(f"IMPORTS names the file {module}, but there is no {path}.")
    if path.stem in sys.modules:
        if getattr(sys.modules[path.stem], "__file__", None) == str(path):
            return
        raise UserError(
            f"IMPORTS names the file {module}, but there is another module {path.stem!r}. Give the "
            "file another name."
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = imported = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(imported)
    except BaseException:
        del sys.modules[path.stem]
        raise
