from distildet.recipes.result import unequal_steps


def noted(rejected, overflows, arms=("student", "baseline")):
    """What two seeds of two stages with 20 and 5 steps noted; the baseline left out none."""
    none = [[0, 0], [0, 0]]
    return {
        "steps": {arm: [[20, 5], [20, 5]] for arm in arms},
        "rejected_steps": {arm: rejected if arm == "student" else none for arm in arms},
        "overflow_steps": {arm: overflows if arm == "student" else none for arm in arms},
    }


def test_a_student_that_learned_in_fewer_steps_than_its_baseline_is_told():
    warnings = unequal_steps([7, 8], noted([[0, 0], [12, 1]], [[0, 0], [0, 2]]))

    # 20 + 5 - 12 - 1 - 2
    assert warnings == [
        "seed 8: of 25 steps the student learned in 10 and the baseline in 25, since steps were "
        "left out (see rejected_steps and overflow_steps in result.json). They are not compared "
        "at equal steps."
    ]


def test_as_many_steps_of_both_are_no_warning():
    assert unequal_steps([7, 8], noted([[0, 0], [0, 0]], [[0, 0], [0, 0]])) == []


def test_without_a_baseline_nothing_is_compared():
    rejected = [[1, 0], [0, 0]]

    assert unequal_steps([7, 8], noted(rejected, rejected, arms=("student",))) == []
