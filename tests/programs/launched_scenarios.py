"""Play scenarios: every published file against what its images say, every refusal as documented.

    launched_scenarios.py --scenario SEED:NUMBER [--folder DIR]   one of them, with all that it says
    launched_scenarios.py --seed SEED FIRST COUNT                 some; the last line is JSON

Without a launcher each run is a process of its own, which may be killed, and its ranks are threads.
Under a launcher its ranks are all of the launch, or root alone where the scenario says one; there a
run that would be killed is asked to stop.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests: started as a script

from helpers.scenario import Scenario, draw
from helpers.scenario_runs import Launch, Launched, in_a_process
from helpers.scenario_world import World

from h5ingest.inspect.judge_process import keeping_judges
from h5ingest.mpi.world import world


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="scenario-") as folder:
        yield Path(folder)


def play(
    scenario: Scenario, launch: Launch, folder: Path, *, aloud: bool = False
) -> tuple[str, World]:
    """Play a scenario; return what is wrong, if anything."""
    played = World(scenario, folder, launch, aloud=aloud)
    try:
        played.play()
    except Exception as error:  # whatever is wrong: the next scenario is played nevertheless
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:1500]
        where = f"{Path(last.filename).name}:{last.lineno}"
        played.problems.append(f"{type(error).__name__} at {where}: {text}")
    return "; ".join(played.problems), played


def again(scenario: Scenario, ranks: int) -> str:
    """The command that plays a scenario again."""
    how = "python" if ranks == 1 else f"mpirun -n {ranks} python"
    return (
        f"{how} tests/programs/launched_scenarios.py --scenario {scenario.seed}:{scenario.number}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", help="SEED:NUMBER")
    parser.add_argument("--folder", type=Path, help="keeps the files there")
    parser.add_argument("--seed")
    parser.add_argument("numbers", type=int, nargs="*", help="FIRST COUNT")
    asked = parser.parse_args()
    comm = world()
    for module in ("imagecodecs._png", "kornia_rs", "PIL.Image"):  # once, not in each process
        importlib.import_module(module)
    launched = Launched(comm)
    if comm.rank:
        launched.serve()
        return
    launch: Launch = in_a_process if comm.size == 1 else launched
    if asked.scenario:
        seed, _, number = asked.scenario.partition(":")
        numbers = range(int(number), int(number) + 1)
    else:
        seed, (first, count) = asked.seed, asked.numbers
        numbers = range(first, first + count)
    problems, codes, n_mixed = [], Counter[int](), 0
    started_s = time.perf_counter()
    for number in numbers:
        scenario = draw(seed, number)
        if asked.scenario:
            print(scenario, flush=True)
        with _folder() as folder:
            if asked.folder:
                asked.folder.mkdir()
                folder = asked.folder.absolute()
            problem, played = play(scenario, launch, folder, aloud=bool(asked.scenario))
        codes.update(played.codes)
        n_mixed += played.n_mixed
        if problem:
            problems.append(f"{again(scenario, comm.size)}\n  {problem}\n  {scenario}")
            print(problems[-1], file=sys.stderr, flush=True)
    comm.bcast("the end")
    told = {
        "scenarios": len(numbers), "problems": problems, "codes": codes, "mixed": n_mixed,
        "seconds": time.perf_counter() - started_s,
    }  # fmt: skip
    print(json.dumps(told))
    sys.exit(bool(problems))


if __name__ == "__main__":
    with keeping_judges():
        main()
