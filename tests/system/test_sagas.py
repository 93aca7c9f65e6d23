"""Sagas on real servers: they complete, are refused and compensated, and nothing is left over."""

import itertools
import json

import pytest
from txbtest.travel import Travel

NAMES = itertools.count()


@pytest.fixture
def travel(postgres, kafka, seed):
    made = Travel(postgres, kafka, f"t{next(NAMES)}", seed)
    yield made
    made.close()


def test_a_trip_is_booked_and_tells_what_it_booked(travel):
    travel.start("run")
    code, _, err = travel.deploy(travel.definition())
    assert code == 0, err
    code, result, err = travel.saga("start", "trip", "--input", '{"amount": 5}', "--wait", "40s")
    assert code == 0, (result, err)
    assert result["state"] == "completed" and set(result["output"]) == {"flight", "hotel", "payment"}
    travel.check()


def test_a_refusal_undoes_what_took_effect_and_says_why(travel):
    travel.start("run")
    travel.deploy(travel.definition())
    code, result, _ = travel.saga("start", "trip", "--input", '{"amount": 5, "refuse": "payment"}', "--wait", "40s")
    assert code == 1 and result["state"] == "compensated" and result["reason"] == "payment: no payment is left"
    assert travel.bookings() == {}
    travel.check()


def test_many_end_with_all_bookings_or_none(travel):
    travel.start("run")
    travel.deploy(travel.definition())
    refusals = {n: ("flight", "hotel", "payment")[n // 5 % 3] for n in range(0, 1000, 5)}
    travel.begin(1000, lambda n: {"amount": 1 + n % 7, **({"refuse": refusals[n]} if n in refusals else {})})
    travel.wait_ended()
    assert travel.states() == {"completed": 800, "compensated": 200}
    travel.check()
