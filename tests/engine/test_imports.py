"""Importing a user's modules."""

import sys

import pytest

from mask_former.engine.imports import import_module


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's module, which counts how often it is imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "users_code.py").write_text("import builtins\nbuiltins.users_count += 1\n")
    monkeypatch.setattr("builtins.users_count", 0, raising=False)
    yield tmp_path / "users_code.py"
    sys.modules.pop("users_code", None)


def test_once_by_name_and_by_file(module):
    import builtins

    for named in (str(module), "users_code", str(module)):
        import_module(named)
    assert builtins.users_count == 1


def test_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="the module 'no_such_module.data'.*PYTHONPATH"):
        import_module("no_such_module.data")
    with pytest.raises(ValueError, match="the module 'json.no_such_part'"):
        import_module("json.no_such_part")
    with pytest.raises(FileNotFoundError, match="IMPORTS names the file gone.py"):
        import_module("gone.py")


def test_a_file_of_the_name_of_another_module(tmp_path):
    (tmp_path / "json.py").write_text("")
    with pytest.raises(ValueError, match="there is another module 'json'. Give the file another"):
        import_module(f"{tmp_path}/json.py")


@pytest.mark.parametrize("by", ["name", "file"])
def test_an_error_in_a_module_keeps_its_traceback(module, by):
    module.write_text("import no_such_dependency\n")
    named = "users_code" if by == "name" else str(module)
    for _ in range(2):  # what has failed is tried again
        with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
            import_module(named)
