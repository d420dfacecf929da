"""Saving and loading: safe on both sides, and strict about what fits.

A file holds, beside the weights, the classes that they were trained on.

The weights of a model are named as in the published checkpoints. Other names go through
`NAME_RULES`, and those of other code bases through the tables of `convert.py` before.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from mask_former.checkpoint.atomic_write import replaced_when_complete
from mask_former.checkpoint.classes import KEY as CLASSES
from mask_former.checkpoint.classes import Category, check_trained_on, classes_in
from mask_former.checkpoint.compatibility import (
    HEAD,
    backbone_weights,
    check_finite_weights,
    check_strides,
    class_head,
    describe_mismatches,
    has_head,
    mismatches,
)
from mask_former.checkpoint.convert import SOURCES, find_source, to_ours
from mask_former.checkpoint.names import canonical_names
from mask_former.checkpoint.read import read_weights_file
from mask_former.errors import BrokenFileError, DownloadError, MissingFileError, UserError


class MaskFormerCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with four promises.

    - Nothing in a file is run: see `mask_former.checkpoint.read`.
    - A checkpoint appears under its name when it is complete, so that an interrupted write never
      harms the one before.
    - Weights that are not finite are not saved.
    - What is loaded fits. A whole model fits weight by weight; a file without a head is a
      backbone, and must hold all weights of its `pretrained_part`, or at least half of them and
      of each kind all or none. A class head is loaded only for the classes that it was trained
      on, where these are known.

    Args:
        model: the model, or what DistributedDataParallel made of it.
        save_dir: folder of the checkpoints.
        save_to_disk: None: in the main process only.
        accept_backbone: a file without a head is enough, as where a training starts. False where
            the model is to be used: its head would be random.
        classes: those of the data, as COCO's categories by contiguous id; saved with the model.
            None: they are not known, and any are loaded.
        checkpointables: saved and loaded besides the model; have `state_dict` and
            `load_state_dict`.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        accept_backbone: bool = True,
        classes: Sequence[Category] | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.accept_backbone = accept_backbone
        self.classes = None if classes is None else list(classes)
        self._without_class_head = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `name`.pth into `save_dir`, and point `last_checkpoint` at it.

        Args:
            kwargs: what to save besides the model and the checkpointables. Tensors, numbers,
                strings and plain containers: nothing else can be read back.
        """
        if not self._writes():
            return
        parts = {key: part.state_dict() for key, part in self.checkpointables.items()}
        self.save_weights(name, **parts, **kwargs)
        self.tag_last_checkpoint(f"{name}.pth")

    def save_weights(self, name: str, **kwargs: Any) -> None:
        """Write the model alone, and `kwargs`, into `save_dir`; nothing resumes from it.

        Raises:
            NonFiniteError: a weight is not finite. What was saved before stays.
            UnwritableFileError: the file system refuses it, as a full disk does.
        """
        if not self._writes():
            return
        path = os.path.join(self.save_dir, f"{name}.pth")
        weights = self.model.state_dict()
        check_finite_weights(weights, f"{path} is not written")
        self.logger.info(f"Saving checkpoint to {path}")
        classes = {} if self.classes is None else {CLASSES: self.classes}
        with replaced_when_complete(path) as f:
            torch.save({"model": weights, **classes, **kwargs}, f)

    def _writes(self) -> bool:
        return bool(self.save_dir) and self.save_to_disk

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make a file in `save_dir` the one that training resumes from."""
        with replaced_when_complete(os.path.join(self.save_dir, "last_checkpoint")) as f:
            f.write(last_filename_basename.encode())

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Load all that the last checkpoint holds, if `resume` and there is one; else the weights
        of `path`. Returns, and raises, as `load`."""
        resume = resume and self.has_checkpoint()
        try:
            return super().resume_or_load(path, resume=resume)
        except (MissingFileError, BrokenFileError) as error:
            if not resume:
                raise
            raise type(error)(f"{error}{self._others()}") from error

    def _others(self) -> str:
        """Where else a training can go on, in words."""
        last = os.path.basename(self.get_checkpoint_file())
        names = set(os.listdir(self.save_dir)) - {last}
        # Not model_best.pth, which holds weights alone.
        others = sorted(filter(re.compile(r"model_(\d+|final)\.pth").fullmatch, names))
        if not others:
            return ""
        pointer = os.path.join(self.save_dir, "last_checkpoint")
        return (
            f" Beside it: {', '.join(others[-3:])}. To resume from another one, write its name "
            f"into {pointer}."
        )

    def load(
        self,
        path: str,
        checkpointables: list[str] | None = None,
        *,
        without_class_head: bool = False,
    ) -> dict[str, Any]:
        """Load the model, and the checkpointables named (None: all that the file holds).

        Args:
            path: file, http(s) or detectron2:// address. Empty: nothing is loaded.
            without_class_head: leave the weights that depend on the classes as they are, see
                `compatibility.class_head`; the log names them.

        Returns:
            What else the file holds, such as "iteration" and "classes".

        Raises:
            MissingFileError: there is no such file.
            DownloadError: the address cannot be downloaded.
            BrokenFileError: it cannot be read to its end.
            UserError: the file wants something run, or is for another model, or for other classes.
        """
        if not path:
            self.logger.info("MODEL.WEIGHTS is empty: nothing is loaded.")
            return {}
        path = local_file(path)
        self._without_class_head = without_class_head
        try:
            return super().load(path, checkpointables)
        finally:
            self._parsed_url_during_load = None  # Detectron2 leaves it set after an error.

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = read_weights_file(filename)
        checkpoint["model"] = canonical_names(self._converted(filename, checkpoint["model"]))
        checkpoint["file"] = filename
        return checkpoint

    def _converted(self, file: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights under our names, if another code base wrote them."""
        source = find_source(weights)
        # A backbone that is the other code base's own takes its weights as they are.
        if source is None or any(
            name.endswith(tuple(f".{key}" for key in SOURCES[source].signature_keys))
            for name in self.model.state_dict()
        ):
            return weights
        conversion = to_ours(weights, source, file)
        if source == "torchvision":
            check_strides(file, self.model)
        self.logger.info(
            f"Weights of '{source}', converted: {len(conversion.weights)}; "
            f"left out: {conversion.left_out}"
        )
        return conversion.weights

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        file, weights = checkpoint.pop("file"), checkpoint["model"]
        checkpoint.pop("matching_heuristics", None)  # decided by content
        model = self.model.state_dict()
        if has_head(model) and not has_head(weights):
            return self._load_backbone(file, checkpoint)
        head = class_head(self.model)
        left_out = head if self._without_class_head else set()
        checkpoint["model"] = {k: v for k, v in weights.items() if k not in left_out}
        incompatible = super()._load_model(checkpoint)
        if mismatches(incompatible).keys() - left_out:
            starts = self.accept_backbone and not self._without_class_head
            raise UserError(describe_mismatches(file, incompatible, head, starts=starts))
        if not self._without_class_head:
            check_trained_on(file, classes_in(checkpoint), self.classes)
        if left_out:
            self.logger.info(f"Not loaded, since they depend on the classes: {sorted(left_out)}")
        return incompatible

    def _load_backbone(self, file: str, checkpoint: dict[str, Any]) -> Any:
        if not self.accept_backbone:
            raise UserError(
                f"{file} holds no head ({HEAD}*): it is a backbone to start a training from, "
                "not a trained model. Set MODEL.WEIGHTS to a trained model."
            )
        weights = checkpoint["model"]
        backbone = self.model.backbone
        if checkpoint.get("__author__") == "torchvision":  # by Detectron2's script
            check_strides(file, backbone)
        # Of those that others publish under several names, or for several sizes of image.
        if hasattr(backbone, "convert_weights"):
            weights = backbone.convert_weights(weights)
        checkpoint["model"] = backbone_weights(
            file,
            weights,
            self.model.state_dict(),
            is_caffe2=checkpoint.get("__author__") == "Caffe2",
            pretrained=getattr(backbone, "pretrained_part", ""),
        )
        return super()._load_model(checkpoint)


def local_file(path: str) -> str:
    """The file of a path or an address, which is downloaded once.

    Raises:
        MissingFileError: there is no such file.
        DownloadError: the address cannot be downloaded.
    """
    # Detectron2's "?matching_heuristics=True" says what the content shows here.
    address = path.removesuffix("?matching_heuristics=True")
    try:
        local = PathManager.get_local_path(address)
    except OSError as error:
        raise DownloadError(
            f"MODEL.WEIGHTS {address} cannot be downloaded ({error}). Without a network, set "
            "MODEL.WEIGHTS to a local copy."
        ) from error
    if not os.path.isfile(local):
        raise MissingFileError(
            f"There is no weights file {path}. It comes from MODEL.WEIGHTS or, when training "
            "is resumed, from the file last_checkpoint in OUTPUT_DIR."
        )
    return local
