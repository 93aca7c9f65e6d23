"""deploy/deps.sh with stand-ins for dpkg-query and apt-get: what it asks for, when it is silent, and what it says of a mistake."""

import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPS = ROOT / "deploy/deps.sh"


def tool(folder, name, body):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    """A machine with these packages installed; returns a function that runs deps.sh on it and gives (exit, messages, what apt-get was told)."""

    def run(installed, *purposes):
        told = tmp_path / "told"
        told.write_text("")
        words = " ".join(f"installed/{name}" for name in installed)
        tool(tmp_path, "dpkg-query", f"echo -n '{words} '; exit 1")
        tool(tmp_path, "apt-get", f"echo \"$DEBIAN_FRONTEND $*\" >> '{told}'")
        tool(tmp_path, "sudo", '[[ $1 == -n ]] && shift; exec "$@"')
        done = subprocess.run([DEPS, *purposes], env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr, told.read_text().splitlines()

    return run


LINT = ["gcc", "libc6-dev", "make", "cmake", "ninja-build", "pkgconf", "libpq-dev", "librdkafka-dev", "libjansson-dev", "libssl-dev",
        "clang-format-14", "clang-tidy-14", "shellcheck"]


def test_silent_and_quick_when_all_is_there(machine):
    started = time.monotonic()
    assert machine(LINT, "lint") == (0, "", [])
    assert time.monotonic() - started < 1


def test_installs_only_what_is_missing_and_says_so(machine):
    code, said, told = machine([name for name in LINT if name not in ("shellcheck", "libpq-dev")], "lint")
    assert code == 0 and "installing libpq-dev shellcheck" in said
    assert [line.split()[0] for line in told] == ["noninteractive"] * 2
    assert " update" in told[0]
    assert told[1].endswith("install --no-install-recommends libpq-dev shellcheck")


def test_an_unknown_purpose_is_refused(machine):
    code, said, told = machine([], "luck")
    assert code == 2 and "luck" in said and told == []


def test_a_failed_install_is_a_failure(tmp_path, machine):
    machine(LINT, "lint")
    tool(tmp_path, "dpkg-query", "exit 1")
    tool(tmp_path, "apt-get", "exit 100")
    done = subprocess.run([DEPS, "lint"], env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
