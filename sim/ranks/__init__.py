"""Tests that run as several processes that have met: what is behind ``@pytest.mark.ranks``. Linux only.

Four kinds of process, and what passes between them::

    pytest ── RunTest, EndRanks, FinishTest ──▶ zygote ── fork ──▶ ranks
      ▲  ◀── TestStarted, Exited, TestFinished ──┘                  │
      └────────────────────── Reported, RankDone ───────────────────┘
      keeper: the parent of the zygote. When pytest goes, in whatever way, it ends all of them.

The zygote is a second pytest of the same command line, in an interpreter of its own that has a single thread, whatever
pytest has. It collects a test's file when it is first asked for one, sets up what is wider than a function (session,
package, module, class), and forks: the ranks inherit that. Each of them then runs the item by pytest's own protocol,
with its own function-scoped fixtures, and writes its reports and its output to files of its own. So rewriting, capture,
skipping and all other plugins work in a rank as they do elsewhere.

Where things are::

    mark         what the mark says
    home         pytest's side: starts keeper and zygote, runs one test, ends what hangs
    course       a test that runs: what is heard and seen of it
    zygote       the process that forks the ranks
    member       one rank: the plugin in its process, and the fixtures
    fixtures     what a test may ask for there
    outcome      what became of each rank, as values, and in words
    messages     what passes between them
    verdict      the ranks' reports as those of one test
    measure      coverage in the ranks

Where a rank hangs, `sim.process.stacks` finds out.
"""
