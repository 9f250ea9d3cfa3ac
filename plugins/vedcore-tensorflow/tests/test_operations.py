"""Each operation gives what torch's gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch

import vedcore.export
from vedcore.export.interpreter import SIZES
from vedcore_tensorflow.operations import OPERATIONS

INT64_MAX = 2**63 - 1


def real(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def whole(*shape: int, high: int = 5) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(sum(shape)))


X, Y, W, M, IMAGE = real(2, 3, 4), real(3, 4), whole(2, 3, 4), real(2, 3, 4) > 0, real(2, 6, 7, 9)
P = X.abs() + 0.1
ONE = torch.tensor(2.5)
ATTENTION = [real(2, 4, 3, 8), real(2, 4, 5, 8), real(3, 4, 5, 8)[:2]]
CASES: dict[str, list[tuple[Any, ...]]] = {
    "sym_size.int": [(X, 1), (X, -1)],
    "linear": [(X, real(5, 4), real(5)), (X, real(5, 4)), (real(2, 4), real(5, 4), real(5))],
    "matmul": [(X, real(2, 4, 5)), (X, real(4, 5)), (X, real(4)), (real(4), real(4, 2)), (real(4), real(4))],
    "bmm": [(X, real(2, 4, 5))],
    "addmm": [(real(5), real(3, 4), real(4, 5)), (real(5), real(3, 4), real(4, 5), {"beta": 0.5, "alpha": 2})],
    "mm": [(Y, real(4, 5))],
    "conv2d": [
        (IMAGE, real(4, 6, 3, 2), real(4)),
        (IMAGE, real(4, 6, 3, 3), None, [2, 1], [1, 2]),
        (IMAGE, real(4, 6, 3, 3), None, [1, 1], [2, 2], [2, 2]),
        (IMAGE, real(6, 1, 3, 3), real(6), [1, 1], [1, 1], [1, 1], 6),
        (IMAGE, real(12, 1, 3, 3), real(12), [2, 2], [1, 1], [1, 1], 6),
        (IMAGE, real(6, 1, 3, 3), real(6), [2, 1], [1, 1], [1, 1], 6),
        (IMAGE, real(6, 1, 3, 3), real(6), [2, 2], [2, 2], [2, 2], 6),
        (IMAGE, real(4, 3, 3, 3), real(4), [2, 2], [1, 1], [1, 1], 2),
    ],
    "conv1d": [(real(2, 4, 9), real(6, 2, 3), real(6), [2], [1], [1], 2), (real(2, 4, 9), real(6, 4, 3))],
    "einsum": [("bij,bjk->bik", [X, real(2, 4, 5)]), ("...ij,kj->...ik", [X, Y])],
    "addcmul": [(X, Y, X), (X, Y, ONE, {"value": 0.5})],
    "type_as": [(X, W), (W, X)],
    "embedding": [(real(5, 3), whole(2, 4)), (real(5, 3), whole(2, 4), 1)],
    "layer_norm": [(X, [4], real(4), real(4), 1e-6, False), (X, [3, 4]), (X, [4], real(4))],
    "rms_norm": [(X, [4], real(4), 1e-6), (X, [4])],
    "group_norm": [(IMAGE, 3, real(6), real(6), 1e-5, True), (IMAGE, 2)],
    "batch_norm": [
        (IMAGE, real(6), real(6), real(6), real(6).abs() + 1, False, 0.1, 1e-5, True),
        (real(4, 6), None, None, real(6), real(6).abs() + 1, False, 0.1, 1e-5, True),
        (IMAGE, real(6), real(6), None, None, True, 0.1, 1e-5, True),
    ],
    "_native_batch_norm_legit_no_training": [(IMAGE, real(6), None, real(6), real(6).abs() + 1, 0.1, 1e-5)],
    "scaled_dot_product_attention": [
        (*ATTENTION,),
        (*ATTENTION, real(1, 1, 3, 5) > -1, {"scale": 0.3}),
        (*ATTENTION, real(2, 1, 3, 5)),
        (*ATTENTION, None, 0.0, True),
        (ATTENTION[0], *(each[:, :2] for each in ATTENTION[1:]), {"enable_gqa": True}),
    ],
    "avg_pool2d": [
        (IMAGE, [2, 2]),
        (IMAGE, [3, 2], [2, 1], [1, 1]),
        (IMAGE, [3, 3], [2, 2], [1, 1], False, False),
        (IMAGE, [2, 2], [2, 2], [0, 0], True),
        (IMAGE, [3, 3], [2, 2], [1, 1], True, False),
        (IMAGE, [2, 2], [2, 2], [0, 0], True, False),
        (IMAGE, [2, 2], [2, 2], [0, 0], False, True, 3),
    ],
    "adaptive_avg_pool2d": [(IMAGE, [1, 1]), (IMAGE, [3, 4]), (IMAGE, [9, 2])],
    "max_pool2d": [
        (IMAGE, [2, 2]),
        (IMAGE, [3, 3], [2, 2], [1, 1]),
        (IMAGE, [3, 2], [2, 2], [1, 1], [2, 2]),
        (IMAGE, [2, 2], [2, 2], [0, 0], [1, 1], True),
    ],
    **{
        f"{name}.vec": [
            (IMAGE, [14, 5], False, None),
            (IMAGE, [14, 5], True, None),
            (IMAGE, None, False, [2.0, 2.0]),
            (IMAGE, None, False, [0.6, 1.7]),
            (IMAGE, [1, 3], False, None),
        ]
        for name in (
            "upsample_bilinear2d",
            "upsample_bicubic2d",
            "_upsample_bilinear2d_aa",
            "_upsample_bicubic2d_aa",
        )
    },
    "upsample_nearest2d.vec": [(IMAGE, [14, 5], None), (IMAGE, None, [2.0, 3.0]), (IMAGE, None, [0.6, 1.7])],
    "pixel_shuffle": [(real(2, 8, 3, 5), 2)],
    "cross_entropy_loss": [
        (Y, torch.tensor([1, -100, 3])),
        (Y, torch.tensor([1, 2, 3]), real(4).abs(), 2),
        (Y, torch.tensor([1, 2, -100]), real(4).abs(), 1, -100, 0.1),
        (Y, torch.tensor([1, 0, 3]), None, 0, 0),
        (real(2, 5, 3), whole(2, 3)),
    ],
    "native_dropout": [(X, 0.5, False)],
    "dropout": [(X, 0.5, False), (X, 0.0, True)],
    **{name: [(X,)] for name in ("relu", "relu_", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "neg")},
    **{name: [(X,)] for name in ("abs", "exp", "sin", "cos", "erf", "reciprocal", "floor")},
    **{name: [(P,)] for name in ("log", "sqrt", "rsqrt")},
    "round": [(torch.tensor([0.5, 1.5, 2.5, -0.5, 1.2]),)],
    "gelu": [(X,), (X, {"approximate": "tanh"})],
    "hardtanh": [(X,), (X, -0.5, 0.25)],
    "leaky_relu": [(X,), (X, 0.2)],
    "elu": [(X,), (X, 0.5)],
    "softmax.int": [(X, 1), (X, -1, torch.float32)],
    "log_softmax.int": [(X, -1)],
    **{
        f"{name}.Tensor": [(X, Y), (X, 2), (X, ONE), (W, 0.5), (W, X), (W, torch.tensor(3)), (W, ONE)]
        for name in ("add", "sub", "mul", "div")
    },
    "rsub.Scalar": [(X, 2), (X, 1.5, 3)],
    "pow.Tensor_Scalar": [(P, 2), (P, 0.5), (W, 2), (P, -1)],
    "pow.Tensor_Tensor": [(P, X)],
    "clamp": [(X, -0.5, 0.5), (X, None, 0.5), (W, 1), (X, 0, 1)],
    "clamp_min": [(X, 0.25)],
    "clamp_max": [(X, 0.25)],
    "minimum": [(X, Y), (W, X)],
    "maximum": [(X, Y)],
    "where.self": [(M, X, Y), (M, X, ONE), (M, W, X)],
    "where.ScalarOther": [(M, X, 0.5), (M, W, -1), (M, W, 0.5)],
    "where.ScalarSelf": [(M, 0.5, X)],
    "where.Scalar": [(M, 0.5, 1.0), (M, 1, 0)],
    "masked_fill.Scalar": [(X, M, -1), (X, M[0], float("-inf")), (W, M, 7)],
    "masked_fill.Tensor": [(X, M, ONE)],
    **{f"{name}.Scalar": [(W, 2), (X, 0.1), (W, 1.5)] for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"{name}.Tensor": [(W, W[0]), (X, W), (M, M[0])] for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"{name}.Tensor": [(M, M[0]), (W, W[0])] for name in ("__and__", "__or__", "bitwise_and", "bitwise_or")},
    "bitwise_not": [(M,), (W,)],
    "logical_and": [(M, M[0]), (W, X)],
    "logical_or": [(M, W)],
    "logical_not": [(M,), (W,)],
    "mean.dim": [(X, [1]), (X, [0, -1], True), (X, None)],
    "mean": [(X,)],
    "sum.dim_IntList": [(X, [1]), (X, [0, 2], True), (M, [1]), (W, [-1]), (X, None)],
    "sum": [(X,), (M,)],
    "amax": [(X, [1]), (X, [0, -1], True), (X,)],
    "amin": [(X, [1], True)],
    "argmax": [(X, 1), (X, -1, True), (X,)],
    "any.dim": [(M, 1), (W, 1, True)],
    "all.dim": [(M, 1)],
    "var.correction": [(X, [1]), (X, [0, 1], {"correction": 0, "keepdim": True}), (X,)],
    "var_mean.correction": [(X, [1], {"correction": 0}), (X, [2], {"keepdim": True})],
    "linalg_vector_norm": [(X,), (X, 2, [1], True), (X, 1, [-1]), (X, 3, [0]), (X, float("inf"), [2])],
    "cumsum": [(X, 1), (M, -1), (W, 0)],
    **{name: [(X, [4, 6]), (X, [-1]), (X, [2, -1, 2])] for name in ("view", "_unsafe_view", "reshape")},
    "flatten.using_ints": [(X,), (X, 1), (X, 0, 1)],
    "unflatten.int": [(X, 2, [2, 2]), (X, -1, [2, -1])],
    "expand": [(real(1, 3, 1), [2, -1, 4]), (real(3, 1), [2, 3, 4])],
    "permute": [(X, [2, 0, 1]), (X, [0, -1, 1])],
    "transpose.int": [(X, 1, 2), (X, -1, 0)],
    "t": [(Y,), (real(3),)],
    "unsqueeze": [(X, 1), (X, -1)],
    "squeeze.dim": [(real(2, 1, 3), 1), (X, 1), (real(2, 1), -1)],
    "squeeze.dims": [(real(2, 1, 1, 3), [1, -2]), (real(2, 1, 3), [0, 1])],
    "cat": [([X, X, X], 1), ([X, W], -1), ([X, torch.zeros(0)], 1), ([X],)],
    "stack": [([X, X], 1), ([X, X], -1)],
    "split.Tensor": [(X, 3, 2), (X, 1)],
    "split_with_sizes": [(X, [1, 3], 2), (X, [1, 2], -2)],
    "chunk": [(X, 3, 2), (X, 2)],
    "unbind.int": [(X,), (X, -1)],
    "select.int": [(X, 1, 2), (X, -1, -1)],
    "slice.Tensor": [
        (X, 1, 1, 3),
        (X, -1, 0, INT64_MAX),
        (X, 2, -3, -1),
        (X, 2, 1, 99, 2),
        (X, 2, None, 2),
        (X,),
        (X, 2, -2, INT64_MAX),
    ],
    "index.Tensor": [
        (X, [whole(5, high=2)]),
        (X, [None, torch.tensor([[0, -1], [2, 1]])]),
        (X, [None, torch.tensor([0, 2]), torch.tensor([[3], [-1]])]),
        (X, [torch.tensor([0, 1]), None, torch.tensor([3, 1])]),
        (X, [M]),
        (X, [None, M[0]]),
        (X, [M[:, :, 0], torch.tensor(2)]),
    ],
    "index_select": [(X, 1, torch.tensor([2, 0, 0]))],
    "gather": [(X, 1, whole(2, 2, 4, high=3)), (X, -1, whole(1, 3, 6, high=4)), (X, 0, whole(1, 2, 3, high=2))],
    "pad": [
        (X, [1, 2]),
        (X, [0, -1, 1, 0], "constant", 2.5),
        (W, [1, -1], "constant", 2.0),
        (M, [1, 0], "constant", 1.0),
        (IMAGE, [1, 2, 3, 0], "reflect"),
        (IMAGE, [1, 2, 3, 0], "replicate"),
        (IMAGE, [1, 2, 3, 0], "circular"),
        (X, [0, 0]),
    ],
    "constant_pad_nd": [(X, [1, 0, 2, 0]), (X, [-1, 1], 3)],
    "roll": [(X, [1, -2], [1, 2]), (X, [0], [1]), (X, [5]), (X, [7], [2])],
    "flip": [(X, [1, -1])],
    "repeat": [(X, [2, 1, 3]), (Y, [2, 1, 1, 2])],
    "repeat_interleave.self_int": [(X, 2, 1), (Y, 3)],
    "tril": [(X,), (Y, 1), (M, -1)],
    "triu": [(X, 1), (W,)],
    "im2col": [(IMAGE, [3, 2], [1, 1], [1, 0], [2, 1]), (IMAGE, [2, 2], [2, 2], [0, 0], [1, 1])],
    "arange": [(5,), (2.5,), (4, {"dtype": torch.float32})],
    "arange.start": [(2, 7), (0.5, 3)],
    "arange.start_step": [(2, 9, 3), (0.0, 1.0, 0.25)],
    "full": [([2, 3], 1), ([2, 3], 1.5), ([], True), ([2], 0, {"dtype": torch.float32})],
    "full_like": [(X, 2), (W, 3, {"dtype": torch.float32})],
    "zeros": [([2, 3],), ([2], {"dtype": torch.int64})],
    "ones": [([2, 3],), ([2], {"dtype": torch.bool})],
    "zeros_like": [(X,), (X, {"dtype": torch.bool})],
    "ones_like": [(W,)],
    "new_zeros": [(W, [2, 3])],
    "new_ones": [(X, [2, 3]), (X, [2], {"dtype": torch.int64})],
    "new_full": [(W, [2], 4)],
    "empty.memory_format": [([2, 3],)],
    "empty_like": [(W,)],
    "new_empty": [(W, [2, 3]), (X, [2], {"dtype": torch.bool})],
    "scalar_tensor": [(2.5,), (2, {"dtype": torch.int64})],
    "_to_copy": [(X, {"dtype": torch.int64}), (W, {"dtype": torch.float32}), (W, {"dtype": torch.bool}), (X,)],
    **{name: [(X,)] for name in ("lift_fresh_copy", "clone", "contiguous", "detach", "detach_", "alias")},
}
CHANCE = {"bernoulli.p", "rand"}
READ_NOT = {"empty.memory_format", "empty_like", "new_empty"}


def to_tf(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tf.constant(value.numpy())
    if isinstance(value, torch.dtype):
        return getattr(tf, str(value).removeprefix("torch."))
    return [to_tf(each) for each in value] if isinstance(value, list) else value


def test_every_operation_is_there_and_tested() -> None:
    assert set(OPERATIONS) >= set(vedcore.export.OPERATIONS) - set(SIZES)
    assert set(OPERATIONS) == set(CASES) | CHANCE


@pytest.mark.parametrize("name", CASES)
def test_an_operation_gives_what_torch_gives(name: str) -> None:
    base, _, overload = name.partition(".")
    theirs = getattr(getattr(torch.ops.aten, base), overload or "default")
    for case in CASES[name]:
        args, kwargs = (case[:-1], case[-1]) if isinstance(case[-1], dict) else (case, {})
        given = [each.clone() if isinstance(each, torch.Tensor) else each for each in args]
        due = args[0].shape[args[1]] if name == "sym_size.int" else theirs(*given, **kwargs)
        found = OPERATIONS[name](*map(to_tf, args), **{key: to_tf(each) for key, each in kwargs.items()})
        several = isinstance(due, (list, tuple))
        for one, other in zip(found if several else [found], due if several else [due], strict=True):
            if not isinstance(other, torch.Tensor):
                assert one == other
                continue
            assert str(other.dtype) == f"torch.{one.dtype.name}", case[1:]
            assert one.shape == other.shape, case[1:]
            if name not in READ_NOT:
                np.testing.assert_allclose(one.numpy(), other.numpy(), atol=2e-5, rtol=2e-5, err_msg=str(case[1:]))


def test_chance_keeps_its_law() -> None:
    ones = tf.ones([200, 300])
    kept, mask = OPERATIONS["native_dropout"](ones, 0.2, True)
    np.testing.assert_array_equal(kept.numpy() != 0, mask.numpy())
    np.testing.assert_allclose(kept.numpy()[mask.numpy()], 1.25, rtol=1e-6)
    assert abs(mask.numpy().mean() - 0.8) < 0.01
    assert abs(OPERATIONS["bernoulli.p"](ones, 0.3).numpy().mean() - 0.3) < 0.01
    drawn = OPERATIONS["rand"]([200, 300]).numpy()
    assert 0 <= drawn.min() < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01
    assert not OPERATIONS["dropout"](ones, 1.0, True).numpy().any()


def test_no_gradient_goes_through_padding_and_detached_tensors() -> None:
    table = tf.Variable(tf.ones([3, 2]))
    with tf.GradientTape() as tape:
        found = OPERATIONS["embedding"](table, tf.constant([0, 1, 1]), 1)
        total = tf.reduce_sum(found) + tf.reduce_sum(OPERATIONS["detach"](table))
    gradient = tf.convert_to_tensor(tape.gradient(total, table))
    np.testing.assert_array_equal(gradient.numpy(), [[1, 1], [0, 0], [0, 0]])
