"""common/pg*.c against a server of its own: tests/integration/pg_port.c holds the cases, each a Criterion test."""

import os
import re
import subprocess

from txbtest.postgres import Postgres
from txbtest.program import build_dir


def test_the_port_to_libpq_on_a_real_server():
    with Postgres() as server:
        server.query("postgres", "CREATE ROLE password_users")
        server.query("postgres", "CREATE ROLE port_user LOGIN PASSWORD 'geheim' IN ROLE password_users")
        env = {**os.environ, "TXB_TEST_DATABASE": server.uri("postgres"),
               "TXB_TEST_PASSWORD_URI": server.uri("postgres", "port_user", "geheim")}
        done = subprocess.run([os.path.join(build_dir(), "tests", "pg_port"), "--jobs", "1"], env=env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
    text = done.stdout.decode("utf-8", "replace")
    print(text)
    tested = re.search(r"Tested: (\d+) \| Passing: (\d+)", text)
    assert done.returncode == 0 and tested is not None and tested[1] == tested[2] and int(tested[1]) >= 20
    assert not re.search("Sanitizer|runtime error:", text)
