"""Which settings a method is judged with, by hand."""

import pytest
from measured_rows import row

from mralign.comparison.choice import choose


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (row(acc=0.6, mis=0.9, epochs=9, rate=1.0), row(acc=0.5)),
        (row(mis=0.1, epochs=9, rate=1.0), row(mis=0.2)),
        (row(epochs=2, rate=1.0), row(epochs=4)),
        (row(rate=5e-4), row(rate=1e-3)),
    ],
    ids=["acc", "mis", "epochs", "rate"],
)
def test_the_choice_goes_by_acc_then_mis_then_epochs_then_rate(better, worse):
    assert choose([better, worse]) == choose([worse, better]) == {("w0", "kto"): better}


def test_every_world_and_method_chooses_for_itself_and_the_first_of_equals_stays():
    first, twin = row(), row()
    other, elsewhere = row("sft", acc=0.1), row(world="w1", acc=0.9)
    chosen = choose([first, other, twin, elsewhere])
    assert chosen == {("w0", "kto"): first, ("w0", "sft"): other, ("w1", "kto"): elsewhere}
    assert chosen["w0", "kto"] is first
