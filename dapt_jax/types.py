"""Names for the shapes of data that travel between the rooms of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

#: Any pytree of arrays: the weights (and normalisation statistics) of a network.
Params: TypeAlias = Any
#: Any pytree of arrays.
ArrayTree: TypeAlias = Any
#: A typed key made by `jax.random.key`, or a raw `uint32[2]` key.
PRNGKey: TypeAlias = jax.Array
#: Gate values or gate logits: `{group name: f32[width]}`, a pytree apart from the weights.
Gates: TypeAlias = dict[str, jax.Array]
#: `apply_fn(params, *inputs) -> outputs`, any function that JAX can trace.
ApplyFn: TypeAlias = Callable[..., Any]
