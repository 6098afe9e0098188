"""One request of the engine: which of the steps that a run asks for start in it, how they are saved, and what ends it.

The `driver` answers; `scheduling` decides which steps start, `execution` runs them, `checkpoint` saves them (over
`_http`), `request_end` ends the request. A `step_request` is what a seam asks for, under ids of `step_ids`; `asked` is
what the parts hand each other, `bodies` is code that runs in no step. `resources`, `rewind`, `thread_loop` and
`process_end` see to what a request must not leave behind: open connections, changed arguments, its event loop, and what
is under way when its process ends.
"""
