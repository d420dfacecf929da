"""One checkout's process for `benchmarks.baseline`; it runs with that checkout's mask_former.

It takes the code of any checkout, so it uses nothing but what all of them have. For each line of
JSON that it reads it writes one: after {} it has run once, after {"save": FILE} it has saved what
comes out, too, and to {"peak": ""} it answers with the most memory that the process has held.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from detectron2 import modeling
from detectron2.structures import BitMasks, Instances

import mask_former
from mask_former import engine
from mask_former.engine import load_config
from mask_former.engine.optimizer import build_optimizer

# An older one builds models by Detectron2's function, and lays its memory out by itself. Files are
# looked for, since an editable installation would import those that are missing from elsewhere.
build_model = getattr(engine, "build_model", modeling.build_model)
if Path(mask_former.__file__).with_name("precision.py").exists():
    from mask_former.precision import prepare
else:

    def prepare(cfg: Any, model: torch.nn.Module, *, training: bool) -> None:
        pass


DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Worker:
    """A model and its inputs; `run` makes a training step, or segments."""

    def __init__(self, inputs: str, keys: list[str], precision: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        given = torch.load(inputs, weights_only=True)
        cfg = load_config(given["config"], [*given["keys"], *keys])
        self.device = cfg.MODEL.DEVICE
        self.dtype = DTYPES.get(precision)
        self.model = build_model(cfg).train(given["training"])
        prepare(cfg, self.model, training=given["training"])
        self.model.load_state_dict(given["weights"])
        self.training = given["training"]
        self.optimizer = build_optimizer(cfg, self.model) if self.training else None
        self.batch = [self.record(**x) for x in given["batch"]]

    def record(self, image: torch.Tensor, classes: torch.Tensor, masks: torch.Tensor) -> dict:
        size = tuple(image.shape[-2:])
        record: dict[str, Any] = {"image": image, "height": size[0], "width": size[1]}
        if self.training:
            record["instances"] = Instances(size, gt_classes=classes, gt_masks=BitMasks(masks))
        return record

    def run(self, update: bool = True) -> dict[str, torch.Tensor]:
        """The map, or the loss and, without an update, the norm of its gradient."""
        autocast = torch.autocast(self.device, self.dtype, enabled=self.dtype is not None)
        if not self.training:
            with torch.inference_mode(), autocast:
                (result,) = self.model(self.batch)
            found = result["panoptic_seg"][0] if "panoptic_seg" in result else result["sem_seg"]
            return {"map": found}
        with autocast:
            loss = sum(self.model(self.batch).values())
        self.optimizer.zero_grad()
        loss.backward()
        if update:
            self.optimizer.step()
            return {"loss": loss.detach()}
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return {"loss": loss.detach(), "gradient norm": torch.nn.utils.get_total_norm(gradients)}

    def save(self, path: str) -> None:
        found = self.run(update=False)
        torch.save({name: x.cpu().clone() for name, x in found.items()}, path)

    def peak_bytes(self) -> int:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    # Whatever is printed from here on is not a reply.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(**values: Any) -> None:
        replies.write(json.dumps(values) + "\n")
        replies.flush()

    worker = Worker(**json.loads(sys.argv[1]))
    reply(package=mask_former.__file__)
    for line in sys.stdin:
        request = json.loads(line)
        if "save" in request:
            worker.save(request["save"])
            reply()
        elif "peak" in request:
            reply(peak_bytes=worker.peak_bytes())
        else:
            worker.run()
            if worker.device == "cuda":
                torch.cuda.synchronize()
            reply()


if __name__ == "__main__":
    main()
