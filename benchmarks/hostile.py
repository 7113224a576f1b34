"""How much of the hostile corpus is held: `held / all`, and which cases are not.

    python benchmarks/hostile.py [THEME...]

Runs every case under fixtures/hostile/ (or those of the named themes) against a service of its own on real clusters,
as tests/test_hostile.py does, and looks at all canaries after each. Exit status 1 when a case was not held.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hostile_arena import arena
from hostile_cases import faults, run, themes


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("themes", nargs="*", metavar="THEME", help="files under fixtures/hostile/, without .yaml")
    wanted = parser.parse_args().themes
    begin = time.monotonic()
    lost: list[str] = []
    total = 0
    with arena() as ground:
        for theme, cases in themes().items():
            for case in cases if not wanted or theme in wanted else ():
                total += 1
                wrong = [*faults(case, run(ground, case), ground)]
                harm = ground.harm(deep=True)
                if harm:
                    ground.remember()  # the next case starts from what is there now
                if wrong or harm:
                    lost.append(f"{theme}: {case.id}: {'; '.join([*wrong, *harm])}")
    print(f"{total - len(lost)} / {total} held in {time.monotonic() - begin:.0f} s")
    for line in lost:
        print(line[:500])
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
