"""The public C functions against a server of their own: tests/integration/library.c holds the cases, each a Criterion test."""

import os
import re
import subprocess

from sqltest import migrate
from txbtest.postgres import Postgres
from txbtest.program import build_dir


def test_the_library_on_a_real_server():
    with Postgres() as server:
        migrate(server, server.create_database("library"))
        server.query("library", "SELECT txb.partition_make(1000, 8), txb.inbox_partition_make(2, 2)")
        server.query("postgres", "CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
        env = {**os.environ, "TXB_TEST_DATABASE": server.uri("library"), "TXB_TEST_LATIN1": server.uri("latin1")}
        done = subprocess.run([os.path.join(build_dir(), "tests", "library"), "--jobs", "1"], env=env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
    text = done.stdout.decode("utf-8", "replace")
    print(text)
    tested = re.search(r"Tested: (\d+) \| Passing: (\d+)", text)
    assert done.returncode == 0 and tested is not None and tested[1] == tested[2] and int(tested[1]) >= 8
    assert not re.search("Sanitizer|runtime error:", text)
