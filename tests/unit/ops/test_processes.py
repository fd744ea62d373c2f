import json
import subprocess
import sys

import pytest
import torch

from distildet.ops import processes, reduce

SCRIPT = """
import json, sys
import torch
from torch import distributed
from distildet.ops import processes, reduce

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
value = torch.tensor([1.0, 5.0]) * (rank + 1)
with reduce.counting(0.25) as counted:
    reduce.batch_total(value)
with reduce.with_totals(0.25, reduce.add_up([counted, counted])):
    parts = reduce.batch_normaliser(value).tolist()
processes.wait_for_all()
print(json.dumps({
    "place": [processes.rank(), processes.num_processes()],
    "sum": processes.sum_over_processes(value).tolist(),
    "sum in place": (processes.sum_in_place(own := value.clone()), own.tolist())[1],
    "largest": processes.largest_of_processes(-value).tolist(),
    "gathered": processes.gather({"rank": rank}),
    "nothing": processes.gather(None),
    "first": processes.from_first(f"of {rank}"),
    "share": processes.own_share("abcde"),
    "own": value.tolist(),
    "normaliser": reduce.batch_normaliser(value).tolist(),
    "normaliser_in_parts": parts,
}))
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Return what each of two processes printed."""
    folder = tmp_path_factory.mktemp("processes")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(folder)],
            stdout=subprocess.PIPE,
            env={"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    return [json.loads(process.communicate(timeout=120)[0]) for process in started]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("place", [[0, 2], [1, 2]]),
        ("sum", [[3.0, 15.0]] * 2),
        ("sum in place", [[3.0, 15.0]] * 2),
        ("largest", [[-1.0, -5.0]] * 2),
        ("gathered", [[{"rank": 0}, {"rank": 1}]] * 2),
        ("nothing", [[None, None]] * 2),
        ("first", ["of 0"] * 2),
        ("share", ["ace", "bd"]),
        ("own", [[1.0, 5.0], [2.0, 10.0]]),
        # Means over the processes: of 1 and 2, and of 5 and 10.
        ("normaliser", [[1.5, 7.5]] * 2),
        # Two micro-batches in each process: half of 2 * (1 + 2) and of 2 * (5 + 10), in quarters.
        ("normaliser_in_parts", [[0.75, 3.75]] * 2),
    ],
)
def test_two_processes_agree(told, name, expected):
    assert [one[name] for one in told] == expected


def test_one_process_is_alone():
    value = torch.tensor([1.0, 5.0])

    assert (processes.rank(), processes.num_processes()) == (0, 1)
    assert processes.sum_over_processes(value).equal(value)
    assert processes.largest_of_processes(value).equal(value)
    assert processes.gather("a") == ["a"]
    assert processes.from_first("a") == "a"
    assert processes.own_share("abc") == "abc"
    assert reduce.batch_normaliser(value).equal(value)
    processes.wait_for_all()


def test_a_sum_is_a_copy_without_gradient():
    value = torch.tensor([1.0], requires_grad=True)

    total = processes.sum_over_processes(value)

    assert not total.requires_grad
    assert total.data_ptr() != value.data_ptr()
