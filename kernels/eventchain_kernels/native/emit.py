"""A few words over llvmlite's builder that let generated functions read like a program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
VOID = ir.VoidType()


def external(module: ir.Module, name: str, result: Any, operands: Sequence[Any]) -> ir.Function:
    """A declared function, LLVM's intrinsics among them (llvmlite's own way knows no vectors)."""
    known = module.globals.get(name)
    return known or ir.Function(module, ir.FunctionType(result, operands), name)


def suffix(kind: Any) -> str:
    """How LLVM writes a type at the end of an intrinsic's name."""
    return f"v{kind.count}i{kind.element.width}" if isinstance(kind, ir.VectorType) else f"i{kind.width}"


def swap(builder: ir.IRBuilder, x: Any) -> Any:
    """The bytes of each word in reverse."""
    name = f"llvm.bswap.{suffix(x.type)}"
    return builder.call(external(builder.module, name, x.type, [x.type]), [x])


class Code:
    """One function under construction. Pointers are passed and kept as ``i64`` addresses."""

    def __init__(self, module: ir.Module, name: str, arguments: Sequence[str], result: Any = VOID) -> None:
        kind = ir.FunctionType(result, [I64] * len(arguments))
        self.function = ir.Function(module, kind, name)
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        for value, argument in zip(self.function.args, arguments, strict=True):
            value.name = argument
        self.module = module

    def args(self) -> tuple[Any, ...]:
        return tuple(self.function.args)

    # -- memory

    def array(self, element: Any, size: int) -> Any:
        """Address of ``size`` elements on the stack, aligned for any vector."""
        with self.builder.goto_entry_block():
            space = self.builder.alloca(element, size)
            space.align = 64
            return self.builder.ptrtoint(space, I64)

    def variable(self, initial: Any) -> Variable:
        with self.builder.goto_entry_block():
            place = self.builder.alloca(initial.type)
        return Variable(self.builder, place, initial)

    def load(self, kind: Any, address: Any, align: int = 1) -> Any:
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=align)

    def store(self, value: Any, address: Any, align: int = 1) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=align)

    def at(self, base: Any, index: Any, size: int = 8, field: int = 0) -> Any:
        """Address of element ``index`` of elements of ``size`` bytes, or of the field in it."""
        index = I64(index) if isinstance(index, int) else index
        return self.builder.add(base, self.builder.add(self.builder.mul(index, I64(size)), I64(field)))

    def copy(self, target: Any, source: Any, size: Any) -> None:
        pointer, flag = I8.as_pointer(), ir.IntType(1)
        copy = external(self.module, "llvm.memcpy.p0.p0.i64", VOID, [pointer, pointer, I64, flag])
        cast = self.builder.inttoptr
        self.builder.call(copy, [cast(target, pointer), cast(source, pointer), size, flag(0)])

    # -- values and control

    def less(self, x: Any, y: Any) -> Any:
        """Unsigned."""
        return self.builder.icmp_unsigned("<", x, y)

    def minimum(self, x: Any, y: Any) -> Any:
        return self.builder.select(self.less(x, y), x, y)

    def maximum(self, x: Any, y: Any) -> Any:
        return self.builder.select(self.less(x, y), y, x)

    @contextmanager
    def forever(self) -> Iterator[Loop]:
        loop = Loop(self.builder)
        self.builder.branch(loop.head)
        self.builder.position_at_end(loop.head)
        yield loop
        self.builder.branch(loop.head)
        self.builder.position_at_end(loop.end)

    @contextmanager
    def count(self, stop: Any, step: int = 1) -> Iterator[tuple[Any, Loop]]:
        """``for i in range(0, stop, step)``; yields i and the loop."""
        i = self.variable(I64(0))
        with self.forever() as loop:
            value = i.get()
            i.set(self.builder.add(value, I64(step)))
            loop.leave_unless(self.less(value, stop))
            yield value, loop


class Variable:
    def __init__(self, builder: ir.IRBuilder, place: Any, initial: Any) -> None:
        self._builder, self._place = builder, place
        self.set(initial)

    def get(self) -> Any:
        return self._builder.load(self._place)

    def set(self, value: Any) -> None:
        self._builder.store(value, self._place)


class Loop:
    """The blocks of a loop, with ways out of its body and back to its head."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self._builder = builder
        self.head = builder.append_basic_block("loop")
        self.end = builder.append_basic_block("end")

    def leave_unless(self, condition: Any) -> None:
        self._branch(condition, self.end)

    def next_unless(self, condition: Any) -> None:
        self._branch(condition, self.head)

    def leave(self) -> None:
        self._builder.branch(self.end)
        self._builder.position_at_end(self._builder.append_basic_block("unreachable"))

    def _branch(self, condition: Any, otherwise: Any) -> None:
        on = self._builder.append_basic_block("on")
        self._builder.cbranch(condition, on, otherwise)
        self._builder.position_at_end(on)
