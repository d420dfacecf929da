"""Images a second of the family, for the table of models in the README.

    python -m benchmarks.family [--threads 1] [--device cuda] [--precision bfloat16] [--quick]

Whole semantic inference of one image of 512x512, from its bytes to the class of each pixel, by the
semantic recipes on ADE20K with random weights. All models take turns, with the same number of
threads, and freed memory kept, as in evaluation. Beside it what `tools.analyze_model` counts.
"""

import argparse
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import compare, exact_float32
from benchmarks.models import SMALL, our_model
from benchmarks.report import report
from mask_former import model_zoo
from mask_former.engine import load_config
from mask_former.engine.host_memory import keep_freed_memory
from mask_former.engine.memory import build_without_weights
from mask_former.precision import prepare
from tools.analyze_model import analyze

MODELS = {
    "MaskFormer, ResNet-50": "ade20k-150/maskformer_R50_bs16_160k",
    "Mask2Former, ResNet-50": "mask2former/ade20k/semantic-segmentation/maskformer2_R50_bs16_160k",
    "PEM, ResNet-50": "pem/ade20k/semantic-segmentation/pem_R50_bs32_160k",
    "PEM, STDC2": "pem/ade20k/semantic-segmentation/pem_STDC2_bs32_90k",
    "PEM, STDC1": "pem/ade20k/semantic-segmentation/pem_STDC1_bs32_90k",
    "Segmenter, ViT-S": "segmenter/ade20k/seg_small_mask",
    "EoMT, ViT-L of DINOv2": "eomt/ade20k/semantic/eomt_large_512",
}
# Of `--quick`, besides: ViTs of two blocks.
SMALL = (*SMALL, "MODEL.VIT.NAME", "test_vit", "MODEL.EOMT.NUM_BLOCKS", 2)
SMALL += ("MODEL.EOMT.ANNEALING_START", [0, 0], "MODEL.EOMT.ANNEALING_END", [1, 1])


class Segmentation:
    """One model of the family; a call gives the class of each pixel, (H, W).

    Args:
        recipe: its name.
        options: other keys of the recipe and their values.
        image: (3, H, W).
    """

    def __init__(self, recipe: str, options: tuple[Any, ...], image: Tensor) -> None:
        keys = ["MODEL.WEIGHTS", "", "MODEL.VIT.PRETRAINED", False]
        keys += ["MODEL.MASK_FORMER.TEST.SEMANTIC_LABELS", True]
        self.cfg = load_config(model_zoo.get_config_file(recipe), [*keys, *options])
        self.model = our_model(self.cfg).eval()
        prepare(self.cfg, self.model, training=False)
        self.batch = [{"image": image, "height": image.shape[-2], "width": image.shape[-1]}]

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        found = self.model(self.batch)[0]["sem_seg"]
        return found if found.dim() == 2 else found.argmax(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small models, to try it out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    exact_float32()
    keep_freed_memory()

    side = 64 if args.quick else 512
    small = (*SMALL, "MODEL.VIT.IMG_SIZE", side) if args.quick else ()
    small += ("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", side) if args.quick else ()
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    options = (*small, "MODEL.DEVICE", args.device, "TEST.PRECISION", args.precision)
    models = {name: Segmentation(recipe, options, image) for name, recipe in MODELS.items()}
    timings = compare(
        models, rounds=args.rounds, warmup=1 if args.quick else 2, memory=False, device=args.device
    )
    remarks = []
    for name, model in models.items():
        cost = analyze(build_without_weights(model.cfg), (side, side))[""]
        remarks.append(
            f"{name}: {1 / timings[name].median:.2f} images a second, "
            f"{cost.parameters / 1e6:.1f} M parameters, {cost.multiply_adds / 1e9:.1f} G "
            "multiply-adds"
        )
    report("family", [], remarks=remarks, device=args.device)


if __name__ == "__main__":
    main()
