"""`leash report`: makes one page of pictures and words from the files that runs leave.

::

    reading ─▸ run ─▸ spending, paces ─▸ diagnosis ─▸ page ◄─ views (ps/page) ─▸ report.html
                  └─▸ curves, timeline, bars ─▸ drawing ─▸ report/*.png

Only curves, timeline, bars and drawing need matplotlib.

Imports: its analysis and pictures, options, page, runs.
"""
