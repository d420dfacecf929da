"""MaskFormers of `transformers`: weights and configurations, to ours and back."""

from mask_former.checkpoint.hugging_face.config import (
    config_from_hugging_face,
    config_to_hugging_face,
    processor_to_hugging_face,
)
from mask_former.checkpoint.hugging_face.eomt_config import as_in_inference
from mask_former.checkpoint.hugging_face.folder import (
    find_weights,
    read_config_beside,
    write_folder,
)
from mask_former.checkpoint.hugging_face.weights import from_hugging_face, to_hugging_face

__all__ = [
    "as_in_inference",
    "config_from_hugging_face",
    "config_to_hugging_face",
    "find_weights",
    "from_hugging_face",
    "processor_to_hugging_face",
    "read_config_beside",
    "to_hugging_face",
    "write_folder",
]
