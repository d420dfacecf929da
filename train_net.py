"""Train or evaluate a model.

Examples::

    python train_net.py --config-file configs/... --num-gpus 8
    python train_net.py --config-file configs/... --eval-only MODEL.WEIGHTS model.pth
    torchrun --nproc_per_node 8 train_net.py --config-file configs/...
"""

from mask_former.engine.train import main

if __name__ == "__main__":
    main()
