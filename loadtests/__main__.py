"""The load tests' commands: run a scenario, compare two runs, measure all and write RESULTS.md."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import say
from gateway.identity.settings import is_private, own_api_key
from loadtests.access import Access
from loadtests.compare import compare, render_comparison
from loadtests.fleet import Door
from loadtests.report import make_report, read_report, write_report
from loadtests.results import RESULTS, render_results
from loadtests.running import Place, run_scenario
from loadtests.scenario import BadScenario, load_scenario, scenario_names

ROOT = Path("build/load")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 1 where a limit is broken, 2 where a run could not be made."""
    chosen = _parser().parse_args(arguments)
    try:
        code: int = chosen.command(chosen)
    except (BadScenario, RuntimeError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="run one scenario and write its report")
    run.add_argument("scenario", help=f"a file, or one of {', '.join(scenario_names())}")
    run.add_argument("--workers", type=int, default=0, help="locust workers; 0: one process")
    run.add_argument("--host", default="", help="host:port of gateways that run, commas between")
    run.add_argument("--metrics", default="", help="host:port of their metrics pages")
    run.add_argument("--tls-ca", type=Path, help="PEM of who signed their certificates")
    run.add_argument("--tls-name", help="in their certificates, if not the address")
    run.add_argument("--out", type=Path, help="directory of the report; default: build/load/...")
    run.set_defaults(command=_run)
    compared = commands.add_parser("compare", help="compare two reports")
    compared.add_argument("a", type=Path, help="report.json, or its directory: before")
    compared.add_argument("b", type=Path, help="after")
    compared.set_defaults(command=_compare)
    results = commands.add_parser("results", help="run all scenarios and write RESULTS.md")
    results.add_argument("--workers", type=int, default=0)
    results.add_argument("--of", type=Path, nargs="*", help="make it of these reports instead")
    results.set_defaults(command=_results)
    return parser


def _run(chosen: argparse.Namespace) -> int:
    doors = _doors(chosen.host, chosen.metrics)
    name = Path(chosen.scenario).stem
    directory = chosen.out or ROOT / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    place = Place(directory, chosen.workers, doors, _access(chosen, doors))
    report = _measure(chosen.scenario, place, chosen.host)
    return 0 if report["passed"] else 1


def _measure(name: str, place: Place, host: str = "") -> dict[str, Any]:
    scenario = load_scenario(name)
    place.directory.mkdir(parents=True, exist_ok=True)
    if any(place.directory.iterdir()):
        raise BadScenario(f"{place.directory}: another run's files are here")
    run = asyncio.run(run_scenario(scenario, place))
    if not run.records:
        raise RuntimeError(f"nothing was sent: see {place.directory}")
    stem = Path(name).stem
    report = make_report(stem, scenario, run, generators=place.generators, host=host)
    page = write_report(report, place.directory)
    sys.stdout.write((place.directory / "locust.log").read_text())
    for one in report["limits"]:
        verdict = "holds " if one["holds"] else "BROKEN"
        say(f"{verdict} {one['what']}: {one['measured']} (allowed: {one['allowed']})")
    say(f"{stem}: {'limits hold' if report['passed'] else 'LIMITS BROKEN'}; {page}")
    return report


def _access(chosen: argparse.Namespace, doors: tuple[Door, ...]) -> Access:
    ca: Path | None = chosen.tls_ca
    if ca is None and chosen.tls_name:
        raise BadScenario("--tls-name needs --tls-ca")
    if ca is None and own_api_key() and not all(is_private(door.address) for door in doors):
        say("the key is sent in plain text: --tls-ca")
    return Access(ca=ca and ca.resolve(), server_name=chosen.tls_name)


def _doors(host: str, metrics: str) -> tuple[Door, ...]:
    addresses = [one for one in host.split(",") if one]
    pages = [one for one in metrics.split(",") if one]
    pages += [""] * (len(addresses) - len(pages))
    return tuple(Door(*pair) for pair in zip(addresses, pages, strict=True))


def _compare(chosen: argparse.Namespace) -> int:
    before, after = read_report(chosen.a), read_report(chosen.b)
    sys.stdout.write(render_comparison(before, after, compare(before, after)))
    return 0


def _results(chosen: argparse.Namespace) -> int:
    if chosen.of:
        reports = [read_report(path) for path in chosen.of]
    else:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        reports = [
            _measure(name, Place(ROOT / f"{name}-{stamp}", chosen.workers))
            for name in scenario_names()
        ]
    RESULTS.write_text(render_results(reports), encoding="utf-8")
    say(f"wrote {RESULTS}")
    return 0 if all(report["passed"] for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
