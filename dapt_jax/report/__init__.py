"""The report: one self-contained HTML page from the numbers of a run, and the numbers beside it.

`data.ReportData` holds what goes in, `page.build` writes the page; `findings` turns paired
comparisons into sentences; `results_plots`, `search_plots`, `gate_plots` and `latency_plots` draw;
`markdown` writes the tables as text; `methods` keeps one colour and one name per method; `drawing`
makes the SVG.
"""
