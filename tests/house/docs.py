"""The pages that the program prints from its own tables: `python3 tests/house/docs.py PROGRAM` writes them (`make docs`), test_docs.py compares."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "docs/reference-settings.md": ["config", "--reference"],
    "docs/reference-failed-states.md": ["failed", "states", "--reference"],
    "docs/reference-job-states.md": ["replay", "states", "--reference"],
    "docs/reference-saga-states.md": ["saga", "states", "--reference"],
    "docs/txbroker.1": ["man"],
}


def printed(program, arguments):
    return subprocess.run([program, *arguments], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=True).stdout


if __name__ == "__main__":
    for page, words in PAGES.items():
        (ROOT / page).write_bytes(printed(sys.argv[1], words))
        print(f"wrote {page}")
