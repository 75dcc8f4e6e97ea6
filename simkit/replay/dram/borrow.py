"""Arrays without reference counts, strides and negative indices inside compiled code.

Numba counts references to every array it assigns or passes, with atomic instructions, and lets every index count from
the end; in a loop of a few dozen nanoseconds a step that is most of the time. ``borrowed`` gives the elements of a
one-dimensional array as a pointer and a length: ``view[i]`` for 0 <= i < ``view.size``, unchecked. The caller of the
compiled function holds the real array, so it cannot be freed meanwhile.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, make_attribute_wrapper, register_model
from numba.np.arrayobj import make_array


class BorrowedType(types.Type):
    """Numba's type of a borrowed array with elements of ``dtype``."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Borrowed({dtype})")


@register_model(BorrowedType)
class _BorrowedModel(models.StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, [("data", types.CPointer(kind.dtype)), ("size", types.intp)])


make_attribute_wrapper(BorrowedType, "size", "size")


@intrinsic
def _borrowed(typing_context: Any, array: Any) -> Any:  # noqa: ARG001  # numba's signature for intrinsics
    """Pointer and length of a contiguous array; valid as long as the caller's array is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        original = make_array(signature.args[0])(context, builder, arguments[0])
        view = cgutils.create_struct_proxy(signature.return_type)(context, builder)
        view.data = builder.bitcast(original.data, view.data.type)
        view.size = original.nitems
        return view._getvalue()  # noqa: SLF001  # the only way numba offers

    if array.ndim != 1 or array.layout != "C":
        return None
    return BorrowedType(array.dtype)(array), generate


@infer_global(operator.getitem)
class _TypeOfElement(AbstractTemplate):
    def generic(self, arguments: Any, keywords: Any) -> Any:  # noqa: ARG002
        view, index = arguments
        if isinstance(view, BorrowedType) and isinstance(index, types.Integer):
            return signature(view.dtype, view, types.intp)
        return None


@infer_global(operator.setitem)
class _TypeOfAssignment(AbstractTemplate):
    def generic(self, arguments: Any, keywords: Any) -> Any:  # noqa: ARG002
        view, index, _ = arguments
        if isinstance(view, BorrowedType) and isinstance(index, types.Integer):
            return signature(types.none, view, types.intp, view.dtype)
        return None


def _place(context: Any, builder: Any, kind: Any, view: Any, index: Any) -> Any:
    data = cgutils.create_struct_proxy(kind)(context, builder, value=view).data
    return builder.gep(data, [index], inbounds=True)


@lower_builtin(operator.getitem, BorrowedType, types.Integer)  # type: ignore[untyped-decorator]
def _element(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    place = _place(context, builder, signature.args[0], *arguments)
    return context.unpack_value(builder, signature.return_type, place)


@lower_builtin(operator.setitem, BorrowedType, types.Integer, types.Any)  # type: ignore[untyped-decorator]
def _assign(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    place = _place(context, builder, signature.args[0], *arguments[:2])
    context.pack_value(builder, signature.args[2], arguments[2], place)
    return context.get_dummy_value()


# numba fills in the typing context; what compiled code calls takes the array alone
borrowed: Callable[[Any], Any] = cast("Callable[[Any], Any]", _borrowed)
