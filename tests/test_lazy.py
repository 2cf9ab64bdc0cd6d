"""Dataclasses that are made when they are first used are dataclasses like any other."""

from __future__ import annotations

import inspect
import threading
from dataclasses import FrozenInstanceError, field, fields, is_dataclass, replace
from dataclasses import dataclass as standard_dataclass

import pytest

from convc.lazy import dataclass


def _pair() -> type:
    @dataclass(frozen=True)
    class Pair:
        """Two numbers."""

        first: int
        second: int = 2

    return Pair


def _made(kind: type) -> bool:
    return "__eq__" in vars(kind)


def test_is_made_at_the_first_instance() -> None:
    pair = _pair()
    assert not _made(pair)
    one = pair(1)
    assert _made(pair)
    assert (one.first, one.second, repr(one).rpartition(".")[2]) == (1, 2, "Pair(first=1, second=2)")
    assert one == pair(first=1, second=2) != pair(2)
    assert hash(one) == hash(pair(1))
    assert replace(one, second=3).second == 3
    with pytest.raises(FrozenInstanceError):
        one.first = 3
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        pair()


def test_is_made_when_someone_looks_at_its_fields() -> None:
    pair = _pair()
    assert [each.name for each in fields(pair)] == ["first", "second"]
    assert _made(pair)
    assert is_dataclass(_pair())
    assert list(inspect.signature(pair).parameters) == ["first", "second"]


def test_a_subclass_makes_its_base() -> None:
    pair = _pair()

    @dataclass(frozen=True)
    class Triple(pair):  # type: ignore[misc,valid-type]
        third: int = 3

    assert not _made(pair)
    assert [each.name for each in fields(Triple)] == ["first", "second", "third"]
    assert _made(pair)
    assert Triple(1) == Triple(1, 2, 3)


def test_a_subclass_with_an_initialiser_of_its_own_runs_it_once() -> None:
    calls: list[int] = []

    class Named(_pair()):  # type: ignore[misc]
        def __init__(self, number: int) -> None:
            calls.append(number)
            super().__init__(number, number)

    assert Named(7).second == 7
    assert calls == [7]


def test_defaults_are_made_anew_for_each_instance() -> None:
    @dataclass
    class Bag:
        things: list[int] = field(default_factory=list)

    Bag().things.append(1)
    assert Bag().things == []


def test_an_own_initialiser_or_slots_are_not_put_off() -> None:
    @dataclass
    class Own:
        size: int

        def __init__(self) -> None:
            self.size = 5

    assert Own().size == 5

    @dataclass(frozen=True, slots=True)
    class Slim:
        size: int

    assert Slim.__slots__ == ("size",)
    assert Slim(3).size == 3


def test_fields_that_are_not_parameters() -> None:
    @dataclass
    class Counter:
        start: int
        steps: list[int] = field(default_factory=list[int], init=False)
        name: str = field(default="none", init=False)
        end: int = 0
        unit: str = field(default="px", kw_only=True)

        def __post_init__(self) -> None:
            self.end = self.end or self.start + 1

    one, other = Counter(1), Counter(1, 5)
    assert (one.start, one.steps, one.name, one.end) == (1, [], "none", 2)
    assert (other.end, Counter(1, 5, unit="mm").unit) == (5, "mm")
    assert one.steps is not other.steps
    with pytest.raises(TypeError, match="positional arguments"):
        Counter(1, 5, "mm")  # type: ignore[misc]
    with pytest.raises(TypeError, match="unexpected keyword argument 'name'"):
        Counter(1, name="one")  # type: ignore[call-arg]


def test_threads_that_come_at_once_find_one_class() -> None:
    for _ in range(20):
        pair, together, found = _pair(), threading.Barrier(4), list[object]()

        def use(pair: type = pair, together: threading.Barrier = together, found: list[object] = found) -> None:
            together.wait()
            found.append(pair(1))

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [pair(1)] * 4


def test_frozen_instances_refuse_all_that_sets_or_deletes() -> None:
    one = _pair()(1)
    for change in (lambda: setattr(one, "other", 1), lambda: delattr(one, "first")):
        with pytest.raises(FrozenInstanceError, match=r"cannot (assign to|delete) field"):
            change()

    class Open(_pair()):  # type: ignore[misc]
        pass

    loose = Open(1)
    loose.other = 1  # no field, and of a class that is not frozen itself
    with pytest.raises(FrozenInstanceError):
        loose.first = 2
    del loose.other
    with pytest.raises(FrozenInstanceError):
        del loose.first


def test_frozen_and_others_do_not_mix() -> None:
    pair = _pair()

    @dataclass
    class Soft(pair):  # type: ignore[misc,valid-type]
        third: int = 3

    with pytest.raises(TypeError, match="cannot inherit non-frozen dataclass from a frozen one"):
        Soft(1)
    assert standard_dataclass(frozen=True)(type("Kind", (_pair(),), {}))(1).second == 2
    with pytest.raises(TypeError, match="cannot inherit non-frozen dataclass from a frozen one"):
        standard_dataclass(type("Kind", (pair,), {}))


def test_compares_and_hashes_what_the_fields_say() -> None:
    @dataclass(frozen=True)
    class Nothing:
        pass

    @dataclass(frozen=True)
    class One:
        name: str
        note: str = field(default="", compare=False, repr=False)

    @dataclass(frozen=True, eq=False)
    class Same:
        name: str

    @dataclass
    class Changing:
        name: str

    assert Nothing() == Nothing()
    assert hash(Nothing()) == hash(Nothing())
    assert One("a", "b") == One("a", "c") != One("b", "b")
    assert hash(One("a", "b")) == hash(One("a", "c"))
    assert repr(One("a", "b")).endswith("One(name='a')")
    assert One("a") != Same("a") != Same("a")
    assert Changing("a") == Changing("a")
    with pytest.raises(TypeError, match="unhashable"):
        hash(Changing("a"))


def test_own_methods_stay() -> None:
    @dataclass(frozen=True)
    class Own:
        name: str

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

        def __repr__(self) -> str:
            return "own"

    assert Own("a") == Own("b")
    assert (hash(Own("a")), repr(Own("a"))) == (7, "own")


def test_other_options_are_those_of_dataclass() -> None:
    @dataclass(frozen=True, order=True)
    class Place:
        line: int
        column: int = 0

    assert Place(1, 5) < Place(2)
    with pytest.raises(FrozenInstanceError):
        Place(1).line = 2  # type: ignore[misc]


def test_shows_what_holds_itself() -> None:
    @dataclass
    class Link:
        to: list[object] = field(default_factory=list)

    link = Link()
    link.to.append(link)
    assert repr(link).endswith("Link(to=[...])")
