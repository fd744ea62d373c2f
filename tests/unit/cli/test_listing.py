import json

import pytest

from distildet.cli.listing import list_names


@pytest.fixture
def listed(capsys):
    def run(**options):
        list_names(**options)
        return capsys.readouterr().out

    return run


def test_losses_are_listed_with_their_options_beside_families_and_presets(listed):
    document = json.loads(listed(as_json=True))

    assert document.keys() == {"detectors", "losses", "presets"}
    assert document["losses"]["feature-imitation"] == {"levels": "None"}
    assert document["detectors"]["retinanet"]["head_depth"] == "4"
    assert "pseudo-label" in document["presets"]


def test_the_list_for_people_has_the_same_names(listed):
    lines = listed(as_json=False).splitlines()

    losses = lines.index("Distillation losses and their options:")
    imitation = lines.index("  feature-imitation")
    assert lines[imitation + 1] == "    levels = None"
    assert lines.index("Detector families and their options:") < losses < imitation
    assert imitation < lines.index("Presets:")
    assert "  retinanet" in lines
    assert "    head_depth = 4" in lines
