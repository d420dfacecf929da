"""Metadata that are read from a data set's own files on first access."""

from collections.abc import Callable
from typing import Any

from detectron2.data import Metadata


class LazyMetadata(Metadata):
    """Detectron2's `Metadata`, completed on the first access to an attribute that is not set.

    Registration must not touch the disk: of the many registered data sets most programs use one.
    But class names are needed long before the records, when a model is built or a picture drawn.
    So accessing them in `MetadataCatalog.get(name)` reads them, once.

    Attributes that are set by hand are never overwritten, so that a model can be used without its
    data set.

    Args:
        name: of the data set.
        read: returns the missing attributes, from small files of the data set.
        known: the other attributes.
    """

    # The defaults are for copy and pickle, which make an empty object and fill it.
    def __init__(
        self, name: str = "N/A", read: Callable[[], dict[str, Any]] = dict, **known: Any
    ) -> None:
        self.__dict__.update(known, name=name, _read=read)

    def __getattr__(self, key: str) -> Any:
        # Python's own protocols (copy, pickle) look up private names, and must not read files.
        if not key.startswith("_") and self._complete() and key in self.__dict__:
            return self.__dict__[key]
        return super().__getattr__(key)

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self.__dict__:
            super().__setattr__(key, value)  # refuses another value
        else:
            self.__dict__[key] = value  # Detectron2 would look up the old one, and so read files

    def as_dict(self) -> dict[str, Any]:
        self._complete()
        return super().as_dict()

    def _complete(self) -> bool:
        """Read the files unless they have been read; returns whether they were read now."""
        if "_read" not in self.__dict__:
            return False
        found = self._read()
        del self.__dict__["_read"]
        for key, value in found.items():
            self.__dict__.setdefault(key, value)
        return True
