"""The report of an evaluation: tables, charts, example images, and the HTML page with all of them.

`fpd evaluate` writes it; docs/report.md describes it.
"""
