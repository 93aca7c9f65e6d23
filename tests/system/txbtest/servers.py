"""`python3 -m txbtest.servers`: a private PostgreSQL and Kafka until standard input closes, for benchmarks and for trying things by hand.

Prints NAME=value lines that a shell can eval, then READY.
"""

import argparse
import signal
import sys

from txbtest.kafka import Kafka
from txbtest.postgres import Postgres


def main():
    parser = argparse.ArgumentParser(prog="python3 -m txbtest.servers", description=__doc__)
    parser.add_argument("--no-kafka", action="store_true", help="only PostgreSQL")
    parser.add_argument("--no-postgres", action="store_true", help="only Kafka")
    parser.add_argument("--pg", action="append", default=[], metavar="NAME=VALUE", help="a PostgreSQL setting")
    parser.add_argument("--kafka", action="append", default=[], metavar="NAME=VALUE", help="a Kafka broker setting")
    parser.add_argument("--database", action="append", default=[], metavar="NAME", help="a database to create")
    parser.add_argument("--topic", action="append", default=[], metavar="NAME[:PARTITIONS]", help="a topic to create")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    kafka = None if args.no_kafka else Kafka(dict(item.split("=", 1) for item in args.kafka), start=False).start(wait=False)
    postgres = None if args.no_postgres else Postgres(dict(item.split("=", 1) for item in args.pg))
    if postgres:
        for name in args.database:
            postgres.create_database(name)
        print(f"PGHOST={postgres.temp.path}\nPGPORT={postgres.port}\nPGUSER={postgres.superuser}\nPG_URI={postgres.uri('postgres')}")
        print(f"PG_PID={postgres.process.pid}\nPG_DATA={postgres.data}")
    if kafka:
        kafka.wait_ready()
        for name in args.topic:
            topic, _, partitions = name.partition(":")
            kafka.create_topic(topic, int(partitions or 1))
        print(f"KAFKA_BROKERS={kafka.brokers}\nKAFKA_PID={kafka.process.pid}")
    print("READY", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
