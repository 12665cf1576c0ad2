"""What people look at: tables, plots, and the folder a run leaves."""

from __future__ import annotations

from ggdjax.report._comparison import compare_schemes
from ggdjax.report._cost import cost_record, plot_front, plot_pareto
from ggdjax.report._distortion import plot_distortion, plot_losses
from ggdjax.report._page import html_page
from ggdjax.report._plots import plot_feature_map
from ggdjax.report._record import environment, feature_map_rows, result_record, weight_rows
from ggdjax.report._run_folder import SavedRun, load_run, write_run
from ggdjax.report._sensitivity import plot_sensitivity
from ggdjax.report._several import comparison_page
from ggdjax.report._tables import accuracy_lines, feature_map_table, layer_table, sensitivity_table, weight_table
from ggdjax.report._trajectory import plot_trajectory

__all__ = [
    "SavedRun",
    "accuracy_lines",
    "compare_schemes",
    "comparison_page",
    "cost_record",
    "environment",
    "feature_map_rows",
    "feature_map_table",
    "html_page",
    "layer_table",
    "load_run",
    "plot_distortion",
    "plot_feature_map",
    "plot_front",
    "plot_losses",
    "plot_pareto",
    "plot_sensitivity",
    "plot_trajectory",
    "result_record",
    "sensitivity_table",
    "weight_rows",
    "weight_table",
    "write_run",
]
