"""The loop every app shares, and what surrounds it.

`loop` drives a pure step function; `runner` puts that function on one device or several; `workdir`
and `checkpoint` make a run stoppable and resumable; `writers` and `progress` show what happens;
`seeds` names random keys; `learner` makes the update of a loss, `repeated` one call of several
updates; `config` checks a configuration before any work starts.
"""
