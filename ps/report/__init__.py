"""`leash report`: makes one page of pictures and words from the files that runs leave.

::

    reading ─▸ run ─▸ spending, paces ─▸ diagnosis ─────────────┐
                  └─▸ curves, timeline, bars ─▸ drawing ─▸ page ◄┘ ─▸ report.html, report/*.png

Only curves, timeline, bars, drawing and page need matplotlib.

Imports: its analysis and pictures, options, runs.
"""
