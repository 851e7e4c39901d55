"""Topics by our own lists: clear cases, short vignettes, and what belongs to no list."""

import pytest

from medqa.questions import Question
from medqa.topics import OTHER, SPECIALTIES, topic_of


def question(text: str, right: str = "none of these", wrong: str = "another") -> Question:
    return Question("q", text, {"A": right, "B": wrong, "C": wrong + " one", "D": wrong + " two"}, "A")


def test_there_are_the_13_specialties_of_the_study() -> None:
    assert len(SPECIALTIES) == 13
    assert SPECIALTIES[-1] == OTHER


@pytest.mark.parametrize(
    ("text", "right", "topic"),
    [
        ("Crushing chest pain with ST-segment elevation. What is the cause?", "rupture of a plaque", "Cardiology"),
        ("A wheezing child with nasal polyps uses albuterol. Next drug?", "inhaled fluticasone", "Pulmonology"),
        ("Colicky right upper quadrant pain after meals. Test?", "ultrasound of the gallbladder", "Gastroenterology"),
        ("Sudden hemiparesis and aphasia. What happened?", "an embolic stroke", "Neurology"),
        ("Frothy urine and edema in a child. Biopsy shows?", "minimal change disease", "Nephrology"),
        ("Fever and a rash after a hike in Connecticut.", "Borrelia burgdorferi", "Infectious Disease"),
        ("Heat intolerance and exophthalmos. Which antibody?", "TSH receptor antibody", "Endocrinology"),
        ("A primigravid woman at 30 weeks' gestation has headaches.", "preeclampsia", "Obstetrics/Gynecology"),
        ("A painless breast lump. Biopsy shows?", "invasive ductal carcinoma", "Oncology"),
        ("Which is the mechanism of action of this drug?", "competitive antagonist", "Pharmacology"),
        ("He hears voices and has had delusions for a year.", "schizophrenia", "Psychiatry"),
        ("Pallor and spoon-shaped nails.", "iron deficiency anemia", "Hematology"),
        ("What is the number needed to treat in this cohort study?", "20", "Other"),
    ],
)
def test_a_clear_case_gets_its_specialty(text: str, right: str, topic: str) -> None:
    assert topic_of(question(text, right)) == topic


def test_wrong_options_do_not_decide() -> None:
    assert topic_of(question("Sudden aphasia.", "stroke", wrong="hepatitis, cirrhosis, pancreatitis")) == "Neurology"


def test_words_inside_other_words_do_not_count() -> None:
    assert topic_of(question("A man fixes his castset and his embossed bilevel stove.", "nothing")) == OTHER


def test_a_tie_of_single_weak_words_is_other() -> None:
    assert topic_of(question("He has a headache and a cough.")) == OTHER


def test_a_term_counts_once_however_often_it_stands() -> None:
    repeated = question("cough, cough, cough and cough; a headache, weakness")
    assert topic_of(repeated) == "Neurology"
