"""include/txbroker/saga.h and request.h against a server of their own: saga_library.c and request_library.c hold the cases, each a Criterion test."""

import json
import os
import re
import subprocess

import pytest
from sqltest import migrate
from txbtest.postgres import Postgres
from txbtest.program import build_dir

INPUT = {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "integer", "minimum": 1}}}


@pytest.mark.parametrize("program,least", [("saga_library", 15), ("request_library", 9)])
def test_from_c_on_a_real_server(program, least):
    with Postgres() as server:
        migrate(server, server.create_database("sagas"))
        server.query("sagas", "SELECT txb.partition_make(1000, 8), txb.saga_partition_make(0, 1), txb.reply_topic_set('replies')")
        server.query("sagas", "SELECT txb.saga_deploy('trip', 1, %s, NULL, NULL, 'sagas', 'hal')", (json.dumps({"input": INPUT}),))
        env = {**os.environ, "TXB_TEST_DATABASE": server.uri("sagas")}
        done = subprocess.run([os.path.join(build_dir(), "tests", program), "--jobs", "1"], env=env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
    text = done.stdout.decode("utf-8", "replace")
    print(text)
    tested = re.search(r"Tested: (\d+) \| Passing: (\d+)", text)
    assert done.returncode == 0 and tested is not None and tested[1] == tested[2] and int(tested[1]) >= least
    assert not re.search("Sanitizer|runtime error:", text)
