"""Rendering only: tables, JSON, CSV, plots and HTML of the result records of the rooms below."""
