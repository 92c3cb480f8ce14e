"""The Grafana dashboard: `python -m deploy.monitoring.dashboard` writes dashboard.json anew.

panels.py and door_panels.py say what it shows; Grafana's own library makes the JSON of it.
"""

from __future__ import annotations

import json
import string
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    VariableOption,
    VariableRefresh,
)

from deploy.monitoring.panel import Panel, Query
from deploy.monitoring.panels import ROWS

FILE = Path(__file__).with_name("dashboard.json")
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8
STAT_HEIGHT = 4


def dashboard_json() -> str:
    """The whole dashboard as Grafana imports it."""
    board = (
        build.Dashboard("deltafleet")
        .uid("deltafleet")
        .description("Money, latency, traffic and workers of a deltafleet.")
        .tags(["deltafleet"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            build.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
        .with_variable(_choice("model", "deltafleet_cost_usd_total"))
        .with_variable(_choice("worker", "deltafleet_worker_up"))
    )
    numbers = count(1)
    for title, panels in ROWS.items():
        board.with_row(build.Row(title).id(next(numbers)))
        for panel in panels:
            made = _stat(panel) if panel.is_stat else _series(panel)
            board.with_panel(made.id(next(numbers)))
    return json.dumps(board.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _choice(label: str, metric: str) -> build.QueryVariable:
    everything = VariableOption(text="All", value="$__all")
    return (
        build.QueryVariable(label)
        .label(label.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({metric}, {label})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(everything)
    )


def _stat(panel: Panel) -> stat.Panel:
    made = stat.Panel().title(panel.title).description(panel.text).unit(panel.unit)
    made.datasource(SOURCE).span(panel.width).height(STAT_HEIGHT)
    for letter, query in zip(string.ascii_uppercase, panel.queries, strict=False):
        made.with_target(_target(query, letter))
    return made


def _series(panel: Panel) -> timeseries.Panel:
    made = timeseries.Panel().title(panel.title).description(panel.text).unit(panel.unit)
    made.datasource(SOURCE).span(panel.width).height(HEIGHT).fill_opacity(10)
    made.legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    if panel.is_stacked:
        made.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for letter, query in zip(string.ascii_uppercase, panel.queries, strict=False):
        made.with_target(_target(query, letter).exemplar(panel.with_exemplars))
    return made


def _target(query: Query, letter: str) -> Dataquery:
    target = Dataquery().expr(query.expression).legend_format(query.legend)
    return target.datasource(SOURCE).ref_id(letter)


if __name__ == "__main__":
    FILE.write_text(dashboard_json())
