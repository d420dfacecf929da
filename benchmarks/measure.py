"""Time and memory of contenders side by side.

Machines are shared and their speed drifts, so that contenders take turns, and what counts is the
ratio of two of them within a round.
"""

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from mask_former.engine.host_memory import keep_freed_memory
from mask_former.precision import native_dtypes


@dataclass(frozen=True)
class Timing:
    """What one contender took.

    Attributes:
        seconds: wall-clock time of each round.
        peak_bytes: largest memory held by tensors beyond what was held before; None: not measured.
    """

    seconds: list[float] = field(repr=False)
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def speedup(self, other: "Timing") -> float:
        """How many times as fast as `other` this is: the median over the rounds."""
        return statistics.median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


def compare(
    contenders: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 9,
    warmup: int = 2,
    memory: bool = True,
    device: str = "cpu",
) -> dict[str, Timing]:
    """Run the contenders in turn, `rounds` times after `warmup` rounds that do not count.

    Every round starts with another one: what ran before leaves caches and threads behind. Their
    memory is measured in a run of its own, because the measurement takes time.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tqdm(total=(warmup + rounds) * len(contenders), leave=False) as bar:
        for i in range(warmup + rounds):
            first = i % len(contenders)
            for name in (*names[first:], *names[:first]):
                bar.set_description(name)
                took = _time(contenders[name], device)
                bar.update()
                if i >= warmup:
                    seconds[name].append(took)
    return {
        name: Timing(seconds[name], peak_memory(run, device=device) if memory else None)
        for name, run in contenders.items()
    }


def _time(run: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(run: Callable[[], Any], *, device: str = "cpu") -> int:
    """Most bytes of tensors that `run` holds at a time, beyond those that exist when it starts.

    Counts every allocation of PyTorch, also inside its operators; not that of other libraries.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = peak = 0
    events = (e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]")
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.device_type() == torch.autograd.DeviceType.CPU:
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def machine(device: str = "cpu") -> str:
    """The hardware and the software that the figures are of, in a line."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        name = f"{_cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} cores used"
    return f"{name}; PyTorch {torch.__version__}, Python {platform.python_version()}"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def allocators(device: str, *, quick: bool = False) -> Iterator[str]:
    """The settings of this process's memory allocator one after the other, in words.

    By default glibc returns large blocks to the system when they are freed; our training and
    evaluation keep them. All contenders have the one or the other. `quick`: kept alone.
    """
    if device == "cuda":
        yield ""
        return
    if not quick:
        yield ", freed memory returned"
    keep_freed_memory()  # for good
    yield ", freed memory kept"


def is_native(dtype: torch.dtype, device: str = "cpu") -> bool:
    """Whether the device computes in `dtype` itself, and does not emulate it."""
    return dtype is torch.float32 or dtype in native_dtypes(device)


def exact_float32() -> None:
    """No TF32 on GPUs, which PyTorch takes for convolutions and calls float32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def matrix_rate(
    dtype: torch.dtype = torch.float32, *, device: str = "cpu", size: int | None = None
) -> float:
    """Multiply-adds a second of the better of a large matrix product and a large convolution.

    PyTorch leaves float32 matrices on a CPU to another library than convolutions, and that one may
    not use all that the processor has.
    """
    size = size or (8192 if device == "cuda" else 2048)
    channels, side = size // 8, 128
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    pixels = torch.randn(1, channels, side, side, device=device).to(dtype)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    kernels = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    products = {
        size**3: lambda: a @ b,
        (3 * side * channels) ** 2: lambda: F.conv2d(pixels, kernels, padding=1),
    }
    return max(
        multiply_adds / min(_time(product, device) for _ in range(10))
        for multiply_adds, product in products.items()
    )
