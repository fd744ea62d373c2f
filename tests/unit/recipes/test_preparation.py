from pathlib import Path

import pytest
import torch

from distildet.errors import DistildetError
from distildet.recipes.preparation import prepare
from distildet.recipes.progress import Silence
from distildet.training.interruption import Interruption


def test_a_batch_that_the_processes_do_not_divide_is_refused(load_plain, in_processes, tmp_path):
    recipe = load_plain("stages[0].batch_size=16")

    def work():
        prepare(
            recipe,
            out=tmp_path / "run",
            device=torch.device("cpu"),
            interruption=Interruption(),
            progress=Silence(),
            is_new=True,
        )

    errors = in_processes(work, 3)

    assert [type(error) for error in errors] == [type(errors[0])] * 3
    with pytest.raises(
        DistildetError,
        match=r"stages\[0\].batch_size: found 16, which 3 processes do not divide. "
        "Accepted: multiples of 3, such as 15 or 18",
    ):
        raise errors[0]


def test_faults_name_the_file_of_the_recipe(load_plain, project, tmp_path):
    (project / "labels.json").write_text("[]")
    recipe = load_plain()

    with pytest.raises(DistildetError, match=r"^recipe\.yaml: data\.labeled: .*labels\.json"):
        prepare(
            recipe,
            out=tmp_path / "run",
            device=torch.device("cpu"),
            interruption=Interruption(),
            progress=Silence(),
            is_new=True,
            source=Path("recipe.yaml"),
        )
