"""A job that copies a topic of commands, in the worker that also serves them: a copy is no command, and what is no copy stays one."""

from txbtest import process
from txbtest.program import command
from txbtest.verify import read_topic

BACKLOG = 1000


def test_commands_beside_a_job_that_copies_them_are_served_and_answered(travels):
    travel = travels(group={"batch_messages": 10})
    travel.deployed("trip", [travel.step("flight")])
    travel.relay()
    coordinator, flight = travel.worker("sagas"), travel.worker("flight")
    first = travel.begin(BACKLOG)
    travel.wait_ended(first)
    assert flight.stop() == 0, flight.text()
    travel.wants = {saga: ["flight"] for saga in first}
    # Both wait when the worker comes: batches of its partitions are made while one of the job's is under way.
    later = travel.begin(BACKLOG)
    travel.wants.update({saga: ["flight"] for saga in later})
    process.wait_for(lambda: sum(end for _, end in travel.kafka.ends(travel.topics["flight"]).values()) == 2 * BACKLOG, travel.logs_text, 60, alive=coordinator.alive)
    archive = travel.kafka.create_topic(f"{travel.name}.archive", 1)
    code, _, err = command("--config", travel.config("job"), "--database", travel.postgres.uri(travel.databases["flight"]),
                           "replay", "start", "--group", f"{travel.name}.flight", "--kafka", "--to-topic", archive, "--yes")
    assert code == 0, err
    travel.worker("flight")
    travel.wait_ended(later)

    def state():
        return travel.postgres.value(travel.databases["flight"], "SELECT state FROM txb.job")

    process.wait_for(lambda: state() == "done" and travel.published(travel.databases["flight"]), lambda: f"the job: {state()}\n{travel.logs_text()}", 60, alive=travel.alive)
    assert travel.states() == {"completed": 2 * BACKLOG}
    assert len({record.id for record in read_topic(travel.kafka.brokers, archive)}) == 2 * BACKLOG
    assert travel.postgres.value(travel.databases["flight"], "SELECT count(*) FROM txb.barrier") == 2 * BACKLOG  # by commands, never by copies
    travel.check()
