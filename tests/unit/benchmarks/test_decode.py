from collections.abc import Sequence

from kokanee.benchmarks.decode import measure, summary


class Fake:
    """Writes down what it is told."""

    def __init__(self, name: str, told: list[tuple[str, object]]) -> None:
        self.name, self._told = name, told

    def prefill(self, ids: Sequence[int]) -> None:
        self._told.append((self.name, list(ids)))

    def step(self, token: int) -> int:
        self._told.append((self.name, token))
        return token


def test_contenders_take_turns_and_the_first_round_is_not_counted() -> None:
    told: list[tuple[str, object]] = []
    contenders = [Fake("a", told), Fake("b", told)]
    rates = measure(contenders, [1, 2, 3, 4], n_prompt=2, rounds=2)
    assert [who for who, what in told if what == [1, 2]] == ["a", "b", "b", "a", "a", "b"]
    assert told[:4] == [("a", [1, 2]), ("a", 3), ("a", 4), ("b", [1, 2])]
    assert [len(values) for by_phase in rates.values() for values in by_phase.values()] == [2] * 4


def test_the_ratio_is_taken_within_a_round() -> None:
    """A slow minute hits both: the medians' ratio would say 0.55 here."""
    rates = {"ours": {"decode": [100.0, 50.0, 11.0]}, "theirs": {"decode": [200.0, 100.0, 10.0]}}
    table = summary(rates, "ours")
    assert table["theirs"]["decode"]["kokanee_ratio"] == 0.5
    assert table["theirs"]["decode"]["median"] == 100.0
    assert table["ours"]["decode"]["kokanee_ratio"] == 1.0
