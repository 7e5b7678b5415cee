import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokanee.engine.errors import ContextFull
from kokanee.engine.kv_cache import KVCache


def cache(n_ctx: int = 10) -> KVCache:
    return KVCache(n_layers=3, n_kv_heads=2, n_ctx=n_ctx, d_head=4)


def test_size_is_fixed_at_birth() -> None:
    kv = cache()
    assert kv.n_bytes == 3 * 2 * 2 * 10 * 4 * 4
    assert [k.shape for k, _ in kv.layers] == [(1, 2, 10, 4)] * 3
    kv.append(10)
    assert kv.n_bytes == 3 * 2 * 2 * 10 * 4 * 4


def test_what_does_not_fit_is_refused_and_nothing_changes() -> None:
    kv = cache()
    kv.append(7)
    with pytest.raises(ContextFull, match="4 more positions do not fit: 7 of 10"):
        kv.append(4)
    assert (kv.length, kv.room) == (7, 3)


def test_trimming_forward_is_a_mistake() -> None:
    kv = cache()
    kv.append(3)
    with pytest.raises(ValueError, match="expected 0 to 3"):
        kv.trim(4)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12))))
def test_length_and_room_always_make_n_ctx(moves: list[tuple[bool, int]]) -> None:
    kv = cache()
    for forward, n in moves:
        if forward and n <= kv.room:
            kv.append(n)
        elif not forward and n <= kv.length:
            kv.trim(n)
        assert 0 <= kv.length <= 10
        assert kv.length + kv.room == kv.n_ctx


def test_a_large_cache_costs_nothing_until_it_is_used() -> None:
    kv = KVCache(n_layers=4, n_kv_heads=8, n_ctx=10_000, d_head=128)
    assert kv.n_bytes == 4 * 2 * 8 * 10_000 * 128 * 4  # 328 MB of address space
    assert kv.layers[3][1].dtype == np.float32
