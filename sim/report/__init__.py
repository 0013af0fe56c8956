"""A run, told: `terminal` to people, `record` to programs. Neither knows how it was run, only what came of it."""
