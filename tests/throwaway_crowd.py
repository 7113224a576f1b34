"""A process that `test_endurance.py` starts: `python throwaway_crowd.py HOME THREADS REQUESTS SCHEMAS SEED`.

Its threads plan on throw-away schemas that they choose at random. It prints one line for each error, and `done`.
"""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path

from optimizer import services as services_module
from optimizer.services import Services
from optimizer.settings import Settings

#: Kept schemas, so few that every request makes some process drop another's.
KEPT = 4


def main(home: str, threads: int, requests: int, schemas: int, seed: int) -> None:
    """Work with all threads at once."""
    services_module.MAX_THROWAWAYS = KEPT
    errors: list[str] = []
    with Services.open(Settings(home=Path(home), cluster_linger_s=5)) as services:

        def work(number: int) -> None:
            chance = random.Random(f"{seed} {number}")
            for _ in range(requests):
                which = chance.randrange(schemas)
                try:
                    with services.using_throwaway(f"CREATE TABLE t{which} (id integer PRIMARY KEY)") as shadow:
                        assert ("public", f"t{which}") in shadow.catalog().tables
                        with shadow.session() as session:
                            session.explain(f"SELECT * FROM t{which} WHERE id = 1")
                        assert f"t{which}" in shadow.ddl()
                except Exception as error:  # noqa: BLE001 - whatever it is, the test is to see it
                    errors.append(f"{type(error).__name__}: {error}")

        crowd = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
    sys.stdout.write("".join(f"{' '.join(error.split())}\n" for error in errors) + "done\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
