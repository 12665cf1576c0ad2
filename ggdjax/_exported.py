"""What `jax.export` needs to write down the calling convention of a function that takes our pytrees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jax import export

from ggdjax._files import dumps, loads

if TYPE_CHECKING:
    from collections.abc import Callable


def serializable(
    encode: Callable[[Any], Any] = lambda static: static, decode: Callable[[Any], Any] = tuple
) -> Callable[[type], type]:
    """Decorate a registered pytree class: its static part is written as JSON under the name of the class.

    Args:
        encode: returns the static part (of a dataclass: the tuple of its static fields) as JSON holds it.
        decode: undoes ``encode`` on what went through JSON.
    """

    def register(cls: type) -> type:
        return export.register_pytree_node_serialization(
            cls,
            serialized_name=f"ggdjax.{cls.__name__}",
            serialize_auxdata=lambda static: dumps(encode(static)).encode(),
            deserialize_auxdata=lambda text: decode(loads(bytes(text))),
        )

    return register
