"""Which errors are shown as one sentence, and which keep their traceback."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
from torch.utils.data import DataLoader

from mask_former import errors
from mask_former.engine import reported_errors

FOR_USERS = [
    errors.UserError,
    errors.MissingFileError,
    errors.ExistingFileError,
    errors.DownloadError,
    errors.NonFiniteError,
]
BUGS = [ValueError, FileNotFoundError, KeyError, AssertionError, FloatingPointError, OSError]
TEXT = "SOLVER.X is 3:\n  it must be 4\n\nvalue: none"


def fail(kind, text=TEXT):
    raise kind(text)


def fail_after_another(kind):
    """With a cause, whose traceback comes first and ends like that of the error."""
    try:
        fail(kind, "the cause")
    except kind as error:
        raise kind(TEXT) from error


def shown(capsys, function, *args):
    with pytest.raises(SystemExit) as stop, reported_errors():
        function(*args)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("kind", FOR_USERS)
def test_an_error_for_users_is_its_message(kind, capsys):
    assert shown(capsys, fail, kind) == f"error: {TEXT}\n"


@pytest.mark.parametrize("kind", BUGS)
def test_a_bug_keeps_its_traceback(kind):
    with pytest.raises(kind), reported_errors():
        fail(kind)


def test_a_bug_inside_of_the_package_keeps_its_traceback(monkeypatch):
    """Its class, not the file that raises it, makes an error one for users."""
    from mask_former import model_zoo

    monkeypatch.setattr(model_zoo, "config_folder", lambda: int("a bug"))
    with pytest.raises(ValueError, match="invalid literal"), reported_errors():
        model_zoo.names()


def load(fail, kind):
    return list(DataLoader([kind], collate_fn=lambda kinds: fail(*kinds), num_workers=1))


@pytest.mark.parametrize("kind", FOR_USERS)
@pytest.mark.parametrize("function", [fail, fail_after_another])
def test_an_error_of_a_loaders_worker_is_its_message_too(function, kind, capsys):
    assert shown(capsys, load, function, kind) == f"error: {TEXT}\n"


@pytest.mark.parametrize("kind", [ValueError, OSError])
def test_a_bug_in_a_loaders_worker_keeps_the_traceback_of_the_worker(kind):
    with pytest.raises(kind, match=r"(?s)Traceback.*test_errors\.py"), reported_errors():
        load(fail, kind)


@pytest.mark.parametrize("kind", FOR_USERS)
def test_an_error_of_a_process_of_a_pool_is_its_message_too(kind, capsys):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        assert shown(capsys, pool.submit(fail, kind).result) == f"error: {TEXT}\n"
