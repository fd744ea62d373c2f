import pytest

from distildet import errors


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [
        ("ConfigError", 2),
        ("MissingPartError", 2),
        ("ClassMapError", 2),
        ("DataError", 2),
        ("WeightsError", 2),
        ("StoreError", 2),
        ("StageError", 2),
        ("ResourceError", 3),
        ("DivergedError", 4),
        ("GateError", 5),
    ],
)
def test_each_error_has_the_documented_exit_code(name, exit_code):
    error = getattr(errors, name)("what was found")

    assert isinstance(error, errors.DistildetError)
    assert error.exit_code == exit_code
    assert str(error) == "what was found"


def test_an_interrupted_run_has_the_code_of_its_signal():
    error = errors.InterruptedRunError("stopped", exit_code=143)

    assert (str(error), error.exit_code) == ("stopped", 143)
    assert errors.DistildetError.exit_code == 2


def test_a_missing_extra_has_the_command_that_installs_it():
    error = errors.MissingExtraError("onnxruntime", extra="onnx", purpose="a.onnx: an ONNX model")

    assert error.exit_code == 2
    assert str(error) == (
        "a.onnx: an ONNX model needs onnxruntime, which is not installed. Run: "
        'pip install "distildet[onnx]"'
    )


@pytest.mark.parametrize(
    ("name", "accepted", "sentence"),
    [
        ("adamv", ["sgd", "adamw"], "Accepted: adamw, sgd. Did you mean 'adamw'?"),
        ("lion", ["sgd", "adamw"], "Accepted: adamw, sgd."),
        ("lion", [], "Nothing is accepted here."),
    ],
)
def test_the_sentence_lists_what_is_accepted_and_suggests_what_is_near(name, accepted, sentence):
    assert errors.nearest_names(name, accepted) == sentence
