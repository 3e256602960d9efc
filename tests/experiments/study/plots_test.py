"""What the pictures of a report show, read back from their axes."""

import io

import numpy as np
import pytest

from experiments.run.plots.style import BLACK, BLUE, ORANGE
from experiments.study.plots import setting_accuracy_figure, setting_gain_figure
from experiments.study.statistics import collect
from tests.helpers.report_runs import pair, published, summary


def points(axes, color):
    """Where the marks of one colour lie; a long stroke is one, the cap of an error bar is not."""
    return [
        (pytest.approx(line.get_xdata()[0]), line.get_ydata()[0])
        for line in axes.lines
        if line.get_color() == color
        and line.get_marker() in "oD|"
        and (line.get_marker() != "|" or line.get_markersize() > 10)
    ]


def spans(axes):
    """First and last x of every error bar."""
    return [np.ptp(segment[:, 0]) for bars in axes.collections for segment in bars.get_segments()]


def texts(figure):
    axes = figure.axes
    return [
        figure.get_suptitle(),
        *(ax.get_title(loc="left") for ax in axes),
        axes[-1].get_xlabel(),
        *(label.get_text() for ax in axes for label in ax.get_yticklabels()),
    ]


def save(figure):
    """Draw it as a file; a picture that cannot be laid out warns, and warnings are errors."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getbuffer().nbytes


def test_a_setting_has_its_two_means_and_deviations():
    figure = setting_accuracy_figure(collect([*pair("", 0, 90, 92), *pair("", 1, 92, 93)]))
    [axes] = figure.axes
    [(base, above)], [(sup, below)] = points(axes, ORANGE), points(axes, BLUE)
    assert (base, sup) == (91, 92.5)
    assert above < 0 < below  # the axis points down: the base method comes first
    assert spans(axes) == pytest.approx([2 * 2**0.5, 2 * 0.5**0.5])
    assert "rigl 90%" in texts(figure)
    assert all(texts(figure))
    assert save(figure)


def test_sets_of_other_accuracies_have_panels_of_their_own():
    settings = collect([*pair("", 0, 90, 92), *published("method=set", 0, 93, 93.5)])
    figure = setting_accuracy_figure(settings)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "cifar10, vgg16, 250 epochs",
        "digits, digits_cnn, 40 epochs",
    ]
    assert [x for x, _ in points(figure.axes[0], BLACK)] == [92.96, 93.22]
    assert points(figure.axes[1], BLACK) == []
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["base method alone", "base + Sup-tickets", "published"]
    assert save(figure)


def test_without_published_numbers_the_legend_does_not_name_them():
    figure = setting_accuracy_figure(collect(pair("", 0, 90, 92)))
    assert len(figure.legends[0].get_texts()) == 2


def test_a_setting_with_one_side_shows_that_side():
    [axes] = setting_accuracy_figure(collect([summary("sup=false", {"final": [90]})])).axes
    assert len(points(axes, ORANGE)) == 1
    assert points(axes, BLUE) == []


def test_variants_are_named():
    runs = [summary(f"average={a}", {"superposed": [90]}) for a in ("cia", "caa")]
    assert "rigl 90%\naverage=caa" in texts(setting_accuracy_figure(collect(runs)))


def test_gains_with_their_interval():
    settings = collect(
        [*pair("", 0, 90, 91), *pair("", 1, 90, 91.5), *pair("width=0.5", 0, 90, 91)]
    )
    figure = setting_gain_figure(settings)
    [axes] = figure.axes  # the narrow network has one seed only
    assert points(axes, BLUE) == [(pytest.approx(1.25), 0)]
    assert spans(axes) == pytest.approx([2 * 12.7062 * 0.25], rel=1e-4)
    assert all(texts(figure))
    assert save(figure)


def test_equal_gains_are_a_mark_without_a_bar():
    [axes] = setting_gain_figure(collect([*pair("", 0, 90, 91), *pair("", 1, 91, 92)])).axes
    assert points(axes, BLUE) == [(pytest.approx(1), 0)]
    assert spans(axes) == []


def test_a_single_seed_is_a_mark_without_a_bar():
    [axes] = setting_accuracy_figure(collect(pair("", 0, 90, 91))).axes
    assert len(points(axes, ORANGE)) == len(points(axes, BLUE)) == 1
    assert spans(axes) == []


def test_a_picture_grows_with_its_settings():
    few = setting_accuracy_figure(collect(pair("", 0, 90, 91)))
    methods = ("set", "rigl", "granet", "static")
    many = [run for method in methods for run in pair(f"method={method}", 0, 90, 91)]
    assert setting_accuracy_figure(collect(many)).get_figheight() > few.get_figheight() + 1


def test_nothing_gives_no_picture():
    assert setting_accuracy_figure([]) is None
    assert setting_gain_figure(collect(pair("", 0, 90, 91))) is None
