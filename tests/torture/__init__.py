"""The torture bench: whatever happens to the pipeline, nothing is lost and nothing is false.

``python -m tests.torture --minutes 2`` attacks in every way that :mod:`tests.torture.kinds` knows, prints how often and
with what outcome, and for each failure the command that repeats it. Exit status 1 where there was any.

Every try is drawn from (seed, kind, number) alone. What a kind calls an outcome:

===========  ===========================================================================================================
right        the right value came out, the same hashes as without the attack
refused      an ``InputError`` of one line
quarantined  kept out by name, with a reason, and counted
skipped      the attack could not be made: the process was gone, nothing may be mounted here
FAILED       a traceback, a hang or a crash, something lost or wrong or false, a stranger in an output, an orphan
===========  ===========================================================================================================
"""
