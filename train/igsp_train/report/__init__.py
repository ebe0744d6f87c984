"""One page about a model: what it learned, how well, with what, and what it cost."""

from igsp_train.report.make import make_report

__all__ = ["make_report"]
