"""Which settings a method is judged with, and the table of the judgement, against numbers worked out by hand."""

import pytest

from mralign.comparison.choice import METHODS, Point, choose, grid, read_results, summarize
from mralign.config import parse


def result(method="kto", *, world=0, acc=0.5, mis=0.2, epochs=2, rate=1e-3):
    return {
        "world": world,
        "method": method,
        "learning_rate": rate,
        "epochs": epochs,
        "metrics": {"acc": acc, "mis": mis},
    }


def test_the_grid_is_every_combination_world_by_world():
    points = grid([3, 1], methods=["sft", "kto"], rates=[5e-4, 1e-3], epochs=[2, 4])
    assert len(points) == len(set(points)) == 16
    assert [point.world for point in points] == [3] * 8 + [1] * 8
    assert points[:3] == [Point(3, "sft", 5e-4, 2), Point(3, "sft", 5e-4, 4), Point(3, "sft", 1e-3, 2)]
    assert points[0].key == "3/sft/0.0005/2"
    assert len({point.key for point in points}) == 16


def test_every_method_is_a_configuration_of_its_own():
    questions = {"train": [{"name": "a", "path": "a"}]}
    configs = [parse({"questions": questions, **changes}) for changes in METHODS.values()]
    assert all(a != b for i, a in enumerate(configs) for b in configs[:i])


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (result(acc=0.6, mis=0.9, epochs=9, rate=1), result(acc=0.5)),
        (result(mis=0.1, epochs=9, rate=1), result(mis=0.2)),
        (result(epochs=2, rate=1), result(epochs=4)),
        (result(rate=5e-4), result(rate=1e-3)),
    ],
    ids=["acc", "mis", "epochs", "rate"],
)
def test_the_choice_goes_by_acc_then_mis_then_epochs_then_rate(better, worse):
    assert choose([better, worse]) == choose([worse, better]) == {(0, "kto"): better}


def test_every_world_and_method_chooses_for_itself_and_the_first_of_equals_stays():
    first, twin = result(), result()
    other, elsewhere = result("sft", acc=0.1), result(world=1, acc=0.9, mis=None)
    chosen = choose([first, other, twin, elsewhere])
    assert chosen == {(0, "kto"): first, (0, "sft"): other, (1, "kto"): elsewhere}
    assert chosen[0, "kto"] is first


def table_of(text, name):
    """The cells of every line that begins with `name`."""
    return [line.split()[1:] for line in text.splitlines() if line.split()[:1] == [name]]


def test_the_table_has_means_deviations_and_paired_differences():
    # mralign 0.50 0.60 0.70: mean 0.6, sd sqrt((0.01 + 0 + 0.01) / 2) = 0.1
    # kto     0.40 0.60 0.50: mean 0.5, sd 0.1;  differences 0.1 0 0.2: mean 0.1, sd 0.1, error 0.1 / sqrt(3) = 0.058
    accs = {"mralign": (0.5, 0.6, 0.7), "kto": (0.4, 0.6, 0.5)}
    rows = [
        result(method, world=world, acc=values[world], mis=0.3 - 0.1 * world)
        for method, values in accs.items()
        for world in (2, 0, 1)
    ]
    text = summarize(rows)
    own, difference = table_of(text, "kto")
    assert own == ["0.400", "0.600", "0.500", "0.500", "±", "0.100", "0.300", "0.200", "0.100", "0.200", "±", "0.100"]
    assert difference == ["+0.100", "±", "0.058", "+0.100", "+0.000", "+0.200"]
    (reference,) = table_of(text, "mralign")
    assert reference[:6] == ["0.500", "0.600", "0.700", "0.600", "±", "0.100"]


def test_one_world_has_no_deviation_and_a_base_without_thought_no_mis():
    rows = [result("mralign", acc=0.75, mis=0.25), result("base_think_off", acc=0.5, mis=None)]
    text = summarize(rows)
    own, difference = table_of(text, "base_think_off")
    assert own == ["0.500", "0.500", "-", "-"]
    assert difference == ["+0.250", "±", "nan", "+0.250"]


def test_without_the_reference_there_are_no_differences():
    assert "paired" not in summarize([result("kto"), result("sft")])
    assert "paired differences in Acc, kto minus" in summarize([result("kto"), result("sft")], reference="kto")


def test_a_difference_takes_the_worlds_that_both_have():
    rows = [
        result("mralign", world=0, acc=0.6),
        result("mralign", world=1, acc=0.8),
        result("kto", world=1, acc=0.5),
        result("kto", world=2, acc=0.9),
        result("sft", world=2, acc=0.9),
    ]
    text = summarize(rows)
    own, difference = table_of(text, "kto")
    assert own[:3] == ["-", "0.500", "0.900"]
    assert difference == ["+0.300", "±", "nan", "+0.300"]
    assert len(table_of(text, "sft")) == 1  # no world in common with the reference


def test_results_are_read_without_the_line_that_a_kill_cut(tmp_path):
    path = tmp_path / "results.jsonl"
    assert read_results(path) == []
    path.write_text('{"world": 0}\n{"world": 1}\n{"world": 2, "metr')
    assert read_results(path) == [{"world": 0}, {"world": 1}]
