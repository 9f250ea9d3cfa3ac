"""Each operation of the graphs in JAX, next to torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor

from vedcore.export import OPERATIONS
from vedcore.export.interpreter import SIZES
from vedcore_jax.operations import operations

CHANCE = {"native_dropout", "dropout", "bernoulli.p", "rand"}
EMPTY = {"empty.memory_format", "empty_like", "new_empty"}
END = (1 << 63) - 1


def x(*shape: int, seed: int = 0) -> Tensor:
    """Numbers about 0."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def n(*shape: int, high: int = 4) -> Tensor:
    """Whole numbers from 0 on."""
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(sum(shape)))


X, POSITIVE, BOOL, OTHER = x(2, 3, 4), x(2, 3, 4).abs() + 0.1, x(2, 3, 4) > 0, x(2, 3, 4, seed=9)
IMAGE = x(2, 4, 7, 6)
Q, K, V = x(2, 4, 3, 8), x(2, 4, 5, 8), x(2, 4, 5, 8, seed=1)
IDS = n(2, 3, 4)
ONE: list[Any] = [(X,)]
TWO: list[Any] = [(X, OTHER), (X, x(3, 1))]
COMPARED: list[Any] = [(IDS, n(2, 3, 4, high=3))]
NUMBER: list[Any] = [(IDS, 2), (X, 0.5)]
BOTH: list[Any] = [(BOOL, OTHER > 0)]
WHERE = {
    "where.self": (X, OTHER),
    "where.ScalarOther": (X, -1),
    "where.ScalarSelf": (2.0, X),
    "where.Scalar": (1.0, 2.0),
}
SIZES_OF_IMAGES: list[Any] = [
    ((5, 9), False, None),
    ((14, 3), True, None),
    (None, False, [2.0, 1.5]),
    (None, True, [0.6, 2.0]),
    ((1, 1), True, None),
]
CASES: dict[str, list[Any]] = {
    "sym_size.int": [(X, 1), (X, -1)],
    "linear": [(X, x(5, 4), x(5)), (X, x(5, 4))],
    "matmul": [(X, x(2, 4, 5)), (x(2, 1, 3, 4), x(5, 4, 2)), (X, x(4))],
    "bmm": [(X, x(2, 4, 5))],
    "mm": [(x(3, 4), x(4, 5))],
    "addmm": [(x(5), x(3, 4), x(4, 5)), (x(5), x(3, 4), x(4, 5), {"beta": 0.5, "alpha": 2})],
    "conv2d": [
        (IMAGE, x(6, 4, 3, 2), x(6)),
        (IMAGE, x(6, 2, 3, 3), None, [2, 1], [1], [1, 2], 2),
        (IMAGE, x(4, 1, 3, 3), x(4), [1, 1], [1, 1], [1, 1], 4),
    ],
    "conv1d": [(x(2, 4, 9), x(6, 4, 3), x(6), [2], [1]), (x(2, 4, 9), x(4, 2, 3), None, [1], [0], [2], 2)],
    "embedding": [(x(5, 4), IDS), (x(5, 4), IDS, 1)],
    "layer_norm": [(X, [4], x(4), x(4, seed=1), 1e-6, False), (X, [3, 4])],
    "rms_norm": [(X, [4], x(4), 1e-6), (X, [4])],
    "group_norm": [(IMAGE, 2, x(4), x(4, seed=1), 1e-6), (IMAGE, 4)],
    "_native_batch_norm_legit_no_training": [
        (IMAGE, x(4), x(4, seed=1), x(4, seed=2), x(4).abs() + 1, 0.1, 1e-5),
        (IMAGE, None, None, x(4, seed=2), x(4).abs() + 1, 0.1, 1e-5),
    ],
    "scaled_dot_product_attention": [
        (Q, K, V),
        (Q, K, V, x(2, 1, 3, 5)),
        (Q, K, V, n(2, 1, 3, 5, high=2).bool() | torch.eye(3, 5).bool(), 0.0, False, {"scale": 0.7}),
        (Q, x(2, 2, 5, 8), x(2, 2, 5, 8, seed=1), None, 0.0, False, {"enable_gqa": True}),
        (Q, K[:, :, :3], V[:, :, :3], None, 0.0, True),
    ],
    "avg_pool2d": [
        (IMAGE, [2, 2]),
        (IMAGE, [3, 3], [2, 2], [1, 1]),
        (IMAGE, [3, 3], [2, 2], [1, 1], True, False),
        (IMAGE, [2, 2], [2, 2], [0, 0], True, True),
        (IMAGE, [3], [2], [1], True, True),
        (IMAGE, [2, 3], [1, 2], [1, 0], False, False),
        (IMAGE, [2, 2], [2, 2], [0, 0], False, True, 3),
    ],
    "adaptive_avg_pool2d": [(IMAGE, [3, 4]), (IMAGE, [1, 1]), (IMAGE, [9, 2])],
    "max_pool2d": [(IMAGE, [2, 2]), (IMAGE, [3, 3], [2, 2], [1, 1]), (IMAGE, [2, 3], [2, 2], [0, 1], [2, 1], True)],
    "upsample_bilinear2d.vec": [(IMAGE, *sizes) for sizes in SIZES_OF_IMAGES],
    "upsample_bicubic2d.vec": [(IMAGE, *sizes) for sizes in SIZES_OF_IMAGES],
    "upsample_nearest2d.vec": [(IMAGE, [5, 9], None), (IMAGE, None, [2.0, 1.5])],
    "_upsample_bilinear2d_aa.vec": [(IMAGE, *sizes) for sizes in SIZES_OF_IMAGES],
    "_upsample_bicubic2d_aa.vec": [(IMAGE, *sizes) for sizes in SIZES_OF_IMAGES],
    "pixel_shuffle": [(IMAGE, 2), (x(2, 9, 2, 3), 3)],
    "im2col": [(IMAGE, [2, 3], [1, 1], [0, 0], [1, 1]), (IMAGE, [3, 3], [1, 2], [1, 1], [2, 1])],
    "cross_entropy_loss": [
        (x(6, 5), torch.tensor([0, 4, -100, 2, 2, -100])),
        (x(6, 5), n(6), x(5).abs(), 1, 2, 0.1),
        (x(6, 5), n(6), None, 0, 2, 0.1),
        (x(2, 5, 3), n(2, 3), None, 2),
    ],
    "gelu": [(X,), (X, {"approximate": "tanh"})],
    "hardtanh": [(X,), (X, -0.2, 0.5)],
    "leaky_relu": [(X,), (X, 0.2)],
    "elu": [(X,), (X, 0.7, 1.2, 0.5)],
    "softmax.int": [(X, -1), (X, 1)],
    "log_softmax.int": [(X, -1), (X, 0)],
    "add.Tensor": [*TWO, (X, OTHER, {"alpha": 0.5}), (IDS, 1), (X, 2)],
    "sub.Tensor": [*TWO, (X, OTHER, {"alpha": 2}), (IDS, 1)],
    "rsub.Scalar": [(X, 1.0), (X, 1.0, 2)],
    "mul.Tensor": [*TWO, (X, 0.5), (IDS, 3), (IDS, X)],
    "div.Tensor": [*TWO, (X, 0.3), (IDS, 2)],
    "pow.Tensor_Scalar": [(X, 2), (POSITIVE, 0.5), (X, -1)],
    "pow.Tensor_Tensor": [(POSITIVE, OTHER)],
    "log": [(POSITIVE,)],
    "sqrt": [(POSITIVE,)],
    "rsqrt": [(POSITIVE,)],
    "reciprocal": [(POSITIVE,)],
    "clamp": [(X, -0.5, 0.5), (X, None, 0.5), (X, 0), (IDS, 1, 2)],
    "clamp_min": [(X, 0.1)],
    "clamp_max": [(X, 0.1)],
    "minimum": TWO,
    "maximum": TWO,
    "round": [(torch.tensor([0.5, 1.5, 2.5, -0.5, 1.2]),)],
    **{name: [(BOOL, *values)] for name, values in WHERE.items()},
    "masked_fill.Scalar": [(X, BOOL, 2), (X, x(3, 1) > 0, float("-inf"))],
    "masked_fill.Tensor": [(X, BOOL, torch.tensor(2.0))],
    **{f"{name}.Scalar": NUMBER for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"{name}.Tensor": COMPARED for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: [*BOTH, (IDS, n(2, 3, 4, high=3))] for name in ("__and__.Tensor", "__or__.Tensor")},
    **{name: [*BOTH, (IDS, n(2, 3, 4, high=3))] for name in ("bitwise_and.Tensor", "bitwise_or.Tensor")},
    "bitwise_not": [(BOOL,), (IDS,)],
    "logical_and": BOTH,
    "logical_or": BOTH,
    "logical_not": [(BOOL,), (IDS,)],
    "mean.dim": [(X, [1]), (X, [0, -1], True), (X, None)],
    "sum.dim_IntList": [(X, [1]), (X, [0, -1], True), (X, None), (BOOL, [1])],
    "amax": [(X, [1]), (X, [0, 2], True), (X,)],
    "amin": [(X, [1]), (X, [0, 2], True), (X,)],
    "argmax": [(X, -1), (X, 1, True), (X,)],
    "any.dim": [(BOOL, 1), (BOOL, 2, True)],
    "all.dim": [(BOOL, 1), (BOOL, 2, True)],
    "var.correction": [(X, [1]), (X, [0, 2], {"correction": 0, "keepdim": True}), (X,)],
    "var_mean.correction": [(X, [1]), (X, [0, 2], {"correction": 0, "keepdim": True})],
    "linalg_vector_norm": [(X, 2, [1], True), (X, 1, [0, 2]), (X, float("inf"), [1]), (X, 3), (X, 0, [1])],
    "cumsum": [(X, 1), (BOOL, -1), (IDS, 0)],
    "view": [(X, [6, 4]), (X, [2, -1])],
    "_unsafe_view": [(X, [6, 4])],
    "reshape": [(X, [6, 4]), (X, [-1])],
    "flatten.using_ints": [(X,), (X, 1), (X, 0, 1)],
    "unflatten.int": [(X, -1, [2, 2]), (X, 1, [-1, 3])],
    "expand": [(x(1, 3, 1), [2, -1, 4]), (x(3, 1), [2, 3, 4])],
    "permute": [(X, [2, 0, 1])],
    "transpose.int": [(X, -1, 1)],
    "t": [(x(3, 4),)],
    "unsqueeze": [(X, 1), (X, -1)],
    "squeeze.dim": [(x(2, 1, 3), 1), (x(2, 1, 3), 0), (x(2, 3, 1), -1)],
    "squeeze.dims": [(x(1, 2, 1), [0, 2]), (x(1, 2, 1), [0, 1])],
    "cat": [([X, OTHER],), ([X, OTHER], 2), ([X, OTHER], -2), ([x(0), x(3)],)],
    "stack": [([X, OTHER],), ([X, OTHER], -1)],
    "split.Tensor": [(X, 2, 2), (X, 3, -1), (X, 5)],
    "split_with_sizes": [(X, [1, 3], 2)],
    "chunk": [(X, 2, -1), (X, 3, 2), (x(5), 4)],
    "unbind.int": [(X,), (X, -1)],
    "select.int": [(X, 1, 2), (X, -1, -1)],
    "slice.Tensor": [
        (X, 1, 0, END),
        (X, 1, 1, END),
        (X, -1, -3, -1),
        (X, 2, None, 2),
        (X, 2, 0, 99, 2),
        (X, 1, -99, 2),
        (X,),
    ],
    "index.Tensor": [(X, [n(3, 2, high=2)]), (X, [None, n(4, high=3)]), (X, [n(2, 1, high=2), None, n(2, 3)])],
    "index_select": [(X, 1, n(5, high=3))],
    "gather": [(X, 2, n(2, 3, 5)), (X, 0, n(1, 3, 4, high=2))],
    "pad": [
        (X, [1, 2]),
        (X, [1, -1, 0, 2], "constant", 3.0),
        (X, [1, 2], "reflect"),
        (X, [1, 2], "replicate"),
        (X, [1, 2], "circular"),
        (IDS, [1, -1], "constant", 2.0),
    ],
    "constant_pad_nd": [(X, [1, 2, -1, 0], 3), (X, [0, 1])],
    "roll": [(X, [1, -1], [0, 2]), (X, [2]), (X, [1], [1])],
    "flip": [(X, [0, 2])],
    "repeat": [(X, [2, 1, 3]), (X, [2, 1, 1, 2])],
    "repeat_interleave.self_int": [(X, 2, 1), (X, 3)],
    "tril": [(x(4, 5),), (X, 1)],
    "triu": [(x(4, 5),), (X, -1)],
    "arange": [(5,), (3, {"dtype": torch.float32})],
    "arange.start": [(2, 5)],
    "arange.start_step": [(1, 8, 3), (0.0, 1.0, 0.25)],
    "full": [([2, 3], 1.5), ([2], 3, {"dtype": torch.int64}), ([], True)],
    "full_like": [(X, 2.0), (IDS, 2)],
    "zeros": [([2, 3],)],
    "ones": [([2, 3],), ([], {"dtype": torch.bool})],
    "zeros_like": [(X,), (IDS,)],
    "ones_like": [(X, {"dtype": torch.int64})],
    "new_zeros": [(IDS, [2, 3])],
    "new_ones": [(X, [2, 3])],
    "new_full": [(X, [2, 3], 2.5)],
    "empty.memory_format": [([2, 3],)],
    "empty_like": [(IDS,)],
    "new_empty": [(X, [2, 3])],
    "scalar_tensor": [(2.5,), (3, {"dtype": torch.int64})],
    "type_as": [(IDS, X), (X, IDS)],
    "einsum": [("ijk,ijl->ikl", [X, x(2, 3, 5)]), ("bik,kj->bij", [X, x(4, 2)])],
    "addcmul": [(X, OTHER, x(3, 1)), (X, OTHER, OTHER, {"value": 0.5})],
    "_to_copy": [(X, {"dtype": torch.int64}), (BOOL, {"dtype": torch.float32})],
}


