"""Every planted bug is found by the simulator of its side, and the same seed finds nothing once the bug is out: a simulator that finds nothing in
100,000 seeds says something only because it finds these. TXB_BUILD names a build with TXB_FAULTS."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("TXB_BUILD", ROOT / "build-dev"))
SEEDS = 20000


def planted():
    """Those of the programs, and those that live in a simulator's model alone, where the rule is kept by the database's functions."""
    body = re.search(r"txb_bug_names\[\]\s*=\s*\{(.*?)\};", (ROOT / "common/fault.c").read_text(), re.DOTALL)
    names = re.findall(r'"([^"]+)"', body.group(1))
    for side in ("relay", "worker", "saga"):
        names += re.findall(r'\{"(%s_[a-z_]+)", &' % side, (ROOT / f"tests/sim/sim_{side}.c").read_text())
    # Those of lanes and of the coordinator live around the cores, where the models have their own; tests/system has them all.
    return [name for name in dict.fromkeys(names) if not name.startswith(("lane_", "coordinator_"))]


def simulate(bug, *words):
    return subprocess.run([BUILD / "tests" / f"sim_{bug.split('_')[0]}", *words], capture_output=True, text=True, timeout=100, check=False)


def test_there_are_enough():
    assert len(planted()) >= 12 and len(set(planted())) == len(planted())


@pytest.mark.parametrize("bug", planted())
def test_is_found(bug):
    found = simulate(bug, "--seeds", str(SEEDS), "--bug", bug)
    assert found.returncode == 1, f"exit {found.returncode}: {found.stdout[:2000]} {found.stderr}"
    seed = re.match(r"seed (\d+): ", found.stdout).group(1)
    without = simulate(bug, "--seeds", "1", "--seed", seed)
    assert without.returncode == 0, without.stdout[:2000]


@pytest.mark.parametrize("side", ["relay", "worker", "saga"])
def test_an_unknown_bug_is_refused(side):
    """A misspelt name must not run without its bug and count as found."""
    assert simulate(side, "--seeds", "1", "--bug", f"{side}_unheard_of").returncode not in (0, 1)
