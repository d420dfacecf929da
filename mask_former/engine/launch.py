"""Start the processes of a training: one, several on this machine, or those of torchrun.

All of them call `_run`. Detectron2's launcher is not used because it chooses
NCCL by the presence of a GPU rather than by the device of the model.
"""

import argparse
import gc
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm

from mask_former.data.json_files import forget_files
from mask_former.engine.errors import reported_errors
from mask_former.engine.host_memory import keep_freed_memory
from mask_former.engine.interruption import Interrupted
from mask_former.engine.processes import Processes, end_with_parent
from mask_former.errors import UserError

# A process waits this long for the others, for example while the main one evaluates.
TIMEOUT = timedelta(minutes=30)

Main = Callable[[CfgNode, argparse.Namespace], Any]


def is_first_process(args: argparse.Namespace) -> bool:
    """Whether this process checks the run and reports errors for all."""
    return int(os.environ.get("RANK", args.machine_rank)) == 0


def launch(main: Main, cfg: CfgNode, args: argparse.Namespace) -> None:
    """Call `main(cfg, args)` in every process of the run.

    Under torchrun the processes exist already. Otherwise `args.num_gpus` processes are started
    on each of `args.num_machines` machines: one for each GPU, or, when MODEL.DEVICE is cpu, that
    many processes. When one of them fails, the others are ended; so are all when this process ends,
    in whatever way. Signals to this process reach all of them.

    Args:
        main: importable by name, since new processes import it.
        args: of `mask_former.engine.argument_parser`.

    Raises:
        UserError: no process is asked for, or more GPUs than there are; no address at which
            several machines meet.
        Interrupted: a signal has stopped the training (in one process).
        SystemExit: one of several processes did not end well; with its exit code, 75 when a signal
            has stopped the training.
    """
    backend = "nccl" if torch.device(cfg.MODEL.DEVICE).type == "cuda" else "gloo"
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        group = {"backend": backend, "init_method": "env://"}
        _run(local_rank, local_size, group, main, cfg, args)
        return

    if args.num_gpus < 1 or not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--num-gpus {args.num_gpus} --num-machines {args.num_machines} --machine-rank "
            f"{args.machine_rank}: a machine has at least one process (also with MODEL.DEVICE "
            "cpu), and machines are counted from 0."
        )
    if args.num_gpus * args.num_machines == 1:
        _call(main, cfg, args)
        return
    if backend == "nccl" and args.num_gpus > torch.cuda.device_count():
        raise UserError(
            f"--num-gpus {args.num_gpus}, but {torch.cuda.device_count()} are visible on this "
            "machine."
        )
    group = {
        "backend": backend,
        "init_method": _rendezvous(args),
        "world_size": args.num_gpus * args.num_machines,
    }
    forget_files()  # each process reads its own; this one only waits
    processes = Processes(_start, args.num_gpus, args.num_gpus, group, main, cfg, args)
    if code := processes.run():
        sys.exit(code)


def _start(
    local_rank: int,
    local_size: int,
    group: dict[str, Any],
    main: Main,
    cfg: CfgNode,
    args: argparse.Namespace,
) -> None:
    """The body of a started process."""
    if group["backend"] == "gloo" and "OMP_NUM_THREADS" not in os.environ:
        # Processes that share a machine's cores get in each other's way with more threads.
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
    group["rank"] = args.machine_rank * local_size + local_rank
    with reported_errors():
        _run(local_rank, local_size, group, main, cfg, args)


def _run(
    local_rank: int,
    local_size: int,
    group: dict[str, Any],
    main: Main,
    cfg: CfgNode,
    args: argparse.Namespace,
) -> None:
    """Join the process group, then do the work."""
    end_with_parent()
    if group["backend"] == "nccl":
        torch.cuda.set_device(local_rank)
    dist.init_process_group(timeout=TIMEOUT, **group)
    comm.create_local_process_group(local_size)
    comm.synchronize()
    stopped = None
    try:
        _call(main, cfg, args)
    except Interrupted as error:  # in all processes
        stopped = error.with_traceback(None)  # whose frames hold the model
    # Not after another error: the others may be waiting for this process, and it for them.
    _leave_group()
    if stopped:
        raise stopped


def _leave_group() -> None:
    """Leave the process group, and wait for its threads.

    Those of gloo give back the tensors of the last exchange after this process has gone on. When
    Python ends meanwhile, they end the process with "terminate called without an active exception".
    They end with the group, and that with the last reference to it: of Detectron2, of the model.
    """
    dist.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    comm.create_local_process_group.cache_clear()
    gc.collect()


def _call(main: Main, cfg: CfgNode, args: argparse.Namespace) -> None:
    if torch.device(cfg.MODEL.DEVICE).type == "cpu":
        keep_freed_memory()
    main(cfg, args)


def _rendezvous(args: argparse.Namespace) -> str:
    if args.dist_url != "auto":
        return args.dist_url
    if args.num_machines > 1:
        raise UserError(
            f"--num-machines {args.num_machines} needs --dist-url tcp://HOST:PORT, an address of "
            "machine 0 that all machines reach."
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"
