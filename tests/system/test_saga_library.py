"""An application in C that starts sagas and waits for them, on a whole installation."""

import os
import subprocess

from txbtest.program import build_dir

THREADS = 32


def test_thirty_two_threads_get_the_end_of_their_own_sagas(travel):
    name = travel.deployed("asked", output={"echo": "{steps.flight.output.echo}"})
    env = {**os.environ, "TXB_TEST_DATABASE": travel.postgres.uri(travel.agency, "txbtest_app")}
    program = [os.path.join(build_dir(), "tests", "saga_waits"), name, str(THREADS)]
    for _ in range(2):  # the second time they are the same sagas, by their keys
        done = subprocess.run(program, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
        text = done.stdout.decode("utf-8", "replace")
        assert done.returncode == 0 and text == f"{THREADS} waited\n", text
    assert travel.query("SELECT count(*) FROM txb.saga WHERE name = 'asked'") == [(THREADS,)]
    assert travel.query("SELECT e.state, count(*) FROM txb.saga AS s JOIN txb.saga_end AS e ON e.saga_id = s.id WHERE s.name = 'asked' GROUP BY 1 ORDER BY 1") == [
        ("compensated", THREADS // 4), ("completed", THREADS - THREADS // 4)]
    travel.check()
