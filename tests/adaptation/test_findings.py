"""What is wrong with each line, gathered by itself and joined, is what one list of all would say."""

from __future__ import annotations

from edgellm.adaptation.findings import Findings
from edgellm.types.tuning_data import MAX_PROBLEMS


def test_those_of_lines_join_to_those_of_the_data() -> None:
    whole, joined = Findings(), Findings()
    for line in range(1, MAX_PROBLEMS):
        of_line = Findings()
        for findings in (whole, of_line):
            findings.add(line, "end_added", value="a")
            for place in range(line % 3):
                findings.add(line, "answer_changed", field=f"messages[{place}]")
            findings.ignore([f"field{line % 5}"])
            findings.n_examples += 2
            findings.n_tokens += line
            findings.n_supervised += 1
            findings.longest = max(findings.longest, line % 7)
        joined.add_all(of_line)
    of_line = Findings()
    for findings in (whole, of_line):
        for _ in range(2 * MAX_PROBLEMS):
            findings.add(MAX_PROBLEMS, "end_added")
    joined.add_all(of_line)

    assert joined.report == whole.report
    assert joined.report.counts["end_added"] > 2 * MAX_PROBLEMS


def test_a_line_that_was_refused_before_counts_once() -> None:
    joined, of_line = Findings(), Findings()
    for findings in (joined, of_line):
        findings.add(3, "answer_changed")
    joined.add_all(of_line)

    assert joined.report.n_refused == 1
