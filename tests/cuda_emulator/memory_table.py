"""The table of handlers for memory and for warps as a whole: names, and the C++ functions behind them.

The names are the emulator's own; `lowering` finds the one for an instruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from tests.cuda_emulator.lanewise import C_TYPES, HandlerSpec, lanewise

SPACES = {"global": "GLOBAL", "shared": "SHARED", "local": "LOCAL", "generic": "GENERIC"}
# Sizes of elements and how many of them one instruction moves.
WIDTHS = {8: (1, 2, 4), 16: (1, 2, 4), 32: (1, 2, 4, 8), 64: (1, 2, 4)}
# Atomic operations: the types of each, and the new value from the old one.
ATOMICS = {
    "add": ("u32,u64,f32,f64,f16,bf16,f16x2,bf16x2", "T(old + b)"),
    "min": ("s32,u32,s64,u64", "least<T>(old, b)"),
    "max": ("s32,u32,s64,u64", "most<T>(old, b)"),
    "and": ("b32,b64", "T(old & b)"),
    "or": ("b32,b64", "T(old | b)"),
    "xor": ("b32,b64", "T(old ^ b)"),
    "exch": ("b32,b64", "b"),
    "cas": ("b32,b64", "old == b ? c : old"),
    "inc": ("u32", "old >= b ? 0 : old + 1"),
    "dec": ("u32", "old == 0 || old > b ? b : old - 1"),
}
REDUCTIONS = {
    "add": ("s32,u32", "a + b"),
    "min": ("s32,u32", "least(a, b)"),
    "max": ("s32,u32", "most(a, b)"),
    "and": ("b32", "a & b"),
    "or": ("b32", "a | b"),
    "xor": ("b32", "a ^ b"),
}
# Shape, types of A and B, type of the sums -> C++ types and steps along K.
MATRIX_PRODUCTS = {
    **{
        f"m16n8k{8 * steps}.{sums}.{small}.{small}.{sums}": (c, c, sums_c, steps)
        for steps in (1, 2)
        for small, c, sums, sums_c in (
            ("f16", "half", "f32", "float"),
            ("bf16", "bfloat", "f32", "float"),
            ("f16", "half", "f16", "half"),
        )
    },
    **{f"m16n8k{4 * steps}.f32.tf32.tf32.f32": ("tf32", "tf32", "float", steps) for steps in (1, 2)},
    **{
        f"m16n8k{16 * steps}.s32.{a}8.{b}8.s32": (C_TYPES[a + "8"], C_TYPES[b + "8"], "int32_t", steps)
        for steps in (1, 2)
        for a in "su"
        for b in "su"
    },
}


def _memory() -> Iterator[HandlerSpec]:
    for space, name in SPACES.items():
        for address in (32, 64) if space in ("shared", "local") else (64,):
            for bits, counts in WIDTHS.items():
                for count in counts:
                    arguments = f"<{name}, uint{address}_t, uint{bits}_t, {count}>"
                    suffix = f"{space}{address}.v{count}.b{bits}"
                    yield HandlerSpec(f"load.{suffix}", (), f"load{arguments}(warp, i, mask);")
                    yield HandlerSpec(f"store.{suffix}", (), f"store{arguments}(warp, i, mask);")
            if space == "local":
                continue
            for operation, (types, expression) in ATOMICS.items():
                for type_name in types.split(","):
                    yield _atomic(operation, space, name, address, type_name, expression)
    for bits, counts in WIDTHS.items():
        for count in counts:
            code = f"load_parameter<uint{bits}_t, {count}>(warp, i, mask);"
            yield HandlerSpec(f"load.param64.v{count}.b{bits}", (), code)


def _atomic(operation: str, space: str, name: str, address: int, type_name: str, expression: str) -> HandlerSpec:
    c = C_TYPES[type_name]
    if type_name.endswith("x2"):
        c = "uint32_t"
        expression = (
            f"[&] {{ {C_TYPES[type_name]} x[2], y[2]; std::memcpy(x, &old, 4); std::memcpy(y, &b, 4); "
            f"for (int k = 0; k < 2; k++) x[k] = {C_TYPES[type_name]}(float(x[k]) + float(y[k])); "
            "return bits<uint32_t>(x); }()"
        )
    elif c in ("half", "bfloat"):
        expression = "T(float(old) + float(b))"
    return HandlerSpec(
        f"atomic.{operation}.{space}{address}.{type_name}",
        (),
        f"using T = {c}; atomic<{name}, uint{address}_t, T>(warp, i, mask, "
        f"[]([[maybe_unused]] T old, T b, [[maybe_unused]] T c) -> T {{ return {expression}; }});",
    )


def _copies() -> Iterator[HandlerSpec]:
    for size in (4, 8, 16):
        for address in (32, 64):
            code = f"copy_async<{size}, uint{address}_t>(warp, i, mask);"
            yield HandlerSpec(f"copy.{size}.shared{address}", (), code)
    yield HandlerSpec("copy.commit", (), "commit_copies(warp, i, mask);")
    yield HandlerSpec("copy.wait_group", (), "wait_group(warp, i, mask);")
    yield HandlerSpec("copy.wait_all", (), "wait_all(warp, i, mask);")


def _collectives() -> Iterator[HandlerSpec]:
    for mode, name in (("up", "UPWARD"), ("down", "DOWNWARD"), ("bfly", "BUTTERFLY"), ("idx", "INDEX")):
        yield HandlerSpec(f"shuffle.{mode}", (), f"shuffle<{name}>(warp, i, mask);")
    yield HandlerSpec("vote.ballot", (), "ballot(warp, i, mask);")
    for mode, expression in (("all", "p == all"), ("any", "p != 0"), ("uni", "p == 0 || p == all")):
        code = f"vote(warp, i, mask, [](uint32_t p, [[maybe_unused]] uint32_t all) {{ return {expression}; }});"
        yield HandlerSpec(f"vote.{mode}", (), code)
    yield HandlerSpec("active_mask", (), "active_mask(warp, i, mask);")
    for bits in (32, 64):
        yield HandlerSpec(f"match.any.b{bits}", (), f"match_any<uint{bits}_t>(warp, i, mask);")
        yield HandlerSpec(f"match.all.b{bits}", (), f"match_all<uint{bits}_t>(warp, i, mask);")
    for operation, (types, expression) in REDUCTIONS.items():
        for type_name in types.split(","):
            code = f"using T = {C_TYPES[type_name]}; reduce<T>(warp, i, mask, [](T a, T b) {{ return {expression}; }});"
            yield HandlerSpec(f"reduce.{operation}.{type_name}", (), code)
    yield HandlerSpec("warp_barrier", (), "warp.clock()++; (void)i; (void)mask;")
    for count in (1, 2, 4):
        for transposed in (False, True):
            for address in (32, 64):
                arguments = f"<{count}, {str(transposed).lower()}, uint{address}_t>(warp, i, mask);"
                suffix = f"x{count}{'.trans' if transposed else ''}.shared{address}"
                yield HandlerSpec(f"load_matrices.{suffix}", (), f"load_matrices{arguments}")
                yield HandlerSpec(f"store_matrices.{suffix}", (), f"store_matrices{arguments}")
    for shape, (a, b, sums, steps) in MATRIX_PRODUCTS.items():
        yield HandlerSpec(f"mma.{shape}", (), f"multiply_matrices<{a}, {b}, {sums}, {steps}>(warp, i, mask);")
    yield HandlerSpec("nothing", (), "(void)warp; (void)i; (void)mask;")
    yield HandlerSpec("trap", (), 'fail(UNSUPPORTED, std::countr_zero(mask), "trap"); (void)warp; (void)i;')


@cache
def all_handlers() -> dict[str, HandlerSpec]:
    """Every handler, in the order of the table that C++ and Python share."""
    found = {spec.name: spec for spec in lanewise().values()}
    for spec in (*_memory(), *_copies(), *_collectives()):
        if spec.name in found:
            raise ValueError(f"{spec.name} is twice among the handlers")
        found[spec.name] = spec
    return found


@cache
def handler_numbers() -> dict[str, int]:
    return {name: number for number, name in enumerate(all_handlers())}
