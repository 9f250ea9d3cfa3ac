"""Fresh weights drawn late: the laws that constructors ask for, from the seed alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vedcore.layers.lazy_init import LazyInit

SIZE = (400, 300)


def late(say: Callable[[nn.Parameter], object], seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    with LazyInit() as lazy, torch.no_grad():
        parameter = nn.Parameter(torch.full(SIZE, math.nan))
        say(parameter)
    lazy.initialize()
    return parameter.detach()


def now(say: Callable[[nn.Parameter], object]) -> Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        parameter = nn.Parameter(torch.full(SIZE, math.nan))
        say(parameter)
    return parameter.detach()


LAWS: dict[str, Callable[[nn.Parameter], object]] = {
    "normal": lambda p: nn.init.normal_(p, 0.5, 0.02),
    "normal method": lambda p: p.normal_(std=3.0),
    "uniform": lambda p: nn.init.uniform_(p, -2, 1),
    "uniform method": lambda p: p.uniform_(0, 4),
    "kaiming uniform": lambda p: nn.init.kaiming_uniform_(p, a=math.sqrt(5)),
    "kaiming fan out": lambda p: nn.init.kaiming_uniform_(p, mode="fan_out", nonlinearity="relu"),
    "kaiming normal": lambda p: nn.init.kaiming_normal_(p, mode="fan_out"),
    "xavier uniform": lambda p: nn.init.xavier_uniform_(p, gain=2.0),
    "truncated far": lambda p: nn.init.trunc_normal_(p, std=0.02),
    "truncated near": lambda p: nn.init.trunc_normal_(p, std=1.0, a=-1.0, b=0.5),
    "twice": lambda p: nn.init.normal_(nn.init.uniform_(p, 5, 6), std=0.1),
    "scaled": lambda p: p.normal_().mul_(0.1).add_(2).div_(-4),
    "shifted by itself": lambda p: p.uniform_().add_(p.mean()),
    "looked at": lambda p: p.normal_(std=2.0) if p.shape == SIZE and p.dtype == torch.float32 else None,
    "through data": lambda p: p.normal_(std=2.0).data.mul_(2),
    "orthogonal": lambda p: nn.init.orthogonal_(p),
    "clamped": lambda p: p.normal_().clamp_(-0.5, 0.5),
    "constant": lambda p: p.normal_().fill_(3.0),
    "zeros": lambda p: nn.init.zeros_(p.uniform_()),
    "copied": lambda p: p.normal_().copy_(torch.arange(300.0).expand(SIZE)),
}


@pytest.mark.parametrize("name", LAWS)
def test_the_law_is_the_one_asked_for(name: str) -> None:
    ours, theirs = late(LAWS[name]), now(LAWS[name])
    assert ours.isfinite().all()
    spread = float(theirs.std())
    assert float(ours.mean()) == pytest.approx(float(theirs.mean()), abs=0.02 * spread + 1e-7)
    assert float(ours.std()) == pytest.approx(spread, rel=0.02, abs=1e-7)
    for quantile in (0.001, 0.1, 0.5, 0.9, 0.999):
        a, b = (float(x.flatten().quantile(quantile)) for x in (ours, theirs))
        assert a == pytest.approx(b, abs=0.15 * spread + 1e-6)


def test_the_seed_alone_decides() -> None:
    threads = torch.get_num_threads()

    def network(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        with LazyInit() as lazy:
            net = nn.Sequential(nn.Linear(30, 40), nn.Conv2d(3, 8, 3), nn.Embedding(20, 10), nn.LayerNorm(4))
        lazy.initialize()
        return [p.detach() for p in net.parameters()]

    first = network(0)
    try:
        torch.set_num_threads(3)
        again = network(0)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], network(1)[0])
    assert not torch.equal(first[0][0, :10], first[4][0])  # nor do two parameters get the same numbers
    assert torch.equal(first[-2], torch.ones(4))


def test_on_the_meta_device_nothing_happens() -> None:
    before = torch.random.get_rng_state()
    with torch.device("meta"), LazyInit() as lazy:
        net = nn.Linear(10**6, 10**6)
    lazy.initialize()
    assert net.weight.is_meta
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_value_that_is_read_is_there() -> None:
    with LazyInit() as lazy, torch.no_grad():
        one, other = nn.Parameter(torch.empty(50)), nn.Parameter(torch.empty(50))
        nn.init.normal_(one)
        nn.init.normal_(other)
        together = torch.stack([one, other]).clone()  # in a list, as arguments may come
        third = nn.Parameter(torch.empty(50))
        third.copy_(nn.init.uniform_(other))
    lazy.initialize()
    assert torch.equal(together[0], one)
    assert torch.equal(third, other)
    assert bool(((third >= 0) & (third <= 1)).all())