def cases() -> Iterator[Any]:
    for name in OPERATIONS:
        if name not in SIZES and name not in CHANCE:
            for i, arguments in enumerate(CASES.get(name, ONE)):
                yield pytest.param(name, arguments, id=f"{name} {i}")


def in_torch(name: str) -> Any:
    base, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, base), overload or "default")


def in_jax(value: Any) -> Any:
    if isinstance(value, Tensor):
        array = value.numpy()
        return jnp.asarray(array.astype(np.int32) if array.dtype == np.int64 else array)
    if isinstance(value, torch.dtype):
        return {torch.int64: jnp.int32}.get(value) or getattr(jnp, str(value).removeprefix("torch."))
    return [in_jax(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("name", "arguments"), [*cases()])
def test_it_gives_what_torch_gives(name: str, arguments: tuple[Any, ...]) -> None:
    *positional, keywords = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    due = in_torch(name)(*positional, **keywords)
    given = {key: in_jax(value) for key, value in keywords.items()}
    found = operations()[name](*map(in_jax, positional), **given)
    for one, other in zip(
        *((each if isinstance(each, (tuple, list)) else [each]) for each in (found, due)), strict=True
    ):
        other = np.asarray(other)
        assert np.shape(one) == other.shape
        if name not in EMPTY:
            assert jnp.asarray(one).dtype.kind == other.dtype.kind or name.startswith(("arange", "full", "scalar"))
            np.testing.assert_allclose(np.asarray(one), other, atol=2e-6, rtol=2e-5)


def test_all_operations_are_there() -> None:
    assert {*OPERATIONS} - {*SIZES} <= operations().keys()
    assert not CASES.keys() - OPERATIONS.keys()


def test_no_gradient_goes_through_what_is_detached_or_padding() -> None:
    jnp_operations = operations()
    for name in ("detach", "detach_"):
        slope = jax.grad(lambda a, name=name: (a * jnp_operations[name](a)).sum())(jnp.ones(3))
        assert (slope == 1).all()
    table, ids = x(5, 4).requires_grad_(), n(3, 2)
    in_torch("embedding")(table, ids, 1).square().sum().backward()
    found = jax.grad(lambda t: jnp.square(jnp_operations["embedding"](t, in_jax(ids), 1)).sum())(in_jax(table.detach()))
    np.testing.assert_allclose(found, table.grad, rtol=1e-5)


def test_the_law_of_dropout() -> None:
    key, ones = jax.random.key(3), jnp.ones((400, 500))
    made = operations(key)
    first, mask = made["native_dropout"](ones, 0.3, True)
    second = made["dropout"](ones, 0.3, True)
    assert abs(float((first == 0).mean()) - 0.3) < 0.01
    assert ((first == 0) == ~mask).all()
    assert jnp.unique(first).tolist() == pytest.approx([0, 1 / 0.7])
    assert float((first == second).mean()) == pytest.approx(0.58, abs=0.01)  # a key each
    assert (operations(key)["native_dropout"](ones, 0.3, True)[0] == first).all()
    drawn = made["bernoulli.p"](ones, 0.8)
    assert abs(float(drawn.mean()) - 0.8) < 0.01
    uniform = made["rand"]([400, 500])
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)
    for unchanged in (made["dropout"](ones, 0.3, False), made["dropout"](ones, 0.0, True)):
        assert (unchanged == 1).all()
    assert (operations()["native_dropout"](ones, 0.3, True)[0] == 1).all()
    assert (made["dropout"](ones, 1.0, True) == 0).all()


def test_attention_drops_weights() -> None:
    q, k, v = (jnp.zeros((1, 1, 2000, 8)), jnp.zeros((1, 1, 10, 8)), jnp.eye(10)[None, None])
    weights = operations(jax.random.key(0))["scaled_dot_product_attention"](q, k, v, None, 0.25)
    assert float((weights == 0).mean()) == pytest.approx(0.25, abs=0.01)
    assert jnp.unique(weights).tolist() == pytest.approx([0, 0.1 / 0.75], rel=1e-4)
