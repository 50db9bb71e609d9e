"""The panel: its people are disjoint and as asked, and its judge counts right, on made-up data."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import panel_choose as choosing  # type: ignore[import-not-found]
import panel_judge as judging  # type: ignore[import-not-found]
import panel_networks  # type: ignore[import-not-found]
import panel_others as others  # type: ignore[import-not-found]
import panel_people as folk  # type: ignore[import-not-found]
import panel_photos as photos  # type: ignore[import-not-found]
import panel_readouts as readouts  # type: ignore[import-not-found]
import panel_signals as signals  # type: ignore[import-not-found]
import panel_tables as lines_of  # type: ignore[import-not-found]
import panel_whole as wholes  # type: ignore[import-not-found]


def cache(
    folder: Path,
    classes: int = 10,
    each: int = 200,
    people: int = 0,
    sure: float = 8.0,
    name: str = "toy",
) -> Any:
    """A network's cache: right on all samples, of two devices, perhaps of several people."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.repeat(np.arange(classes), each), 2)
    n = len(labels)
    person = np.tile(np.arange(n // 2) % people if people else np.full(n // 2, -1), 2)
    np.savez(
        folder / f"{name}.npz",
        logits=(sure * np.eye(classes)[labels] + rng.random((n, classes))).astype("f4"),
        features=rng.random((n, 4)).astype("f2"),
        labels=labels,
        person=person,
        pool=np.repeat([0, 1], n // 2),
        pools=np.array(["as they are", "dull"]),
        source=np.tile(np.arange(n // 2), 2),
        half=np.full(n, -1),
        weight=np.zeros((classes, 4), "f4"),
        bias=np.zeros(classes, "f4"),
        prior=np.array([]),
    )
    return folk.Data(folder / f"{name}.npz")


@pytest.fixture
def data(tmp_path: Path) -> Any:
    return cache(tmp_path)


def by_name(data: Any, name: str, count: int = 3) -> list[Any]:
    return [*folk.people(data, count, names=[name])]


# --- People


@pytest.mark.parametrize("people", [0, 5])
def test_nobody_is_tested_on_what_they_hold(tmp_path: Path, people: int) -> None:
    data = cache(tmp_path, people=people)
    cases = [*folk.people(data, 2)]
    assert {k.name for k in folk.kinds_of(data)} == {c.kind for c in cases}
    for case in cases:
        assert not {*data.source[case.own]} & {*data.source[case.tests]}
        assert len({*case.own}) == len(case.own)
        assert len({*case.tests}) == len(case.tests)
        assert len({*data.pool[case.own], *data.pool[case.tests]}) == 1
        assert len(case.own) >= folk.ENOUGH * case.n
        assert case.weights.sum() == pytest.approx(1)
        if people and case.kind != "everybody":  # 40 of each class
            assert len({*data.person[case.own], *data.person[case.tests]}) == 1


def test_fixed_halves_are_kept(data: Any) -> None:
    data.__dict__["half"] = np.arange(len(data.labels)) % 2
    for case in folk.people(data, 1):
        assert (case.own % 2 == 0).all()
        assert (case.tests % 2 == 1).all()


def test_people_are_the_same_every_time(data: Any) -> None:
    for one, other in zip(folk.people(data, 2), folk.people(data, 2), strict=True):
        assert np.array_equal(one.own, other.own)
        assert np.array_equal(one.tests, other.tests)


@pytest.mark.parametrize("kind", ["3 equal", "5 as 16:8:4:2:1", "everybody", "one at 2 %"])
def test_what_somebody_holds_grows(data: Any, kind: str) -> None:
    cases = by_name(data, kind, 1)
    assert len(cases) > 2
    for small, large in pairwise(cases):
        assert {*small.own} < {*large.own}
        assert np.array_equal(small.tests, large.tests)


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("3 equal", [43, 43, 42]),
        ("2 as 9:1", [115, 13]),
        ("3 as 9:3:1", [89, 29, 10]),
        ("5 as 16:8:4:2:1", [66, 33, 17, 8, 4]),
        ("one class", [128]),
        ("one at 2 %", [32, 32, 31, 31, 2]),
    ],
)
def test_classes_come_as_often_as_asked(tmp_path: Path, kind: str, counts: list[int]) -> None:
    data = cache(tmp_path, each=400)
    (case,) = [c for c in by_name(data, kind, 1) if c.n == 128]
    held = np.bincount(data.labels[case.own], minlength=10)
    assert sorted(held[held > 0].tolist(), reverse=True) == pytest.approx(counts, abs=1)
    # The tests weigh as much: of rare classes there are more, which weigh less.
    weight = np.bincount(data.labels[case.tests], case.weights, minlength=10)
    assert weight == pytest.approx(held / 128, abs=0.02)
    assert np.bincount(data.labels[case.tests])[np.flatnonzero(held)].min() >= folk.LEAST_TESTS


def test_a_new_class_is_never_held_and_weighs_nothing(data: Any) -> None:
    cases = by_name(data, "a new class")
    assert cases
    for case in cases:
        assert case.new not in data.labels[case.own]
        of = data.labels[case.tests] == case.new
        assert of.sum() >= folk.LEAST_TESTS
        assert (case.weights[of] == 0).all()
        assert (case.weights[~of] > 0).all()
        assert case.new not in case.classes


@pytest.mark.parametrize("n", [0, 1, 7, 128])
def test_apportioned_is_all_and_fair(n: int) -> None:
    shares = {3: 0.5, 1: 0.3, 7: 0.2}
    counts = folk.apportioned(shares, n)
    assert sum(counts.values()) == n
    for k, count in counts.items():
        assert abs(count - n * shares[k]) <= 1


def test_too_little_data_is_nobody(tmp_path: Path) -> None:
    cases = [*folk.people(cache(tmp_path, each=20), 1)]
    assert max(c.n for c in cases if c.kind == "3 equal") == 32
    assert not [c for c in cases if c.kind == "one class"]


def test_a_cache_is_there_when_all_pools_are(tmp_path: Path) -> None:
    def pools() -> Any:
        truth = torch.arange(6) % 3
        yield "as they are", photos.Samples(torch.randn(6, 4), truth)
        seen.append(panel_networks.cached(tmp_path / "toy.npz"))
        yield "dull", photos.Samples(torch.randn(6, 4), truth)
        seen.append(folk.Data(tmp_path / "toy.npz").pools == ["as they are", "dull"])
        seen.append(panel_networks.cached(tmp_path / "toy.npz"))

    seen: list[bool] = []
    network = panel_networks.Network("toy", lambda: torch.nn.Linear(4, 3).eval(), pools)
    path = panel_networks.write_cache(network, tmp_path)
    assert seen == [False, True, False]
    assert panel_networks.cached(path)
    data = folk.Data(path)
    assert data.features.astype("f4") @ data.weight.T + data.bias == pytest.approx(
        data.logits, abs=1e-2
    )


# --- The judge


def toy_case(data: Any, kind: str = "5 equal", n: int = 128) -> Any:
    return next(c for c in by_name(data, kind, 1) if c.n == n)


def test_what_is_left_alone_scores_as_before(data: Any, tmp_path: Path) -> None:
    (row, *_) = judging.judge("dense", readouts.dense, tmp_path, count=1)
    assert row.dense == row.after == row.told_dense == pytest.approx(1)
    assert row.loss_dense == row.loss_after
    assert row.lost == 0


def test_a_class_that_falls_is_lost(data: Any) -> None:
    case = toy_case(data)
    shift = np.zeros(10)
    gone = int(case.classes[0])
    shift[gone] = -100.0
    row = judging.score(case, "toy", data.logits[case.tests] + shift)
    assert (row.recognised, row.lost) == (5, 1)
    assert row.which.startswith(f"{gone} (")
    assert row.gain == pytest.approx(-0.2)
    assert row.loss_after > row.loss_dense


@pytest.mark.parametrize(("wrong", "lost"), [(0.2, 0), (0.25, 1)])
def test_a_fifth_may_go(data: Any, wrong: float, lost: int) -> None:
    case, after = toy_case(data), data.logits.copy()
    of = case.tests[data.labels[case.tests] == case.classes[0]]
    assert len(of) % 20 == 0
    after[of[: round(wrong * len(of))]] = 0
    after[of[: round(wrong * len(of))], case.classes[1]] = 9
    assert judging.score(case, "toy", after[case.tests]).lost == lost


@pytest.mark.parametrize("held", [1, 2])
def test_only_what_was_held_twice_can_be_lost(data: Any, held: int) -> None:
    case = toy_case(data)
    gone = int(case.classes[0])
    of = data.labels[case.own] == gone
    own = np.concatenate([case.own[~of], case.own[of][:held]])
    case = folk.Case(data, "toy", "0", 128, own, case.tests, case.weights)
    shift = np.zeros(10)
    shift[gone] = -100.0
    row = judging.score(case, "toy", data.logits[case.tests] + shift)
    assert (row.recognised, row.lost) == ((5, 1) if held == 2 else (4, 0))


def test_told_the_classes_only_these_compete(data: Any) -> None:
    case = toy_case(data)
    other = next(k for k in range(10) if k not in case.classes)
    shift = np.zeros(10)
    shift[other] = 100.0
    row = judging.score(case, "toy", data.logits[case.tests] + shift)
    assert (row.after, row.told_after) == (0.0, pytest.approx(1))


def test_recall_of_a_new_class_stands_apart(data: Any) -> None:
    case = toy_case(data, "a new class")
    shift = np.zeros(10)
    shift[case.new] = -100.0
    row = judging.score(case, "toy", data.logits[case.tests] + shift)
    assert (row.new_dense, row.new_after) == (1.0, 0.0)
    assert (row.gain, row.lost) == (0.0, 0)
    assert judging.summary([row]).new == 0.0


def test_a_read_out_may_answer_for_all_tests(data: Any, tmp_path: Path) -> None:
    def read(logits: Any, features: Any, known: Any) -> Any:
        return lambda tests, at: np.roll(tests, 1, axis=1)

    row = judging.judge("rolled", read, tmp_path, count=1, sizes=(16,), kinds=["3 equal"])[0]
    assert row.after == 0.0


GIVEN = {
    **dict.fromkeys(("person", "which"), ""),
    **dict.fromkeys(("dense", "told_dense", "told_after", "loss_dense", "loss_after"), 0.5),
    **dict.fromkeys(("new_dense", "new_after"), math.nan),
    "n": 16,
    "method": "toy",
    "classes": 3,
    "tests": 100,
    "recognised": 2,
    "lost": 0,
    "seconds": 0.1,
}


def score(network: str, gain: float, kind: str = "3 equal", **change: Any) -> Any:
    return judging.Score(
        **{**GIVEN, "network": network, "after": 0.5 + gain, "kind": kind, **change}
    )


def test_summaries_count_harm_and_no_network_outweighs_another() -> None:
    rows = [score("a", 0.1), score("a", 0.1), score("a", -0.02, lost=1), score("b", -0.01)]
    one = judging.summary(rows)
    assert (one.cases, one.lost, one.recognised) == (4, 1, 8)
    assert one.gain == pytest.approx(0.17 / 4)
    assert (one.worst, one.harmed) == (pytest.approx(-0.02), 0.25)  # a whole point is no harm
    panel = judging.overall(rows)
    assert panel.gain == pytest.approx((0.06 - 0.01) / 2)
    assert panel.harmed == pytest.approx(1 / 6)
    assert "all but a" in judging.tables(rows)


def test_scores_come_back_from_their_file(tmp_path: Path) -> None:
    rows = [score("a", 0.25), score("b", 0.125, which="3 (2): 0.90 -> 0.10", lost=1)]
    path = judging.write(rows, tmp_path)
    assert [(r.network, r.after, r.which) for r in judging.read(path)] == [
        (r.network, r.after, r.which) for r in rows
    ]
    assert path.with_suffix(".json").is_file()


# --- Read-outs


@pytest.mark.parametrize("name", readouts.METHODS)
def test_read_outs_find_two_classes_of_ten(data: Any, name: str) -> None:
    data.logits[:] += np.random.default_rng(1).normal(0, 3, data.logits.shape)
    (case, *_) = [c for c in by_name(data, "3 equal", 1) if c.n == 128]
    known = judging.known_of(data)
    row = judging.score(case, name, *judging.adapted(case, readouts.METHODS[name], known))
    # LAME's features are noise here: neighbours say nothing.
    assert row.gain >= (-0.2 if name == "lame" else 0.0)


def test_em_is_a_fixed_point_of_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    logits = 2 * np.eye(3)[rng.choice(3, 400, p=[0.7, 0.2, 0.1])] + rng.normal(size=(400, 3))
    shift = readouts.em(logits, logits, None, steps=2000)
    R = readouts.softmax(logits + shift)
    assert R.mean(0) == pytest.approx(np.exp(shift) / np.exp(shift).sum(), abs=1e-6)


# --- Constants, with each network left out


def choice(setting: str, network: str, **found: float) -> Any:
    usual = {"gain": 0.02, "worst": -0.01, "harmed": 0.0, "recognised": 100, "lost": 0, "new": 0.9}
    row = {"cases": 10, "dense": 0.8, "loss": 0.0} | usual | found
    return choosing.Choice(setting, network, **row)


def test_what_a_setting_is_worth() -> None:
    one = choice("x", "a", gain=0.03, harmed=0.02, lost=1, new=0.75)
    assert choosing.worth([one]) == pytest.approx(3 - 1 - 0.5 - 2)
    assert choosing.worth([choice("x", "a", new=math.nan)]) == pytest.approx(2)


def test_a_network_has_no_say_in_what_is_reported_on_it() -> None:
    rows = [
        choice(setting, network, gain=gain)
        for network, gains in {"a": (0.9, 0.0), "b": (0.0, 0.1), "c": (0.0, 0.2)}.items()
        for setting, gain in zip(("bold", "mild"), gains, strict=True)
    ]
    assert choosing.best(rows) == "bold"
    assert choosing.best(rows, without="a") == "mild"
    lines = choosing.chosen(rows)
    assert [line[:2] for line in lines] == [
        ["a", "mild"], ["b", "bold"], ["c", "bold"], ["their mean", ""],
        ["none", "bold"],
    ]  # fmt: skip
    assert [line[4] for line in lines] == ["+0.0", "+0.0", "+0.0", "+0.0", "+30.0"]


def test_settings_are_all_combinations() -> None:
    found = choosing.settings({"slope": (1.0, 2.0), "clear": (0.5,)})
    assert [*found] == ["slope=1 clear=0.5", "slope=2 clear=0.5"]
    assert found["slope=2 clear=0.5"].slope == 2.0
    default = readouts.ReadoutOptions()
    assert all(getattr(default, name) in values for name, values in choosing.GRID.items())


def test_the_check_lets_nothing_through_that_few_samples_show() -> None:
    logits = np.random.default_rng(0).normal(0, 1, (60, 10))
    logits[:, 1] += 6  # all samples are clearly of one class: nothing changes
    known = readouts.Known(np.zeros((10, 4)), np.zeros(10))
    assert not readouts.METHODS["checked"](logits, logits, known).any()
    assert readouts.METHODS["today"](logits, logits, known).any()


@pytest.mark.parametrize("kind", others.KINDS)
def test_networks_that_are_no_classifiers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "STEPS", 30)
    row = others.measured(kind, 0, 10, 12)
    assert (row.readout, row.from_off) == (0, 0.0)
    assert row.outputs == (12 if kind == "autoencoder" else 10)
    assert row.error >= 0


def test_lines_of_the_page() -> None:
    score = judging.Score(
        "toy", "3 equal", "p", 16, "default", 3, 50, 0.8, 0.75, 0.9, 0.9, 0.5, 0.4, 3, 1, "",
        0.5, 0.25, 1.0,
    )  # fmt: skip
    rows = [
        wholes.WholeRow(**vars(score), wanted="0.5", sparsity=sparsity, passes=4.0)
        for sparsity in (0.5, 0.0)
    ]
    head, lines = lines_of.whole_lines(rows)
    assert len(head) == len(lines[0]) == len(lines[-1])
    assert lines[0] == (
        "toy", "50%", "2", "80.0", "-5.0", "-5.0", "100.0%", "2/6", "0.50", "-0.100", "25%",
        "50%",
    )  # fmt: skip
    assert [line[0] for line in lines_of.size_lines(rows)[1]] == ["16"]
    assert lines_of.choose_lines([]) == (choosing.HEAD, [])


# --- Signals, and whole personalisations


@pytest.mark.parametrize("name", signals.KINDS)
def test_signals_are_the_same_every_time_and_differ_between_people(name: str) -> None:
    simulate, build = signals.KINDS[name]
    one, again = simulate(2, 5, 6), simulate(2, 5, 6)
    assert torch.equal(one.x, again.x)
    assert not torch.equal(one.x[one.person == 0][:1], one.x[one.person == 1][:1])
    assert build()(one.x).shape == (len(one.labels), 6 if name == "wearable" else 7)
    assert not torch.equal(simulate(2, 6, 6).x, one.x)


def test_a_main_rhythm_is_most_of_a_heart() -> None:
    hearts = signals.beats(6, 3, 400)
    for person in range(6):
        share = hearts.labels[hearts.person == person].bincount() / 400
        assert 0.6 < float(share.max()) < 0.95
        assert 3 <= int((share > 0).sum()) <= 5


@pytest.mark.parametrize("device", signals.DEVICES)
def test_another_device_changes_signals_a_little(device: str) -> None:
    x = signals.wearable(1, 0, 4).x
    other = signals.other_device(x, device)
    assert other.shape == x.shape
    assert 0.01 < float((other - x).norm() / x.norm()) < 1.5


def test_fewer_tests_weigh_as_much(data: Any) -> None:
    case = toy_case(data, "5 as 16:8:4:2:1", 32)
    less = wholes.fewer_tests(case, most=40)
    assert len(less.tests) < len(case.tests)
    for k in case.classes:
        was, now = (c.weights[data.labels[c.tests] == k].sum() for c in (case, less))
        assert now == pytest.approx(was)


def test_whole_rows_are_measured_once(data: Any, tmp_path: Path) -> None:
    results = wholes.Whole(tmp_path / "rows.csv")
    case = toy_case(data)
    assert not results.has(case, "default", "0.5")
    results.add(judging.score(case, "default", data.logits[case.tests]), "0.5", 0.5, 4.0)
    again = wholes.Whole(tmp_path / "rows.csv")
    assert again.has(case, "default", "0.5")
    assert not again.has(case, "default", "0.7")
    assert again.rows[0].lost == 0
