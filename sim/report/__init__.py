"""A run, told. None of this knows how it was run, only what came of it and what was heard.

`terminal` tells it to people while it goes, `record` to programs that read ``--json``. The rest is ``--report DIR``::

    recorder    listens while the run goes
    tales       reads what the nodes themselves told
    passages    what passed between ranks and the store, of a run in virtual time
    timeline    makes spans, marks and lines of all that: values, which the writers below share
    document    the timeline as plain data: report.json
    page        the document, and the program that shows it: report.html
    chrome      the timeline for Perfetto: trace.json
    junit       the checks for continuous integration: junit.xml
    failures    what went wrong, in words
    folder      does all that, and knows the names of the files
    again       the command line that runs the same thing again
"""
