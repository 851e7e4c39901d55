"""The report says the same in HTML and in Markdown, leaves out what was not measured, and escapes what it shows."""

from __future__ import annotations

import html
import html.parser
import re
from pathlib import Path
from typing import Any

import pytest
from report_fakes import NASTY, write_folder

from analysis import plots, report, study_files
from analysis.model_card import write_card
from analysis.report_content import Bullets, Paragraph, Report, Section, Table, code
from analysis.report_html import to_html
from analysis.report_markdown import to_markdown
from analysis.report_numbers import number, of_all, p_cell, pair_label, points, rate
from analysis.report_summary import worth_it
from medqa.record import read_json, write_json
from medqa.selection import BEST_MEANS

FURTHER = {
    "confidence.json",
    "positions.json",
    "mistakes.json",
    "leaks.json",
    "scorers.json",
    "comparisons.json",
    "coverage.json",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation's folder with every file, and its report."""
    made = tmp_path_factory.mktemp("final_eval")
    write_folder(made)
    draw(made)
    return made


def draw(folder: Path) -> None:
    files = study_files.read_files(folder)
    plots.draw_all(folder, files)
    report.write_report(folder, files)


class _Text(html.parser.HTMLParser):
    """Collects what a reader of the page sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("style", "script", "title")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.seen.append(data)


def parsed(page: str) -> _Text:
    parser = _Text()
    parser.feed(page)
    return parser


def words(text: str) -> set[str]:
    return {word.strip(".") for word in re.findall(r"[A-Za-z0-9.%]+", text)}


def test_both_formats_say_the_same(folder: Path) -> None:
    page = parsed((folder / "report.html").read_text())
    markdown = (folder / "report.md").read_text()
    assert {"Summary", "Calibration", "The two scorers", "Leaks from the train split"} <= set(page.seen)
    headings = re.findall(r"^## (.*)$", markdown, re.MULTILINE)
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert len(headings) == len(sections) == 14
    without_figures = html.unescape(re.sub(r"!\[.*?\]\(\S*\)", "", markdown))
    assert words(without_figures) ^ words(" ".join(page.seen)) <= {"else", "here"}  # above the links to the sections


def test_the_summary_answers_a_readers_questions_first(folder: Path) -> None:
    summary = (folder / "report.md").read_text().split("\n## ")[1]
    assert summary.startswith("Summary")
    asked = re.findall(r"\*\*(.*?)\*\*", summary)
    assert asked == [
        "Did tuning help?",
        "By how much?",
        "How sure is that?",
        "Is it worth it over three examples in the prompt?",
        "Is it worth it over the best preset?",
    ]
    assert "Tuning helped." in summary
    assert "Holm-corrected" in summary
    assert "not for clinical use" in summary


@pytest.mark.parametrize("missing", sorted(FURTHER))
def test_a_section_whose_file_is_absent_is_left_out(folder: Path, missing: str) -> None:
    from analysis.report_inputs import with_optional

    whole = with_optional(folder, study_files.read_files(folder))
    without = {name: content for name, content in whole.items() if name != missing}
    assert set(whole) >= FURTHER
    shorter, longer = (to_markdown(report.build_report(files)) for files in (without, whole))
    assert len(shorter) < len(longer)


def test_an_evaluation_without_further_files_has_a_report(folder: Path, tmp_path: Path) -> None:
    files = {name: content for name, content in study_files.read_files(folder).items() if name not in FURTHER}
    plots.draw_all(tmp_path, files)
    report.write_report(tmp_path, files)
    markdown = (tmp_path / "report.md").read_text()
    assert "The two scorers" not in markdown
    assert "not corrected" in markdown
    assert set(re.findall(r"\]\((.*?\.png)\)", markdown)) == {path.name for path in tmp_path.glob("*.png")}


def test_every_figure_is_in_both_formats_with_words_for_it(folder: Path) -> None:
    figures = {path.name for path in folder.glob("*.png")}
    markdown = (folder / "report.md").read_text()
    shown = re.findall(r"!\[(.+?)\]\((\S+?)\)\n", markdown)
    assert {file for _, file in shown} == figures
    images = [attributes for tag, attributes in parsed((folder / "report.html").read_text()).tags if tag == "img"]
    assert len(images) == len(figures) == 14
    assert all(len(image["alt"] or "") > 40 for image in images)
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in images)


def test_the_page_loads_nothing(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    addresses = [
        value for _, attributes in parsed(page).tags for key, value in attributes.items() if key in ("src", "href")
    ]
    assert all((value or "").startswith(("data:", "#")) for value in addresses)
    assert "default-src 'none'" in page


def test_texts_of_questions_are_shown_as_they_are() -> None:
    files = read_example()
    page, markdown = to_html(files, Path()), to_markdown(files)
    assert "<script>document" not in page + markdown
    assert NASTY.replace("`", "") in "".join(parsed(page).seen)
    assert "\\*bold\\*" in markdown
    assert "\\[link\\]" in markdown


def read_example() -> Report:
    table = Table(caption="c", head=("a", "b"), rows=((NASTY, "x | y\nz"),))
    return Report(title="t", sections=(Section(title="s", blocks=(table, Paragraph(text=NASTY.replace("`", "'")))),))


def test_a_cell_never_breaks_a_table() -> None:
    lines = to_markdown(read_example()).splitlines()
    row = next(line for line in lines if "bold" in line)
    assert row.replace("\\|", "").count("|") == 3
    assert "x \\| y z" in row


def test_text_never_becomes_a_heading_or_a_list() -> None:
    blocks = (Paragraph(text="# not a heading"), Bullets(lines=("- not nested", "1. nor numbered")))
    markdown = to_markdown(Report(title="t", sections=(Section(title="s", blocks=blocks),)))
    assert "\\# not a heading" in markdown
    assert "- \\- not nested" in markdown


def test_code_keeps_its_characters() -> None:
    text = Paragraph(text=f"run {code('a_*b*<c>')} now_")
    assert "run `a_*b*<c>` now\\_" in to_markdown(Report(title="t", sections=(Section(title="s", blocks=(text,)),)))
    assert code("a`b") == "`a'b`"


def test_a_figure_that_is_not_there_is_left_out(folder: Path, tmp_path: Path) -> None:
    report.write_report(tmp_path, study_files.read_files(folder))
    assert "![" not in (tmp_path / "report.md").read_text()
    assert "<img" not in (tmp_path / "report.html").read_text()


def test_numbers_are_written_with_interval_and_named_when_too_few() -> None:
    estimate = {"value": 0.5741, "low": 0.5468, "high": 0.6009, "n": 1273}
    assert rate(estimate) == "57.4 % (54.7 to 60.1)"
    assert number(estimate) == "0.574 (0.547 to 0.601)"
    assert points({**estimate, "low": -0.01}) == "+57.4 points (-1.0 to +60.1)"
    few = {"value": 5 / 7, "low": 0.3, "high": 0.9, "n": 7}
    assert (rate(few), number(few), points(few)) == ("too few (5 of 7)", "too few (n = 7)", "too few (n = 7)")
    assert (rate(None), p_cell(None)) == ("–", "–")
    assert (p_cell(0.00001), p_cell(0.0123), p_cell(1.0)) == ("< 0.0001", "0.012", "1")
    assert of_all(0.25, 100).startswith("25.0 % (")
    assert pair_label("fine_tuned_minus_zero_shot") == "tuned minus zero-shot base"


def test_too_few_questions_are_named_in_the_table_of_specialties(folder: Path) -> None:
    topics = (folder / "report.md").read_text().split("## By specialty")[1].split("\n## ")[0]
    rates = read_json(folder / "finetuned_test_results.json")["per_topic_accuracy"]
    rows = {line.split("|")[1].strip(): line for line in topics.splitlines() if line.startswith("| ")}
    rare = [topic for topic, one in rates.items() if one["n"] < 20]
    assert rare
    assert all(("too few" in rows[topic]) == (topic in rare) for topic in rates)


def test_wrong_answers_are_shown_with_question_options_and_probabilities(folder: Path) -> None:
    errors = (folder / "report.md").read_text().split("## Errors")[1].split("\n## ")[0]
    items = read_json(folder / "mistakes.json")["items"]["fine_tuned"]
    surest = max(items, key=lambda item: float(item["probabilities"][item["pred"]]))
    assert f"**{surest['id']}: {surest['kind']}, {surest['topic']}**" in errors
    assert f"{100 * surest['probabilities'][surest['pred']]:.1f} %), **answered**" in errors
    assert errors.count("\n| demo-test-") == len(items)


def test_near_duplicates_are_listed(folder: Path) -> None:
    leaks = (folder / "report.md").read_text().split("## Leaks from the train split")[1].split("\n## ")[0]
    found = read_json(folder / "leaks.json")["near_duplicates"]
    assert f"There are {len(found)} among the test questions." in leaks
    assert leaks.count("\n| demo-test-") == len(found) >= 2


def test_near_duplicates_among_the_validation_questions_are_listed_with_the_accuracy_without_them(folder: Path) -> None:
    leaks = (folder / "report.md").read_text().split("## Leaks from the train split")[1].split("\n## ")[0]
    of_validation = leaks.split("There is 1 among the validation questions, on which the search chose.")[1]
    effect = read_json(folder / "leaks.json")["validation_accuracy"]["fine_tuned"]
    assert (effect["with_them"]["n"], effect["without_them"]["n"]) == (100, 99)
    shown = f"| {rate(effect['with_them'])}, n = 100 | {rate(effect['without_them'])}, n = 99 |"
    assert f"| tuned {shown}" in of_validation
    assert "| test-00001 | train-1 | 100.0 % | no |" in of_validation


def test_a_broken_further_file_is_one_line(folder: Path, tmp_path: Path) -> None:
    from medqa.errors import RecordError

    study_files.write_files(tmp_path, study_files.read_files(folder))
    (tmp_path / "coverage.json").write_text("{")
    with pytest.raises(RecordError, match="coverage.json"):
        plots.draw_all(tmp_path, study_files.read_files(tmp_path))


def test_files_of_another_version_are_one_line(folder: Path) -> None:
    from medqa.errors import RecordError

    files = study_files.read_files(folder)
    del files["finetuned_test_results.json"]["class_scores"]
    with pytest.raises(RecordError, match="lack 'class_scores': they are from another version"):
        report.build_report(files)


def _set_margin(files: dict[str, Any], interval: dict[str, float] | None, over: str = "the best preset") -> None:
    margin = {"over": over, "name": "config_4_low_lr", "value": 0.03, "interval": interval, "over_new_seeds": False}
    files["evaluation.json"]["choice"]["margins"] = [margin]


@pytest.mark.parametrize(
    ("low", "high", "over", "said"),
    [
        (0.01, 0.05, "the best preset", "Yes, on validation: it is 3.0 points better than `config_4_low_lr`"),
        (-0.01, 0.05, "the best preset", "Not shown: it is 3.0 points better"),
    ],
)
def test_the_summary_says_whether_the_search_was_worth_it(
    folder: Path, low: float, high: float, over: str, said: str
) -> None:
    files = study_files.read_files(folder)
    _set_margin(files, {"value": 0.03, "low": low, "high": high, "n": 300}, over)
    assert said in to_markdown(report.build_report(files)).split("\n## ")[1]


@pytest.mark.parametrize(
    ("trial", "means", "said"),
    [
        ("config_4_low_lr", BEST_MEANS, "`config_4_low_lr`, is itself a preset: nothing else was better"),
        ("config_4_low_lr", "the trial of a run, asked for by name", "That is not known"),
        ("trial_007", BEST_MEANS, "That is not known"),
    ],
)
def test_a_preset_that_won_needs_no_comparison_with_the_best_preset(trial: str, means: str, said: str) -> None:
    assert said in worth_it({"trial": trial, "means": means, "margins": [], "metric": "accuracy"})


def test_the_card_says_what_the_adapter_is_and_is_not(folder: Path) -> None:
    card = (folder / "model_card.md").read_text()
    assert card.startswith('---\nbase_model: "demo"\nlibrary_name: peft\n')
    assert card.index("Not for clinical use") < card.index("## Base and data") < card.index("## Numbers")
    summary = read_json(folder / "comparison_summary.json")["fine_tuned"]["accuracy_interval"]
    assert rate(summary) in card
    assert "| lora_rank | 16 |" in card


def test_a_name_with_strange_characters_cannot_break_the_cards_head(folder: Path) -> None:
    import yaml

    files = study_files.read_files(folder)
    files["evaluation.json"]["identity"]["task"]["model"] = 'a: "b"\n---'
    head = write_card(files).split("\n---\n")[0].removeprefix("---\n")
    assert yaml.safe_load(head)["base_model"] == 'a: "b"\n---'


def test_a_model_beyond_the_three_is_shown_by_its_name(folder: Path) -> None:
    files = study_files.read_files(folder)
    files["comparison_summary.json"]["ensemble"] = files["comparison_summary.json"]["fine_tuned"]
    assert "| ensemble | " in to_markdown(report.build_report(files))


def test_further_sets_of_questions_are_shown(folder: Path, tmp_path: Path) -> None:
    files = study_files.read_files(folder)
    study_files.write_files(tmp_path, files)
    write_json(tmp_path / "also" / "nurses" / "comparison_summary.json", files["comparison_summary.json"])
    draw(tmp_path)
    other = (tmp_path / "report.md").read_text().split("## Other sets of questions")[1]
    assert "`nurses` (95 % interval):" in other


def test_the_winner_is_compared_with_every_other_trial(folder: Path) -> None:
    files = study_files.read_files(folder)
    pair = read_json(folder / "comparisons.json")["pairs"]["fine_tuned_minus_zero_shot"]
    files["all_configs.json"]["comparisons"] = {
        "split": "validation",
        "first": "x",
        "pairs": {"config_1_baseline": pair},
        "left_out": ["config_2_low_rank"],
    }
    section = to_markdown(report.build_report(files)).split("## Over the best preset")[1].split("\n## ")[0]
    assert f"| config_1_baseline | {points(pair['pair']['difference'])} | 200 | " in section
    assert "Not compared, as their answers to the same questions are not there: `config_2_low_rank`." in section


def test_versions_that_changed_since_the_training_are_both_named(folder: Path) -> None:
    files = study_files.read_files(folder)
    files["evaluation.json"] |= {"versions": {"torch": "3", "peft": "1"}, "command": "final_eval.py --best | tee `x`"}
    record = to_markdown(report.build_report(files)).split("## What was evaluated")[1]
    assert "| torch | `2, in the evaluation 3` |" in record
    assert "| peft | `1` |" in record
    assert "| command | `final_eval.py --best \\| tee 'x'` |" in record


def _shuffled(folder: Path, flips: tuple[float, float], gain: tuple[float, float], *, with_them: bool) -> str:
    """What the report says of shuffling where the tuned model minus its counterpart has these intervals."""
    files = study_files.read_files(folder)
    files["positions.json"] = read_json(folder / "positions.json")
    pair = files["positions.json"]["pairs"]["fine_tuned_minus_zero_shot"]
    for estimate, (low, high) in ((pair["flips"]["difference"], flips), (pair["accuracy"], gain)):
        estimate |= {"value": (low + high) / 2, "low": low, "high": high}
    files["positions.json"]["pairs"] = {"fine_tuned_minus_counterpart": pair}
    files["evaluation.json"]["counterpart"] = "config_4_low_lr"
    files["evaluation.json"]["identity"]["config"]["shuffle_options"] = with_them
    for trial in files["all_configs.json"]["trials"]:
        shuffles = str(with_them != (trial["name"] == "config_4_low_lr"))
        trial["parameters"] = {"lora_rank": "16" if trial["winner"] else "8", "shuffle_options": shuffles, "seed": "42"}
    section = to_markdown(report.build_report(files)).split("## Position of the options")[1].split("\n## ")[0]
    return section.split("**Did training with shuffled options help?**")[1]


LESS, UNKNOWN, MORE = (-0.09, -0.01), (-0.05, 0.05), (0.01, 0.09)


@pytest.mark.parametrize(
    ("flips", "gain", "with_them", "said"),
    [
        (LESS, MORE, True, "The one trained with them does better"),
        (LESS, UNKNOWN, True, "The one trained with them does better"),
        (UNKNOWN, LESS, True, "The one trained with them does worse"),
        (MORE, LESS, False, "The one trained with them does better"),
        (MORE, MORE, True, "The one trained with them is better in one way and worse in the other"),
        (
            UNKNOWN,
            UNKNOWN,
            True,
            "No difference between the one trained with them and the one trained without is shown",
        ),
    ],
)
def test_the_report_says_whether_shuffling_helped_as_far_as_that_can_be_told(
    folder: Path, flips: tuple[float, float], gain: tuple[float, float], with_them: bool, said: str
) -> None:
    answer = _shuffled(folder, flips, gain, with_them=with_them)
    assert f"trained with{'' if with_them else 'out'} shuffled options. Its counterpart, `config_4_low_lr`," in answer
    assert f"{said}" in answer
    # always the one with shuffled options minus the other
    value = 100 * sum(gain) / 2 * (1 if with_them else -1)
    assert f"mean accuracy over all orders {value:+.1f} points (" in answer
    assert "n = 200. The two differ in `lora_rank` too: the difference cannot be laid to the shuffling alone." in answer


def test_without_a_counterpart_the_report_says_that_shuffling_cannot_be_judged(folder: Path) -> None:
    section = (folder / "report.md").read_text().split("## Position of the options")[1].split("\n## ")[0]
    assert "trained without shuffled options. That cannot be told: no adapter is kept of a trial" in section


def test_settings_that_are_not_recorded_are_not_said_to_be_the_same(folder: Path) -> None:
    from analysis.report_shuffled import shuffled_answer

    files = study_files.read_files(folder)
    files["positions.json"] = read_json(folder / "positions.json")
    files["positions.json"]["pairs"] = {
        "fine_tuned_minus_counterpart": files["positions.json"]["pairs"]["fine_tuned_minus_zero_shot"]
    }
    files["evaluation.json"]["counterpart"] = "not among the trials"
    assert "The two may differ in other settings too" in shuffled_answer(files).pairs[0][1]
    for trial in files["all_configs.json"]["trials"]:
        trial["parameters"] = {"lora_rank": "16"}
    files["evaluation.json"]["counterpart"] = "config_4_low_lr"
    assert "The two differ in no other setting, but each was trained once" in shuffled_answer(files).pairs[0][1]


def test_an_ensemble_stands_in_the_tables_of_topics_and_letters(folder: Path) -> None:
    files = study_files.read_files(folder)
    files["ensemble_results.json"] = files["finetuned_test_results.json"]
    markdown = to_markdown(report.build_report(files))
    assert "| specialty | n | zero-shot base | 3-shot base | tuned | ensemble |" in markdown
    assert "\n| ensemble | A | " in markdown
