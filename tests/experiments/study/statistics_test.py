"""Runs sorted into settings, and statistics worked by hand."""

import math

import pytest

from experiments.errors import RunError
from experiments.study.statistics import Key, Setting, collect, mean_and_deviation, paired
from tests.helpers.report_runs import pair, published, summary

KEY = Key("digits", "digits_cnn", 1.0, 40, "rigl", 0.9)


def setting(base, sup):
    return Setting(KEY, dict(enumerate(base)), dict(enumerate(sup)), {}, {}, None)


def test_three_seeds_by_hand():
    # Gains 1, 0.5, 1.5: mean 1, deviation 0.5, t = 1 / (0.5 / sqrt 3) = 3.4641 with 2 degrees of
    # freedom, where p = 1 - t / sqrt(t^2 + 2) and the 97.5 % quantile is 0.95 sqrt(2 / 0.0975).
    test = paired(setting([90, 91, 92], [91, 91.5, 93.5]))
    t = math.sqrt(12)
    assert test.seeds == 3
    assert test.mean == pytest.approx(1)
    assert test.half_width == pytest.approx(0.95 * math.sqrt(2 / 0.0975) * 0.5 / math.sqrt(3))
    assert test.p_value == pytest.approx(1 - t / math.sqrt(t**2 + 2))


def test_only_seeds_on_both_sides_are_paired():
    half = Setting(KEY, {0: 90.0, 1: 91.0, 2: 50.0}, {0: 91.0, 1: 92.5, 3: 99.0}, {}, {}, None)
    assert paired(half).seeds == 2
    assert paired(half).mean == pytest.approx(1.25)


def test_one_seed_has_no_interval():
    assert paired(setting([90], [91])) is None


@pytest.mark.parametrize(
    ("base", "sup", "mean"),
    [
        ([90, 91], [91, 92], 1),
        ([90, 91], [90, 91], 0),
        ([90, 91, 92], [89, 90, 91], -1),
        # One image of 355 more, by unequal floats: 0.2817 and 0.2816...
        ([100 * 321 / 355, 100 * 322 / 355], [100 * 322 / 355, 100 * 323 / 355], 100 / 355),
    ],
)
def test_equal_gains_give_neither_interval_nor_p(base, sup, mean):
    test = paired(setting(base, sup))
    assert (test.seeds, test.half_width, test.p_value) == (len(base), None, None)
    assert test.mean == pytest.approx(mean)


def test_one_image_of_a_million_in_one_of_a_hundred_seeds_is_a_spread():
    gains = [1.0] * 99 + [1.0001]
    test = paired(setting([90.0] * 100, [90 + gain for gain in gains]))
    assert test.half_width > 0
    assert 0 <= test.p_value < 1e-9


def test_mean_and_deviation_by_hand():
    assert mean_and_deviation([1, 2, 6]) == (3, math.sqrt((4 + 1 + 9) / 2))
    assert mean_and_deviation([5]) == (5, None)


def test_a_setting_holds_every_kind_of_network_by_seed():
    runs = [*pair("", 0, 90, 92), *pair("", 1, 91, 92.5), *pair("method=set", 0, 80, 81)]
    first, second = collect(runs)
    assert first.key == KEY
    assert second.key == KEY._replace(method="set")
    assert first.base == pytest.approx({0: 90, 1: 91})
    assert first.sup == pytest.approx({0: 92, 1: 92.5})  # the last superposition
    assert first.ticket == pytest.approx({0: 90, 1: 90.5})  # mean of its two tickets
    assert first.ensemble == pytest.approx({0: 93, 1: 93.5})


def test_a_run_without_tickets_is_never_counted_as_one_with_them():
    [only] = collect([summary("cycle_fraction=0", {"final": [88.0]})])
    assert (only.base, only.sup) == ({0: pytest.approx(88)}, {})


def test_networks_that_were_not_tested_are_left_out():
    run = summary("", {"ticket": [90, 91], "superposed": [92]})
    del run["networks"][0]["test"]
    [only] = collect([run])
    assert only.ticket == pytest.approx({0: 91})


def test_an_ablation_has_a_setting_for_every_value_and_one_base():
    runs = [summary("sup=false,seed=3", {"final": [90]})]
    for length in (12, 2, 4):
        runs.append(summary(f"cycle_epochs={length},seed=3", {"superposed": [80 + length]}))
    settings = collect(runs)
    assert [s.key.variant for s in settings] == [f"cycle_epochs={n}" for n in (2, 4, 12)]
    assert [s.sup[3] for s in settings] == pytest.approx([82, 84, 92])
    assert [s.base[3] for s in settings] == pytest.approx([90] * 3)


def test_what_concerns_the_base_method_divides_its_runs_too():
    runs = [*pair("batch_size=32", 0, 90, 91), *pair("batch_size=64", 0, 80, 82)]
    settings = collect(runs)
    assert [(s.key.variant, s.base[0], s.sup[0]) for s in settings] == [
        ("batch_size=32", pytest.approx(90), pytest.approx(91)),
        ("batch_size=64", pytest.approx(80), pytest.approx(82)),
    ]


def change(run, **fields):
    run["config"]["optimizer"].update(fields)
    return run


def test_runs_of_two_set_ups_are_refused():
    runs = [*pair("", 0, 90, 91), *pair("", 1, 90, 91)]
    change(runs[3], momentum=0.8)
    with pytest.raises(RunError, match=r"rigl, 0\.9 differ in optimizer, .*: report them apart"):
        collect(runs)


def test_seeds_and_runtime_may_differ():
    runs = [*pair("", 0, 90, 91), *pair("", 1, 90, 91)]
    runs[0]["config"]["runtime"]["devices"] = 2
    assert len(collect(runs)) == 1


def test_a_dense_network_has_no_sparsity():
    [dense] = collect(published("method=dense", 0, 93, 94))
    assert dense.key.sparsity == 0
    assert dense.published == (93.91, None)


def test_published_numbers_go_with_the_published_set_up_only():
    [known] = collect(published("sparsity=0.9", 0, 93, 94))
    assert known.published == (93.48, 93.81)
    for words in ("sparsity=0.85", "sparsity=0.9,epochs=200", "sparsity=0.9,average=caa"):
        assert all(s.published is None for s in collect(published(words, 0, 93, 94)))
    assert collect(pair("", 0, 90, 91))[0].published is None
