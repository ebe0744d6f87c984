"""The benchmark MTIL (ZSCL, ICCV 2023): eleven public data sets, 1,201 classes, learned one after another."""

from igsp_train.research.mtil.facts import ORDERS, SETS, BenchmarkSet

__all__ = ["ORDERS", "SETS", "BenchmarkSet"]
