"""consumer/lane_reader.c against a real server: tests/integration/lane_reader.c holds the cases, each a Criterion test."""

import os
import re
import subprocess

from test_sql_partitions import fill, watermark
from txbtest.program import build_dir


def test_the_reader_of_a_lane_on_a_real_server(db):
    fill(db, 10)
    watermark(db, 10)
    env = {**os.environ, "TXB_TEST_DATABASE": db.server.uri(db.name)}
    done = subprocess.run([os.path.join(build_dir(), "tests", "lane_reader"), "--jobs", "1"], env=env, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
    text = done.stdout.decode("utf-8", "replace")
    print(text)
    tested = re.search(r"Tested: (\d+) \| Passing: (\d+)", text)
    assert done.returncode == 0 and tested is not None and tested[1] == tested[2] and int(tested[1]) >= 4
    assert not re.search("Sanitizer|runtime error:", text)
