"""How the C library deals with the memory of tensors on the CPU."""

import ctypes
import platform

# Parameters of mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process, and those forked from it, reuse the memory of tensors that are freed.

    By default glibc returns large blocks to the system at once, which then maps and zeroes the
    pages of every new feature map: more work than most of what is done with them. Kept, the
    process holds on to the most memory that it ever needed.

    Returns:
        whether the C library is glibc, and took it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never = -1
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, never)])
