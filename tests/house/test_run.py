"""The runner's counting: a report that is missing, unreadable or empty, and a program that fails beside its report, are failures."""

import importlib.machinery
import importlib.util
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[1] / "run"

CRITERION = """<?xml version="1.0"?><testsuites><testsuite name="a">
<testcase name="one" status="PASSED"/><testcase name="two" status="FAILED"><failure/></testcase>
<testcase name="three" status="SKIPPED"><skipped/></testcase><testcase name="four" status="ERRORED"><error/></testcase></testsuite></testsuites>"""
GOOD = '<testsuites><testsuite><testcase classname="m" name="one"/></testsuite></testsuites>'
EMPTY = "<testsuites><testsuite/></testsuites>"


@pytest.fixture
def tally():
    loader = importlib.machinery.SourceFileLoader("txb_run", str(RUN))
    spec = importlib.util.spec_from_loader("txb_run", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module.Tally()


def counts(tally):
    return tally.passed, tally.failed, tally.skipped


@pytest.mark.parametrize("text,ok,wanted", [
    (CRITERION, False, (1, 2, 1)),
    (GOOD, True, (1, 0, 0)),
    (GOOD, False, (1, 1, 0)),  # a leak at exit: every test passed, the program failed
    (EMPTY, True, (0, 1, 0)),
    ("<testsuites>", True, (0, 1, 0)),
], ids=["each kind", "good", "good but the program failed", "empty", "cut off"])
def test_a_report_is_counted(tally, tmp_path, text, ok, wanted):
    (tmp_path / "report.xml").write_text(text)
    tally.add_report("x", tmp_path / "report.xml", ok)
    assert counts(tally) == wanted


def test_a_missing_report_is_a_failure(tally, tmp_path):
    tally.add_report("x", tmp_path / "none.xml", True)
    assert counts(tally) == (0, 1, 0)


@pytest.mark.parametrize("status,wanted", [("run", (1, 0, 0)), ("fail", (0, 1, 0)), ("notrun", (0, 1, 0)), ("disabled", (0, 0, 1))])
def test_ctest_words_are_understood(tally, tmp_path, status, wanted):
    (tmp_path / "report.xml").write_text(f'<testsuite><testcase name="a" status="{status}"/></testsuite>')
    tally.add_report("x", tmp_path / "report.xml", True)
    assert counts(tally) == wanted
