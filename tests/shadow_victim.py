"""A process that `test_shadow_kill.py` starts and kills: `python shadow_victim.py HOME STAGE [DSN]`.

It prints `ready` when it stands at the stage, and waits.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from optimizer.index_ddl import parse_index_ddl
from optimizer.services import Services
from optimizer.settings import Settings
from optimizer.shadow.whatif import hypothetical


def wait_to_be_killed() -> None:
    """Tell the test, and stand still."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    time.sleep(120)


def main(home: str, stage: str, dsn: str = "") -> None:
    """Go to the stage."""
    services = Services.open(Settings(home=Path(home), cluster_linger_s=5))
    if stage in ("clone", "refresh"):

        def progress(step: str, done: float) -> None:
            if done > 0.8:
                wait_to_be_killed()

        if stage == "clone":
            services.add_hollow("victim", dsn, progress)
        services.refresh("prod", progress)
        return
    shadow = services.shadow("prod")
    with shadow.session() as session:
        candidate = parse_index_ddl("CREATE INDEX ON orders (total)", shadow.catalog())
        if stage == "swap":
            hypothetical.swap_in = lambda *_: wait_to_be_killed()
        made = session.create([candidate])
        session.explain("SELECT * FROM orders WHERE total > 990", using=made.values())
        wait_to_be_killed()


if __name__ == "__main__":
    main(*sys.argv[1:])
