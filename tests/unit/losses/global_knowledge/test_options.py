"""Oracles: the weights as paper and program give them, and messages by hand."""

import pytest

from distildet.errors import ConfigError

TERMS = ("global", "feature", "background", "response")


@pytest.mark.parametrize(
    ("variant", "weights"), [("paper", (1.0, 1.0, 0.0, 5.0)), ("official", (5.0, 1.0, 4.0, 1.0))]
)
def test_weights_are_those_of_the_variant(options_of, variant, weights):
    options = options_of(variant=variant)

    assert tuple(options.weight(term) for term in TERMS) == weights


@pytest.mark.parametrize("place", range(4))
def test_a_given_weight_takes_the_place_of_the_variants_even_0(options_of, place):
    given = options_of(**{f"{TERMS[place]}_weight": 0.0})

    expected = [5.0, 1.0, 4.0, 1.0]
    expected[place] = 0.0
    assert [given.weight(term) for term in TERMS] == expected


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, {"global", "feature", "response"}),
        ({"global_weight": 0.0}, {"feature", "response"}),
        ({"feature_weight": 0.0}, {"global", "feature", "response"}),
        ({"feature_weight": 0.0, "background_weight": 0.0}, {"global", "response"}),
        ({"variant": "paper", "feature_weight": 0.0}, {"global", "response"}),
        ({"terms": ("response", "global"), "response_weight": 0.0}, {"global"}),
    ],
)
def test_a_term_with_the_factor_0_is_left_out(options_of, changes, left):
    options = options_of(**changes)

    assert {term for term in ("global", "feature", "response") if options.has(term)} == left


@pytest.mark.parametrize(
    ("changes", "projection"),
    [
        ({"variant": "paper"}, "pursuit"),
        ({"variant": "official"}, "cosine"),
        ({"variant": "official", "projection": "cosine"}, "cosine"),
        ({"variant": "paper", "projection": "pursuit"}, "pursuit"),
    ],
)
def test_the_projection_is_the_given_one_or_that_of_the_variant(options_of, changes, projection):
    assert options_of(**changes).own_projection == projection


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"variant": "papr"},
            r"^variant: found 'papr'\. Accepted: official, paper\. Did .* 'paper",
        ),
        (
            {"prototypes": "mean"},
            r"^prototypes: found 'mean'\. Accepted: kmeans, pursuit, random\.",
        ),
        ({"terms": ("globl",)}, r"^terms: found 'globl'\. Accepted: feature, global, response\. "),
        ({"terms": ()}, r"^terms: found \[\]\. Accepted: different ones of global, .*at least one"),
        ({"terms": ("global", "global")}, r"^terms: found \['global', 'global'\]\. Accepted: diff"),
        ({"variant": "paper", "projection": "mp"}, r"^projection: found 'mp'\. Accepted: cosine, "),
        (
            {"projection": "ridge"},
            r"^projection: found 'ridge' with variant: official, .* or take variant: paper\.$",
        ),
        ({"num_prototypes": 0}, r"^num_prototypes: found 0\. Accepted: 1 or more\.$"),
        ({"instances": 0}, r"^instances: found 0\. Accepted: 1 or more\.$"),
        ({"refresh": 0.0}, r"^refresh: found 0\.0\. Accepted: a finite number above 0\.$"),
        ({"refresh": float("inf")}, r"^refresh: found inf\. Accepted: a finite number above 0\.$"),
        ({"agreement": 0.0}, r"^agreement: found 0\.0\. Accepted: a finite number above 0\.$"),
        ({"agreement": float("nan")}, r"^agreement: found nan\. Accepted: a finite number above"),
        ({"global_weight": -1.0}, r"^global_weight: found -1\.0\. Accepted: a finite number of 0 "),
        ({"feature_weight": float("nan")}, r"^feature_weight: found nan\. Accepted: a finite numb"),
        ({"background_weight": float("inf")}, r"^background_weight: found inf\. Accepted: a fini"),
        (
            {"terms": ("global",), "global_weight": 0.0},
            r"^global_weight: found 0, which compares nothing\. At least one must be above 0\.$",
        ),
        (
            {"terms": ("global",), "background_weight": 3.0},
            r"^background_weight: found 3\.0, and the term 'feature' is not in `terms`\. Leave it",
        ),
        ({"response_weight": -0.5}, r"^response_weight: found -0\.5\. Accepted: a finite number "),
    ],
)
def test_options_without_a_meaning_are_refused(options_of, changes, message):
    with pytest.raises(ConfigError, match=message):
        options_of(**changes)


def test_all_faults_are_told_at_once(options_of):
    with pytest.raises(ConfigError) as error:
        options_of(variant="mine", num_prototypes=0, response_weight=-1.0)

    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "variant",
        "num_prototypes",
        "response_weight",
    ]
