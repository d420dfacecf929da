"""Whether a pickle can be read in a time that is in proportion to its length.

A few hundred bytes can ask for ages: a tuple of a tuple that it holds twice, and so on, is short as
a pickle, but a dictionary hashes it as a key anew for each of its 2^n parts; and numbers that all
have one hash are compared each with each. So the steps of a pickle are counted before they are
taken.
"""

import pickle
import pickletools
from typing import BinaryIO

# What is written once and used often may be as long, written out, as so many steps of the pickle
# (and a start).
_SHARED, _START = 100, 100_000
# Hashing a tuple goes as deep as it does.
_DEPTH = 100
# Below a number is its own hash.
_LARGE, _NUM_LARGE = 2**60, 5000

# The size and the depth of what a pickle builds: of tuples, which are hashed part by part.
_Extent = tuple[int, int]
_SIMPLE: _Extent = (1, 0)
_HASHED = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE", "NEWOBJ")


class ExcessiveError(pickle.UnpicklingError):
    """A pickle that would take out of all proportion to read."""


def check_pickle(file: BinaryIO) -> None:
    """Go through the steps of a pickle, up to its end, and take none.

    Raises:
        ExcessiveError: reading it would take too long.
        ValueError, IndexError: it is broken.
    """
    stack: list[_Extent | None] = []  # None: a mark
    memo: dict[int, _Extent] = {}
    shared = num_large = 0
    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1] or _SIMPLE
            continue
        taken = _take(stack, opcode)
        made = _SIMPLE
        if opcode.name in _HASHED:
            size, depth = zip(*taken, strict=True) if taken else ((), ())
            made = (1 + sum(size), 1 + max(depth, default=0))
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            made = memo.get(argument, _SIMPLE)
            shared += made[0]
        elif opcode.name == "DUP":
            made = taken[0]
            shared += made[0]
        elif isinstance(argument, int) and abs(argument) >= _LARGE:
            num_large += 1
        if shared > _START + _SHARED * step or made[1] > _DEPTH or num_large > _NUM_LARGE:
            raise ExcessiveError(
                "it holds values in values that would take ages to read, as no weights do"
            )
        marks = pickletools.markobject in opcode.stack_after
        stack += [None] if marks else [made] * len(opcode.stack_after)


def _take(stack: list[_Extent | None], opcode: pickletools.OpcodeInfo) -> list[_Extent]:
    """Remove from the stack what a step consumes."""
    taken: list[_Extent] = []
    count = len(opcode.stack_before)
    to_mark = pickletools.markobject in opcode.stack_before
    if to_mark or (opcode.name == "POP" and stack[-1] is None):
        while (extent := stack.pop()) is not None:
            taken.append(extent)
        count = opcode.stack_before.index(pickletools.markobject) if to_mark else 0
    for _ in range(count):
        taken.append(stack.pop() or _SIMPLE)
    return taken
